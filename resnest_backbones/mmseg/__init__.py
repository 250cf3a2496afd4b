"""The plugin of the OpenMMLab frameworks. Importing it registers its modules and the ``resnest://`` weights.

In a config::

    custom_imports = dict(imports=["resnest_backbones.mmseg"])
    backbone = dict(type="ResNeStBackbone", name="resnest101", output_stride=8,
                    init_cfg=dict(type="Pretrained", checkpoint="resnest://resnest101"))

The backbone, the weights and the hook need MMEngine and MMCV only, so that MMDetection's and MMPretrain's configs can
have them; everything else is there where MMSegmentation is installed.
"""

from importlib.util import find_spec

from resnest_backbones.errors import require

for _package in ("mmengine", "mmcv"):
    require(_package, "mmseg")

from resnest_backbones.mmseg.amp import CPUAmpOptimWrapper
from resnest_backbones.mmseg.backbone import ResNeStBackbone
from resnest_backbones.mmseg.checkpoint import ResNeStCheckpointHook, load_segmentor, use_safe_loading

__all__ = ["CPUAmpOptimWrapper", "ResNeStBackbone", "ResNeStCheckpointHook", "load_segmentor", "use_safe_loading"]

if find_spec("mmseg") is not None:
    from resnest_backbones.mmseg.datasets import LabelMapDataset
    from resnest_backbones.mmseg.engine.resumable import make_resumable
    from resnest_backbones.mmseg.evaluation import PaperTTAModel
    from resnest_backbones.mmseg.heads import PaperASPPHead, PaperFCNHead
    from resnest_backbones.mmseg.preprocessor import ResNeStDataPreProcessor
    from resnest_backbones.mmseg.transforms import LoadCheckedAnnotations

    __all__ += [
        "LabelMapDataset",
        "LoadCheckedAnnotations",
        "PaperASPPHead",
        "PaperFCNHead",
        "PaperTTAModel",
        "ResNeStDataPreProcessor",
        "make_resumable",
    ]
