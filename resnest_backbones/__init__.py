"""ResNeSt backbones: the trunk in plain PyTorch.

Importing this package imports no detection framework, and PyTorch only once something of it is used (PEP 562): the
command lines show their help at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnest_backbones import checkpoint, model_zoo, weights
    from resnest_backbones.acceleration import optimize_for_inference
    from resnest_backbones.checkpoint import build, convert_state_dict, load_checkpoint
    from resnest_backbones.models import (
        VARIANTS,
        Bottleneck,
        DeepStem,
        ResNeSt,
        ResNeStSpec,
        SplitAttentionConv2d,
        get_variant,
        list_variants,
    )
else:
    _ROOMS = ("models", "checkpoint", "acceleration", "weights", "model_zoo", "errors")

    def __getattr__(name: str) -> object:
        """Return a room of the package, or one of the names below from its room, imported now."""
        if name in _ROOMS:
            return import_module(f"{__name__}.{name}")
        if name in __all__:
            rooms = (import_module(f"{__name__}.{room}") for room in _ROOMS)
            globals()[name] = next(vars(room)[name] for room in rooms if name in vars(room))
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


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
