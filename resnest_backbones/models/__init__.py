"""The networks in plain PyTorch: the trunk, its split attention, and one spec per published variant."""

from resnest_backbones.models.blocks import Bottleneck, DeepStem, Stage
from resnest_backbones.models.resnest import FeatureInfo, ResNeSt
from resnest_backbones.models.split_attention import SplitAttentionConv2d
from resnest_backbones.models.variants import VARIANTS, ResNeStSpec, get_variant, list_variants

__all__ = [
    "VARIANTS",
    "Bottleneck",
    "DeepStem",
    "FeatureInfo",
    "ResNeSt",
    "ResNeStSpec",
    "SplitAttentionConv2d",
    "Stage",
    "get_variant",
    "list_variants",
]
