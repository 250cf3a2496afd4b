"""The trunk as a Detectron2 ``Backbone``, and its builders from a config."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.utils.registry import Registry
from torch import nn

from resnest_backbones.acceleration import accelerate
from resnest_backbones.checkpoint.fit import compare
from resnest_backbones.checkpoint.layouts import COUNTER
from resnest_backbones.errors import ConfigError
from resnest_backbones.models import resnest
from resnest_backbones.models.arguments import STAGES, NormLayer, TrunkOptions, check_choice, check_positive
from resnest_backbones.models.variants import VARIANTS, ResNeStSpec, get_variant

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

_Registered = TypeVar("_Registered", bound=Any)
_NORMS = ("BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "")
_DEPTHS = tuple(int(name.removeprefix("resnest")) for name in VARIANTS if name.removeprefix("resnest").isdigit())
_STAGES_IN_ORDER = ("stem", *STAGES)
_OUTPUT_STRIDES = {(1, 1): 32, (1, 2): 16, (2, 4): 8}  # by the dilations of res4 and res5
_KEYS = {
    "radix": "MODEL.RESNETS.RADIX",
    "cardinality": "MODEL.RESNETS.NUM_GROUPS",
    "out_features": "MODEL.RESNETS.OUT_FEATURES",
    "norm": "MODEL.RESNETS.NORM",
    "deform_groups": "MODEL.RESNETS.DEFORM_NUM_GROUPS",
    "drop_path_rate": "MODEL.RESNETS.DROP_PATH_RATE",
    "compile": "MODEL.RESNETS.COMPILE",
    "freeze_at": "MODEL.BACKBONE.FREEZE_AT",
}


class ResNeSt(resnest.ResNeSt, Backbone):
    """The trunk with what Detectron2 asks of a backbone; ``L(ResNeSt)(spec="resnest50", ...)`` in a LazyConfig.

    Args:
        spec: name of a published network, or a ``ResNeStSpec``.
        norm: ``BN, SyncBN, FrozenBN, GN, LN``, another name of ``detectron2.layers.get_norm``, "" for none, or a
            callable from channels to a module.
        freeze_at: freeze the first so many of stem, res2, res3, res4, res5 (``MODEL.BACKBONE.FREEZE_AT``); -1 none.
        channels_last: as in ``resnest_backbones.acceleration.accelerate``.
        compile: likewise.
        **options: those of ``resnest_backbones.ResNeSt``.

    Raises:
        ValueError: an argument is outside what is allowed; the message names it.
    """

    def __init__(
        self,
        spec: ResNeStSpec | str,
        *,
        norm: str | NormLayer | None = "BN",
        freeze_at: int = 0,
        channels_last: bool = False,
        compile: bool | str | Mapping[str, Any] = False,
        **options: Unpack[TrunkOptions],
    ) -> None:
        # A pooled vector has too few values for 32 groups: one group of one value would even normalise to nothing.
        attention_norm = partial(nn.GroupNorm, 1) if norm == "GN" else None
        super().__init__(spec, norm_layer=_norm_layer(norm), attention_norm_layer=attention_norm, **options)
        self.freeze(freeze_at)
        accelerate(self, channels_last=channels_last, compile=compile)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return the channels and the stride of each feature map."""
        strides = self.feature_strides
        return {name: ShapeSpec(channels=c, stride=strides[name]) for name, c in self.feature_channels.items()}

    def freeze(self, freeze_at: int = 0) -> ResNeSt:
        """Freeze the stem (1), and res2 (2), up to res5 (5), for good: no gradients, batch norms become fixed.

        Raises:
            ValueError: ``freeze_at`` is not an integer from -1 to 5.
        """
        if not isinstance(freeze_at, int) or freeze_at not in range(-1, 6):
            raise ValueError(f"freeze_at must be an integer from -1 or 0 (nothing) to 5 (res5), got {freeze_at!r}")
        for name in _STAGES_IN_ORDER[: max(freeze_at, 0)]:
            if name in self._modules:
                stage = self.get_submodule(name)
                stage.requires_grad_(False)
                FrozenBatchNorm2d.convert_frozen_batchnorm(stage)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Ignore which counters of batch norms a checkpoint has, and warn when it fills the trunk only in part."""
        own = {prefix + key: value for key, value in self.state_dict().items()}
        for key in [k for k in state_dict if k.startswith(prefix) and k.endswith(COUNTER) and k not in own]:
            del state_dict[key]
        for key in [k for k in own if k.endswith(COUNTER) and k not in state_dict]:
            state_dict[key] = own[key]
        fit = compare({key: value for key, value in state_dict.items() if key in own}, own)
        if fit.missing:
            logger.warning("The checkpoint fills the ResNeSt in part: %s", fit.describe())
        super()._load_from_state_dict(state_dict, prefix, *args)


def _norm_layer(norm: str | NormLayer | None) -> NormLayer | None:
    if not norm:
        return None
    if callable(norm):
        return norm
    if norm not in _NORMS:
        raise ValueError(f"norm must be a callable or one of {', '.join(map(repr, _NORMS))}, got {norm!r}")
    if norm == "GN":
        # As get_norm's, with fewer groups where 32 do not divide the channels (50-fast networks).
        return lambda channels: nn.GroupNorm(math.gcd(32, channels), channels)
    return partial(get_norm, norm)


def register(registry: Registry) -> Callable[[_Registered], _Registered]:
    """Register under its name; safe when a module is imported anew, refused when the name is another's."""

    def add(thing: _Registered) -> _Registered:
        name = thing.__name__
        if name not in registry:
            registry.register(thing)
        elif (owner := registry.get(name).__module__) != thing.__module__:
            raise ImportError(
                f"{name!r} is already registered by {owner}; import either that package or "
                f"resnest_backbones.detectron2, not both"
            )
        return thing

    return add


@register(BACKBONE_REGISTRY)
def build_resnest_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNeSt:
    """Build a ``ResNeSt`` from ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ConfigError: a key has a value that is not allowed; the message names it.
    """
    return _build_trunk(cfg, input_shape, cfg.MODEL.RESNETS.OUT_FEATURES)


def _build_trunk(cfg: CfgNode, input_shape: ShapeSpec, out_features: Sequence[str]) -> ResNeSt:
    keys = cfg.MODEL.RESNETS
    with _errors_that_name_keys():
        if len(keys.DEFORM_ON_PER_STAGE) != 4:
            raise ValueError(f"MODEL.RESNETS.DEFORM_ON_PER_STAGE must have 4 values, got {keys.DEFORM_ON_PER_STAGE}")
        wrong = [name for name in keys.OUT_FEATURES if name not in _STAGES_IN_ORDER]
        if wrong:
            raise ValueError(f"MODEL.RESNETS.OUT_FEATURES must be of {', '.join(_STAGES_IN_ORDER)}, got {wrong[0]!r}")
        spec = _spec_from_config(keys)
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
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            deform_stages=[s for s, on in zip(STAGES, keys.DEFORM_ON_PER_STAGE, strict=True) if on],
            deform_modulated=keys.DEFORM_MODULATED,
            deform_groups=keys.DEFORM_NUM_GROUPS,
            drop_path_rate=keys.DROP_PATH_RATE,
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


def _spec_from_config(keys: CfgNode) -> ResNeStSpec:
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
    return replace(
        get_variant(f"resnest{keys.DEPTH}"),
        radix=keys.RADIX,
        cardinality=keys.NUM_GROUPS,
        bottleneck_width=int(width),
        avd_first=keys.AVD_FIRST,
        params=None,
        multiply_adds=None,
    )


@register(BACKBONE_REGISTRY)
def build_resnest_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNeSt with Detectron2's FPN: p2..p5 and a max-pooled p6, or fewer where ``FPN.IN_FEATURES`` has fewer.

    Raises:
        ConfigError: a key has a value that is not allowed; the message names it.
    """
    bottom_up = _bottom_up(cfg, input_shape)
    top_block = LastLevelMaxPool()
    top_block.in_feature = f"p{int(math.log2(bottom_up.feature_strides[cfg.MODEL.FPN.IN_FEATURES[-1]]))}"
    return _with_fpn(cfg, bottom_up, top_block)


@register(BACKBONE_REGISTRY)
def build_retinanet_resnest_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNeSt with Detectron2's FPN as RetinaNet needs it: p3..p5, and p6 and p7 computed from res5.

    Raises:
        ConfigError: ``MODEL.RESNETS.OUT_FEATURES`` lacks res5, or another key has a value that is not allowed.
    """
    if "res5" not in cfg.MODEL.RESNETS.OUT_FEATURES:
        raise ConfigError(f"MODEL.RESNETS.OUT_FEATURES must have res5, got {list(cfg.MODEL.RESNETS.OUT_FEATURES)}")
    if cfg.MODEL.FPN.IN_FEATURES and cfg.MODEL.FPN.IN_FEATURES[-1] != "res5":
        raise ConfigError(f"MODEL.FPN.IN_FEATURES must end with res5, got {list(cfg.MODEL.FPN.IN_FEATURES)}")
    bottom_up = _bottom_up(cfg, input_shape)
    return _with_fpn(cfg, bottom_up, LastLevelP6P7(bottom_up.feature_channels["res5"], cfg.MODEL.FPN.OUT_CHANNELS))


def _bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> ResNeSt:
    """Build the trunk below a pyramid, without stages that it does not use: their parameters would get no gradient."""
    given, in_features = cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.FPN.IN_FEATURES
    if not in_features:
        raise ConfigError("MODEL.FPN.IN_FEATURES must name at least one stage, got none")
    wrong = [name for name in in_features if name not in given]
    if wrong:
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES must be of MODEL.RESNETS.OUT_FEATURES, {', '.join(given)}, got {wrong[0]!r}"
        )
    with _errors_that_name_keys():
        check_positive("MODEL.FPN.OUT_CHANNELS", cfg.MODEL.FPN.OUT_CHANNELS)
        check_choice("MODEL.FPN.FUSE_TYPE", cfg.MODEL.FPN.FUSE_TYPE, ("avg", "sum"))
        check_choice("MODEL.FPN.NORM", cfg.MODEL.FPN.NORM, _NORMS)
    last = max(map(_STAGES_IN_ORDER.index, in_features))
    bottom_up = _build_trunk(cfg, input_shape, [name for name in given if _STAGES_IN_ORDER.index(name) <= last])
    strides = [bottom_up.feature_strides[name] for name in in_features]
    if any(after != 2 * before for before, after in zip(strides, strides[1:], strict=False)):
        raise ConfigError(
            "MODEL.FPN.IN_FEATURES must have strides that double each time, which Detectron2's FPN requires, "
            f"got {', '.join(map(str, strides))} of {', '.join(in_features)}"
        )
    return bottom_up


def _with_fpn(cfg: CfgNode, bottom_up: ResNeSt, top_block: nn.Module) -> FPN:
    keys = cfg.MODEL.FPN
    return FPN(bottom_up, keys.IN_FEATURES, keys.OUT_CHANNELS, keys.NORM, top_block, keys.FUSE_TYPE)
