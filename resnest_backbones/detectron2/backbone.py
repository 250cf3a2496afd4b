"""The trunk as a Detectron2 ``Backbone``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import Backbone
from detectron2.utils.registry import Registry
from torch import nn

from resnest_backbones.acceleration import accelerate
from resnest_backbones.checkpoint.fit import compare
from resnest_backbones.checkpoint.layouts import COUNTER
from resnest_backbones.models import resnest
from resnest_backbones.models.arguments import STAGES, NormLayer, TrunkOptions
from resnest_backbones.models.variants import ResNeStSpec

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

_Registered = TypeVar("_Registered", bound=Any)
NORMS = ("BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "")
STAGES_IN_ORDER = ("stem", *STAGES)


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
        # A pooled vector has too few values for 32 groups: one group of one value would even normalize to nothing.
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
            raise ValueError(
                f"freeze_at must be an integer from 0 or -1 (nothing) to 5 (up to res5), got {freeze_at!r}"
            )
        for name in STAGES_IN_ORDER[: max(freeze_at, 0)]:
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
            logger.warning("The checkpoint fills only part of the ResNeSt: %s", fit.describe())
        super()._load_from_state_dict(state_dict, prefix, *args)


def _norm_layer(norm: str | NormLayer | None) -> NormLayer | None:
    if not norm:
        return None
    if callable(norm):
        return norm
    if norm not in NORMS:
        raise ValueError(f"norm must be a callable or one of {', '.join(map(repr, NORMS))}, got {norm!r}")
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
