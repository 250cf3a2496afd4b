"""Config keys of the ResNeSt backbone and of ``MMDetCascadeROIHeads``, and a ResNeSt in the place of a ResNet."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from detectron2.config import CfgNode
from detectron2.config import LazyCall as L

from resnest_backbones.detectron2.backbone import STAGES_IN_ORDER, ResNeSt
from resnest_backbones.detectron2.builders import has_plain_res5
from resnest_backbones.detectron2.roi_heads import make_res5
from resnest_backbones.errors import ConfigError as ConfigError  # this was its place
from resnest_backbones.models.variants import get_variant
from resnest_backbones.weights import DETECTOR_PIXELS, SCHEME, WEIGHTS

logger = logging.getLogger(__name__)

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
    # Factors on the dilation of the blocks of res5, the first one's too; none for the original's rule. The name is that
    # of Detectron2's DeepLab.
    "RES5_MULTI_GRID": [],
    # Keep the 3x3 average pool of dilated stages, as the original does; MMSegmentation's ResNeSt leaves it out.
    "AVG_POOL_AT_STRIDE_1": True,
    # Probability of dropping the residual branch of the last block in training; grows linearly over the blocks.
    "DROP_PATH_RATE": 0.0,
    # Probability of dropping a value of res4 and res5 in training, in blocks of 3x3 pixels (DropBlock).
    "DROP_BLOCK_RATE": 0.0,
    # Recompute each block in backward to save memory.
    "GRADIENT_CHECKPOINTING": False,
    # Compute norms, ReLUs and attention again in backward: None wherever it can be done, or True or False.
    "RECOMPUTE": None,
    # How the trunk computes, not what: channels-last memory; torch.compile, for images of any size.
    "CHANNELS_LAST": False,
    "COMPILE": False,
    "COMPILE_BACKEND": "inductor",
}
# Names of the classes, in order: a training writes them into its ``config.yaml``.
_DATASETS: dict[str, Any] = {"CLASSES": []}
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
    nodes = (cfg.MODEL.RESNETS, cfg.MODEL.ROI_BOX_CASCADE_HEAD, cfg.DATASETS)
    for node, defaults in zip(nodes, (_BACKBONE, _CASCADE, _DATASETS), strict=True):
        for key, default in defaults.items():
            if key not in node:
                node[key] = deepcopy(default)


_BUILDERS = {
    "fpn": "build_resnest_fpn_backbone",
    "retinanet": "build_retinanet_resnest_fpn_backbone",
    "c4": "build_resnest_backbone",
    "dc5": "build_resnest_backbone",
}


def use_resnest(cfg: CfgNode | Mapping[str, Any], name: str, *, head: str | None = None) -> None:
    """Put a ResNeSt in the place of a config's ResNet, with what belongs to it, in place.

    That is the backbone, mean, standard deviation and channel order of the images, and ImageNet weights. Norms, frozen
    stages and features stay as the config has them.

    Args:
        cfg: a YAML config, in which it also adds the keys of ``add_resnest_config``; or a LazyConfig, or in the file of
            one ``dict(model=model, dataloader=dataloader, train=train)``.
        name: one of ``list_variants()``.
        head: what a YAML config has on the backbone: ``fpn``, ``retinanet``, ``c4`` or ``dc5``. Where None it follows
            from the builder that Detectron2's own configs have.

    Raises:
        ConfigError: the config's backbone is no ResNet of Detectron2's.
        ValueError: the name is of no network.
    """
    get_variant(name)
    weights = f"{SCHEME}{name}" if name in WEIGHTS else ""
    if not weights:
        logger.warning("%s has no published weights: it starts from random weights", name)
    if isinstance(cfg, CfgNode):
        _use_in_yaml(cfg, name, weights, head)
    else:
        _use_in_lazy(cfg, name, weights)


def _use_in_yaml(cfg: CfgNode, name: str, weights: str, head: str | None) -> None:
    add_resnest_config(cfg)
    model, spec = cfg.MODEL, get_variant(name)
    if head is None:
        builder = model.BACKBONE.NAME.replace("resnet", "resnest").replace("_deeplab", "")
        heads = [head for head, own in _BUILDERS.items() if own == builder and (head != "c4" or has_plain_res5(cfg))]
        head = heads[0] if heads else None
    if head not in _BUILDERS:
        raise ConfigError(
            f"head must be one of {', '.join(_BUILDERS)} if MODEL.BACKBONE.NAME is not one of Detectron2's own, got "
            f"{head} with {model.BACKBONE.NAME}"
        )
    model.BACKBONE.NAME = _BUILDERS[head]
    if head == "c4":
        model.ROI_HEADS.NAME = "ResNeStRes5ROIHeads"
    model.RESNETS.DEPTH = int(re.findall(r"\d+", name)[0])
    model.RESNETS.RADIX, model.RESNETS.NUM_GROUPS = spec.radix, spec.cardinality
    model.RESNETS.WIDTH_PER_GROUP, model.RESNETS.BOTTLENECK_WIDTH = 64, spec.bottleneck_width
    model.RESNETS.AVD_FIRST, model.RESNETS.RES2_OUT_CHANNELS = spec.avd_first, 256
    model.PIXEL_MEAN, model.PIXEL_STD = list(DETECTOR_PIXELS.mean), list(DETECTOR_PIXELS.std)
    cfg.INPUT.FORMAT = DETECTOR_PIXELS.channel_order
    model.WEIGHTS = weights


def _use_in_lazy(cfg: Mapping[str, Any], name: str, weights: str) -> None:
    model = cfg["model"]
    backbone = model.get("backbone") or {}
    parent, key = (backbone, "bottom_up") if "bottom_up" in backbone else (model, "backbone")
    old = parent.get(key) or {}
    features = list(old.get("out_features") or ())
    if not features or not {*features} <= {*STAGES_IN_ORDER}:
        raise ConfigError(
            "model.backbone must be a ResNet, or have one as bottom_up, with out_features from "
            f"{', '.join(STAGES_IN_ORDER)}, got {', '.join(features) or 'none'}"
        )
    norm = old.get("stages", old).get("norm", "BN")
    parent[key] = L(ResNeSt)(spec=name, norm=norm, freeze_at=old.get("freeze_at", 0), out_features=features)
    if "res5" in model.get("roi_heads", {}):
        model.roi_heads.res5 = L(make_res5)(spec=name, norm=norm, out_channels=2048)
    pixels = {"pixel_mean": DETECTOR_PIXELS.mean, "pixel_std": DETECTOR_PIXELS.std}
    model.update({key: list(value) for key, value in pixels.items()})
    formats = [(model, "input_format")]
    formats += [(loader.mapper, key) for loader in (cfg.get("dataloader") or {}).values() if "mapper" in loader
                for key in ("image_format", "img_format")]  # Detectron2's and detrex's  # fmt: skip
    for node, key in formats:
        if key in node:
            node[key] = DETECTOR_PIXELS.channel_order
    if "train" in cfg:
        cfg["train"].init_checkpoint = weights
