"""Trained models in other formats: ONNX, also in int8, TorchScript, ``torch.export`` and AOTInductor.

``models.py`` builds a model from a config, and defines with ``detectors.py`` and ``segmentors.py`` what part of it goes
into a file; ``formats.py`` writes and reads files; ``parity.py`` compares them with PyTorch; ``preprocess.py`` makes
inputs of images. The command lines are ``tools/export.py`` and ``tools/quantize.py``.
"""

from resnest_backbones.errors import ExportError
from resnest_backbones.export.formats import FORMATS, Loaded, load, save
from resnest_backbones.export.models import Exportable, export_backbone
from resnest_backbones.export.parity import Difference, check_parity

__all__ = [
    "FORMATS",
    "Difference",
    "ExportError",
    "Exportable",
    "Loaded",
    "check_parity",
    "export_backbone",
    "load",
    "save",
]
