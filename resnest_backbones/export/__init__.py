"""Trained models in other formats: ONNX, also in int8, TorchScript, ``torch.export`` and AOTInductor.

``backbone.py``, ``detectors.py`` and ``segmentors.py`` define what part of a model goes into a file; ``formats.py``
writes and reads files; ``parity.py`` compares them with PyTorch; ``models.py`` builds a model from a config;
``preprocess.py`` makes inputs of images. The command lines are ``tools/export.py`` and ``tools/quantize.py``.
"""

from resnest_backbones.errors import ExportError
from resnest_backbones.export.backbone import export_backbone
from resnest_backbones.export.exportable import Exportable
from resnest_backbones.export.formats import FORMATS, Loaded, load, save
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
