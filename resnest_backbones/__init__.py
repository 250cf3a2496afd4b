"""ResNeSt backbones: the trunk in plain PyTorch. Importing this package imports no detection framework."""

from resnest_backbones import checkpoint, model_zoo, weights
from resnest_backbones.acceleration.inference import optimize_for_inference
from resnest_backbones.checkpoint import convert_state_dict, load_checkpoint
from resnest_backbones.models.resnest import Bottleneck, DeepStem, ResNeSt, build
from resnest_backbones.models.split_attention import SplitAttentionConv2d
from resnest_backbones.models.variants import VARIANTS, ResNeStSpec, get_variant, list_variants

__version__ = "0.1.0"

__all__ = [
    "VARIANTS",
    "Bottleneck",
    "DeepStem",
    "ResNeSt",
    "ResNeStSpec",
    "SplitAttentionConv2d",
    "build",
    "checkpoint",
    "convert_state_dict",
    "get_variant",
    "list_variants",
    "load_checkpoint",
    "model_zoo",
    "optimize_for_inference",
    "weights",
]
