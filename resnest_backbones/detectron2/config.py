"""Config keys of the ResNeSt backbone, all under ``MODEL.RESNETS``."""

from __future__ import annotations

from detectron2.config import CfgNode

# The first five and their defaults are the original wrapper's (``resnest/d2/config.py``). That also turned off
# STRIDE_IN_1X1, for ResNet backbones too, whose MSRA weights need it on: here it is left alone, ResNeSt ignores it.
_DEFAULTS = {
    "DEEP_STEM": True,
    "AVD": True,
    "AVG_DOWN": True,
    "RADIX": 2,
    "BOTTLENECK_WIDTH": 64,
    # The average pool that downsamples stands before the 3x3 convolution (the 50-fast networks).
    "AVD_FIRST": False,
    # 2 together with RES5_DILATION 4 gives output stride 8; RES5_DILATION 2 alone gives 16.
    "RES4_DILATION": 1,
    # Probability of dropping the residual branch of the last block in training; grows linearly over the blocks.
    "DROP_PATH_RATE": 0.0,
    # Recompute each block in backward to save memory.
    "GRADIENT_CHECKPOINTING": False,
    # How the trunk computes, not what: channels-last memory; torch.compile, for images of any size.
    "CHANNELS_LAST": False,
    "COMPILE": False,
    "COMPILE_BACKEND": "inductor",
}


def add_resnest_config(cfg: CfgNode) -> None:
    """Add the ResNeSt keys with their defaults to a Detectron2 config, in place.

    Keys that are there already keep their values, so calling it twice, or after another package that defines some of
    them, changes nothing.
    """
    for key, default in _DEFAULTS.items():
        if key not in cfg.MODEL.RESNETS:
            setattr(cfg.MODEL.RESNETS, key, default)
