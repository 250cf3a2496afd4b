"""The Detectron2 plugin. Importing it registers the backbones, the heads and the ``resnest://`` weights.

import resnest_backbones.detectron2
from resnest_backbones.detectron2 import add_resnest_config
cfg = get_cfg(); add_resnest_config(cfg)
"""

from resnest_backbones.errors import require

require("detectron2", "detectron2")

from resnest_backbones.detectron2.backbone import ResNeSt
from resnest_backbones.detectron2.builders import (
    build_resnest_backbone,
    build_resnest_fpn_backbone,
    build_retinanet_resnest_fpn_backbone,
)
from resnest_backbones.detectron2.checkpoint import ResNeStCheckpointer, register_weights_handler
from resnest_backbones.detectron2.config import add_resnest_config, use_resnest
from resnest_backbones.detectron2.roi_heads import MMDetCascadeROIHeads, ResNeStRes5ROIHeads, make_res5

register_weights_handler()

__all__ = [
    "MMDetCascadeROIHeads",
    "ResNeSt",
    "ResNeStCheckpointer",
    "ResNeStRes5ROIHeads",
    "add_resnest_config",
    "build_resnest_backbone",
    "build_resnest_fpn_backbone",
    "build_retinanet_resnest_fpn_backbone",
    "make_res5",
    "use_resnest",
]
