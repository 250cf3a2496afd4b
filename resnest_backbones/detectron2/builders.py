"""Backbones from Detectron2's YAML configs: the trunk alone, below an FPN, and as RetinaNet needs it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from resnest_backbones.detectron2.backbone import NORMS, STAGES_IN_ORDER, ResNeSt, register
from resnest_backbones.errors import ConfigError
from resnest_backbones.models.arguments import FEATURES, STAGES, check_choice, check_positive
from resnest_backbones.models.variants import VARIANTS, ResNeStSpec, get_variant
from resnest_backbones.weights import SCHEME

logger = logging.getLogger(__name__)

_DEPTHS = tuple(int(name.removeprefix("resnest")) for name in VARIANTS if name.removeprefix("resnest").isdigit())
_OUTPUT_STRIDES = {(1, 1): 32, (1, 2): 16, (2, 4): 8}  # by the dilations of res4 and res5
_DETECTORS = ("GeneralizedRCNN", "PanopticFPN", "ProposalNetwork", "RetinaNet")
_KEYS = {
    "radix": "MODEL.RESNETS.RADIX",
    "cardinality": "MODEL.RESNETS.NUM_GROUPS",
    "out_features": "MODEL.RESNETS.OUT_FEATURES",
    "norm": "MODEL.RESNETS.NORM",
    "multi_grid": "MODEL.RESNETS.RES5_MULTI_GRID",
    "deform_groups": "MODEL.RESNETS.DEFORM_NUM_GROUPS",
    "drop_path_rate": "MODEL.RESNETS.DROP_PATH_RATE",
    "drop_block_rate": "MODEL.RESNETS.DROP_BLOCK_RATE",
    "compile": "MODEL.RESNETS.COMPILE",
    "freeze_at": "MODEL.BACKBONE.FREEZE_AT",
}


@register(BACKBONE_REGISTRY)
def build_resnest_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNeSt:
    """Build a ``ResNeSt`` from ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ConfigError: a key has a value that is not allowed, or the config's heads need another builder or another
            network's res5; the message names the key.
    """
    keys = cfg.MODEL
    # Else another project's builder calls this one, or its model reads other keys.
    if keys.BACKBONE.NAME == "build_resnest_backbone" and keys.META_ARCHITECTURE in _DETECTORS:
        _check_heads(cfg)
    return build_trunk(cfg, input_shape, keys.RESNETS.OUT_FEATURES)


def _check_heads(cfg: CfgNode) -> None:
    keys = cfg.MODEL
    is_retinanet = keys.META_ARCHITECTURE == "RetinaNet"
    wanted = keys.RETINANET.IN_FEATURES if is_retinanet else keys.RPN.IN_FEATURES
    if any(name not in STAGES_IN_ORDER for name in wanted):
        builder = "build_retinanet_resnest_fpn_backbone" if is_retinanet else "build_resnest_fpn_backbone"
        raise ConfigError(
            f"MODEL.BACKBONE.NAME must be {builder} if the heads use {', '.join(wanted)} of an FPN, got "
            "build_resnest_backbone"
        )
    # Detectron2's defaults are those of a C4 detector, also where somebody builds a trunk alone.
    is_used = keys.WEIGHTS or cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
    if has_plain_res5(cfg) and is_used and keys.RESNETS.OUT_FEATURES == keys.ROI_HEADS.IN_FEATURES == ["res4"]:
        raise ConfigError(
            "MODEL.ROI_HEADS.NAME must be ResNeStRes5ROIHeads with a ResNeSt, got Res5ROIHeads, which builds a "
            "ResNet's res5"
        )


def has_plain_res5(cfg: CfgNode) -> bool:
    """Return whether the config's heads, unless they get a pyramid, have the res5 of a ResNet."""
    return cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads"


def build_trunk(cfg: CfgNode, input_shape: ShapeSpec, out_features: Sequence[str]) -> ResNeSt:
    """Build a ``ResNeSt`` from a config, with other features.

    Raises:
        ConfigError: a key has a value that is not allowed; the message names it.
    """
    keys = cfg.MODEL.RESNETS
    with _errors_that_name_keys():
        if len(keys.DEFORM_ON_PER_STAGE) != 4:
            raise ValueError(f"MODEL.RESNETS.DEFORM_ON_PER_STAGE must have 4 values, got {keys.DEFORM_ON_PER_STAGE}")
        maps = FEATURES[:-1]  # all but the logits
        wrong = [name for name in keys.OUT_FEATURES if name not in maps]
        if wrong:
            raise ValueError(f"MODEL.RESNETS.OUT_FEATURES must be of {', '.join(maps)}, got {wrong[0]!r}")
        spec = _spec_from_config(cfg)
        dilations = (keys.RES4_DILATION, keys.RES5_DILATION)
        if dilations not in _OUTPUT_STRIDES:
            raise ValueError(
                "MODEL.RESNETS.RES4_DILATION and RES5_DILATION must be 1 and 1 (output stride 32), 1 and 2 (16) or "
                f"2 and 4 (8), got {dilations[0]} and {dilations[1]}"
            )
        return ResNeSt(
            spec,
            output_stride=_OUTPUT_STRIDES[dilations],
            avg_pool_at_stride_1=keys.AVG_POOL_AT_STRIDE_1,
            out_features=out_features,
            in_channels=input_shape.channels,
            norm=keys.NORM,
            multi_grid=(keys.RES5_MULTI_GRID or None) if "res5" in out_features else None,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            deform_stages=[s for s, on in zip(STAGES, keys.DEFORM_ON_PER_STAGE, strict=True) if on],
            deform_modulated=keys.DEFORM_MODULATED,
            deform_groups=keys.DEFORM_NUM_GROUPS,
            drop_path_rate=keys.DROP_PATH_RATE,
            drop_block_rate=keys.DROP_BLOCK_RATE,
            gradient_checkpointing=keys.GRADIENT_CHECKPOINTING,
            recompute="auto" if keys.RECOMPUTE is None else keys.RECOMPUTE,
            channels_last=keys.CHANNELS_LAST,
            compile=keys.COMPILE and keys.COMPILE_BACKEND,
        )


@contextmanager
def _errors_that_name_keys() -> Iterator[None]:
    """Let errors be ConfigErrors, and messages that begin with an argument's name begin with the key it came from."""
    try:
        yield
    except ValueError as error:
        argument, _, rest = str(error).partition(" ")
        raise ConfigError(f"{_KEYS.get(argument, argument)} {rest}") from error


def _spec_from_config(cfg: CfgNode) -> ResNeStSpec:
    keys = cfg.MODEL.RESNETS
    if "RADIX" not in keys:
        raise ValueError("MODEL.RESNETS.RADIX is missing: call resnest_backbones.detectron2.add_resnest_config(cfg)")
    if keys.DEPTH not in _DEPTHS:
        raise ValueError(f"MODEL.RESNETS.DEPTH must be one of {', '.join(map(str, _DEPTHS))}, got {keys.DEPTH}")
    if keys.RES2_OUT_CHANNELS != 256:
        raise ValueError(f"MODEL.RESNETS.RES2_OUT_CHANNELS must be 256, got {keys.RES2_OUT_CHANNELS}")
    for key in ("DEEP_STEM", "AVD", "AVG_DOWN"):
        # The original wrapper turns these on itself where RADIX is above 1.
        if not keys[key] and keys.RADIX <= 1:
            raise ValueError(f"MODEL.RESNETS.{key} must be True: every ResNeSt has it, got {keys[key]}")
    # Two spellings of the width of one group at the first stage: Detectron2's and the wrapper's, relative to 64.
    width = keys.WIDTH_PER_GROUP * keys.BOTTLENECK_WIDTH / 64
    if width < 1 or width != int(width):
        raise ValueError(
            "MODEL.RESNETS.WIDTH_PER_GROUP x BOTTLENECK_WIDTH / 64 must be a positive integer, got "
            f"{keys.WIDTH_PER_GROUP} x {keys.BOTTLENECK_WIDTH} / 64"
        )
    plain = get_variant(f"resnest{keys.DEPTH}")
    spec = ResNeStSpec(
        "custom", plain.depths, plain.stem_width, keys.RADIX, keys.NUM_GROUPS, int(width), keys.AVD_FIRST
    )
    for published in VARIANTS.values():
        if spec == replace(published, name="custom", params=None, multiply_adds=None):
            return published
    usual = {"RADIX": 2, "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64, "BOTTLENECK_WIDTH": 64, "AVD_FIRST": False}
    others = ", ".join(f"{key} {keys[key]}" for key, value in usual.items() if keys[key] != value)
    message = f"MODEL.RESNETS.DEPTH {keys.DEPTH} with {others} is not a published ResNeSt"
    if cfg.MODEL.WEIGHTS.startswith(SCHEME):
        usual_values = ", ".join(f"{key} {value}" for key, value in usual.items())
        raise ConfigError(f"{message}, and {cfg.MODEL.WEIGHTS} does not fit it; {plain.name} has {usual_values}")
    logger.warning("%s: no published weights fit it", message)
    return spec


@register(BACKBONE_REGISTRY)
def build_resnest_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNeSt with Detectron2's FPN: p2..p5 and a max-pooled p6, or fewer where ``FPN.IN_FEATURES`` has fewer.

    Raises:
        ConfigError: a key has a value that is not allowed, or the config is RetinaNet's; the message names the key.
    """
    bottom_up = _bottom_up(cfg, input_shape)
    top_block = LastLevelMaxPool()
    top_block.in_feature = f"p{int(math.log2(bottom_up.feature_strides[cfg.MODEL.FPN.IN_FEATURES[-1]]))}"
    backbone = _with_fpn(cfg, bottom_up, top_block)
    wanted = cfg.MODEL.RETINANET.IN_FEATURES
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" and not backbone.output_shape().keys() >= {*wanted}:
        raise ConfigError(
            f"MODEL.BACKBONE.NAME must be build_retinanet_resnest_fpn_backbone if RetinaNet uses {', '.join(wanted)}, "
            "got build_resnest_fpn_backbone"
        )
    return backbone


@register(BACKBONE_REGISTRY)
def build_retinanet_resnest_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNeSt with Detectron2's FPN as RetinaNet needs it: p3..p5, and p6 and p7 computed from res5.

    Raises:
        ConfigError: ``MODEL.RESNETS.OUT_FEATURES`` lacks res5, or another key has a value that is not allowed.
    """
    if "res5" not in cfg.MODEL.RESNETS.OUT_FEATURES:
        raise ConfigError(f"MODEL.RESNETS.OUT_FEATURES must include res5, got {list(cfg.MODEL.RESNETS.OUT_FEATURES)}")
    if cfg.MODEL.FPN.IN_FEATURES and cfg.MODEL.FPN.IN_FEATURES[-1] != "res5":
        raise ConfigError(f"MODEL.FPN.IN_FEATURES must end with res5, got {list(cfg.MODEL.FPN.IN_FEATURES)}")
    bottom_up = _bottom_up(cfg, input_shape)
    return _with_fpn(cfg, bottom_up, LastLevelP6P7(bottom_up.feature_channels["res5"], cfg.MODEL.FPN.OUT_CHANNELS))


def _bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> ResNeSt:
    """Build the trunk below a pyramid, without stages that it does not use: their parameters would get no gradient."""
    given, in_features = cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.FPN.IN_FEATURES
    if not in_features:
        raise ConfigError(
            "MODEL.FPN.IN_FEATURES must name at least one stage, got none; without FPN, as in C4 and DC5 detectors, "
            "MODEL.BACKBONE.NAME is build_resnest_backbone"
        )
    wrong = [name for name in in_features if name not in given]
    if wrong:
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES must be of MODEL.RESNETS.OUT_FEATURES, {', '.join(given)}, got {wrong[0]!r}"
        )
    with _errors_that_name_keys():
        check_positive("MODEL.FPN.OUT_CHANNELS", cfg.MODEL.FPN.OUT_CHANNELS)
        check_choice("MODEL.FPN.FUSE_TYPE", cfg.MODEL.FPN.FUSE_TYPE, ("avg", "sum"))
        check_choice("MODEL.FPN.NORM", cfg.MODEL.FPN.NORM, NORMS)
    last = max(map(FEATURES.index, in_features))
    bottom_up = build_trunk(cfg, input_shape, [name for name in given if FEATURES.index(name) <= last])
    strides = [bottom_up.feature_strides[name] for name in in_features]
    if any(after != 2 * before for before, after in zip(strides, strides[1:], strict=False)):
        raise ConfigError(
            "MODEL.FPN.IN_FEATURES must have strides that double at each level, as Detectron2's FPN requires, got "
            f"{', '.join(map(str, strides))} of {', '.join(in_features)}"
        )
    return bottom_up


def _with_fpn(cfg: CfgNode, bottom_up: ResNeSt, top_block: nn.Module) -> FPN:
    keys = cfg.MODEL.FPN
    return FPN(bottom_up, keys.IN_FEATURES, keys.OUT_CHANNELS, keys.NORM, top_block, keys.FUSE_TYPE)
