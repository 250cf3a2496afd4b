"""The networks in plain PyTorch: the trunk, its split attention, and one spec per published variant."""

from resnest_backbones.models.resnest import Bottleneck, DeepStem, ResNeSt, build
from resnest_backbones.models.split_attention import SplitAttentionConv2d
from resnest_backbones.models.variants import VARIANTS, ResNeStSpec, get_variant, list_variants

__all__ = [
    "VARIANTS",
    "Bottleneck",
    "DeepStem",
    "ResNeSt",
    "ResNeStSpec",
    "SplitAttentionConv2d",
    "build",
    "get_variant",
    "list_variants",
]
