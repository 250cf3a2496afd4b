"""R-CNNs without a pyramid: the trunk ends with res4, and res5 computes the features of each proposal (C4)."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch import nn

from resnest_backbones.detectron2.backbone import ResNeSt, register
from resnest_backbones.detectron2.builders import build_trunk
from resnest_backbones.models.arguments import check_choice
from resnest_backbones.models.variants import ResNeStSpec


@register(ROI_HEADS_REGISTRY)
class ResNeStRes5ROIHeads(Res5ROIHeads):
    """Detectron2's ``Res5ROIHeads`` with the res5 of the config's ResNeSt, which the box and the mask head share."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Module, int]:
        trunk = build_trunk(cfg, ShapeSpec(channels=3), ["res5"])
        return trunk.get_submodule("res5"), trunk.out_channels


def make_res5(spec: ResNeStSpec | str, *, norm: str = "BN", out_channels: int = 2048) -> nn.Module:
    """Make the ``res5`` of ``Res5ROIHeads`` in a LazyConfig: (N, 1024, H, W) -> (N, 2048, H / 2, W / 2).

    Args:
        spec: as in ``ResNeSt``.
        norm: as in ``ResNeSt``.
        out_channels: 2048, which Detectron2's ``mask_rcnn_c4.py`` refers to.
    """
    check_choice("out_channels", out_channels, (2048,))
    return ResNeSt(spec, norm=norm, out_features=("res5",)).get_submodule("res5")
