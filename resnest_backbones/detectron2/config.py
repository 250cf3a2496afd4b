"""Config keys of the ResNeSt backbone, under ``MODEL.RESNETS``, and of ``MMDetCascadeROIHeads``."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from detectron2.config import CfgNode

from resnest_backbones.errors import ConfigError as ConfigError  # this was its place

# The first five and their defaults are the original wrapper's (``resnest/d2/config.py``). That also turned off
# STRIDE_IN_1X1, for ResNet backbones too, whose MSRA weights need it on: here it is left alone, ResNeSt ignores it.
_BACKBONE: dict[str, Any] = {
    "DEEP_STEM": True,
    "AVD": True,
    "AVG_DOWN": True,
    "RADIX": 2,
    "BOTTLENECK_WIDTH": 64,
    # The average pool that downsamples stands before the 3x3 convolution (the 50-fast networks).
    "AVD_FIRST": False,
    # 2 together with RES5_DILATION 4 gives output stride 8; RES5_DILATION 2 alone gives 16.
    "RES4_DILATION": 1,
    # Keep the 3x3 average pool of dilated stages, as the original does; MMSegmentation's ResNeSt leaves it out.
    "AVG_POOL_AT_STRIDE_1": True,
    # Probability of dropping the residual branch of the last block in training; grows linearly over the blocks.
    "DROP_PATH_RATE": 0.0,
    # Recompute each block in backward to save memory.
    "GRADIENT_CHECKPOINTING": False,
    # Compute norms, ReLUs and attention again in backward: None wherever it can be done, or True or False.
    "RECOMPUTE": None,
    # How the trunk computes, not what: channels-last memory; torch.compile, for images of any size.
    "CHANNELS_LAST": False,
    "COMPILE": False,
    "COMPILE_BACKEND": "inductor",
}
# What only MMDetCascadeROIHeads reads, as MMDetection's Cascade R-CNNs have it.
_CASCADE: dict[str, Any] = {
    # What of the stages is averaged at test: logits or probabilities of the classes.
    "AVERAGE": "logits",
    # Of the losses of each stage.
    "LOSS_WEIGHTS": [1.0, 0.5, 0.25],
    # A mask head for each stage, trained on its proposals; at test their probabilities are averaged.
    "MASK_HEAD_PER_STAGE": True,
}


def add_resnest_config(cfg: CfgNode) -> None:
    """Add the ResNeSt keys with their defaults to a Detectron2 config, in place.

    Keys that are there already keep their values, so calling it twice, or after another package that defines some of
    them, changes nothing.
    """
    for node, defaults in ((cfg.MODEL.RESNETS, _BACKBONE), (cfg.MODEL.ROI_BOX_CASCADE_HEAD, _CASCADE)):
        for key, default in defaults.items():
            if key not in node:
                node[key] = deepcopy(default)
