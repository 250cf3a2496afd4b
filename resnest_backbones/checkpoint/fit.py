"""Does a checkpoint fit a model? The one comparison that loading, training, testing and export share.

Names and shapes do not tell all: ``describe_other_pools`` says where a file that fits is of a network that computes
something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import nn

from resnest_backbones.checkpoint.layouts import COUNTER, detect_layout, summarize_keys
from resnest_backbones.models.resnest import ResNeSt

_MAX_SHAPES = 3  # named in a message


@dataclass(frozen=True)
class Fit:
    """How a state dict fits a model. Counters of batch norms, which not all frameworks save, are left out.

    Attributes:
        total: number of the model's tensors that were compared.
        filled: keys of the model that the state dict has, with the same shape.
        missing: keys of the model that the state dict lacks.
        unexpected: keys of the state dict that the model lacks.
        mismatched: keys that both have with different shapes -> (shape in the state dict, shape in the model).
    """

    total: int
    filled: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def is_whole(self) -> bool:
        """Whether the state dict fills the model."""
        return not self.missing and not self.mismatched

    @property
    def is_exact(self) -> bool:
        """Whether it fills the model and has nothing else."""
        return self.is_whole and not self.unexpected

    def describe(self) -> str:
        """Return one line that names the first keys of each kind.

        Examples:
            >>> import torch
            >>> state = {"a": torch.zeros(2), "b": torch.zeros(3)}
            >>> compare(state, {"a": torch.zeros(2), "b": torch.zeros(4), "c": torch.zeros(1)}).describe()
            '1 of 3 tensors match; 1 missing (c); 1 with another shape (b is (3,) in the file and (4,) in the model)'
        """
        parts = [f"{len(self.filled)} of {self.total} tensors match"]
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({summarize_keys(self.missing)})")
        if self.mismatched:
            shapes = [f"{key} is {a} in the file and {b} in the model" for key, (a, b) in self.mismatched.items()]
            parts.append(f"{len(shapes)} with another shape ({summarize_keys(shapes, _MAX_SHAPES)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected ({summarize_keys(self.unexpected)})")
        return "; ".join(parts)


def compare(
    state: Mapping[str, Any], wanted: Mapping[str, Any], *, optional: Callable[[str], bool] = lambda key: False
) -> Fit:
    """Compare a state dict with that of a model, by names and shapes.

    Args:
        state: tensors by name, already in the model's layout.
        wanted: ``model.state_dict()``.
        optional: whether a key of the model may be missing from ``state``; such keys are compared only where both have
            them.
    """
    state = {key: value for key, value in state.items() if not key.endswith(COUNTER)}
    wanted = {
        key: value for key, value in wanted.items() if not key.endswith(COUNTER) and (key in state or not optional(key))
    }
    shapes = {key: (tuple(state[key].shape), tuple(value.shape)) for key, value in wanted.items() if key in state}
    return Fit(
        total=len(wanted),
        filled=tuple(key for key, (given, own) in shapes.items() if given == own),
        missing=tuple(key for key in wanted if key not in state),
        unexpected=tuple(key for key in state if key not in wanted),
        mismatched={key: pair for key, pair in shapes.items() if pair[0] != pair[1]},
    )


def describe_other_pools(
    model: nn.Module, state: Mapping[str, Any], remedy: str = "avg_pool_at_stride_1=False"
) -> str | None:
    """Return one line where a state dict is of OpenMMLab's ResNeSt, and the model has average pools that it leaves out.

    Args:
        model: a ``ResNeSt`` or a model around one.
        state: tensors by name, in the layout of their file, which tells whose network it is.
        remedy: what leaves the pools out.
    """
    with suppress(ValueError):  # another layout
        trunks = [module for module in model.modules() if isinstance(module, ResNeSt)]
        pools = [m for trunk in trunks for m in trunk.modules() if isinstance(m, nn.AvgPool2d) and m.stride == 1]
        if pools and detect_layout(state) in ("mmseg", "mmdet"):
            return (
                "the layout is that of OpenMMLab's ResNeSt, which has no average pool where the stride is 1; this "
                f"trunk has {len(pools)}. For weights that were trained at output stride 16 or 8 there, set {remedy}"
            )
    return None
