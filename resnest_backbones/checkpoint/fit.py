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
from resnest_backbones.models.arguments import STAGES
from resnest_backbones.models.resnest import ResNeSt
from resnest_backbones.models.variants import VARIANTS

_MAX_SHAPES = 3  # named in a message
IMAGE_KEY = "stem.conv1_1.weight"  # its second dimension is the channels of the image, which a user may choose


@dataclass(frozen=True)
class Fit:
    """How a state dict fits a model. Counters of batch norms, which not all frameworks save, are left out."""

    total: int  # number of the model's tensors that were compared
    filled: tuple[str, ...]  # keys of the model that the state dict has, with the same shape
    missing: tuple[str, ...]  # keys of the model that the state dict lacks
    unexpected: tuple[str, ...]  # keys of the state dict that the model lacks
    # keys that both have with different shapes -> (shape in the state dict, shape in the model)
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
            >>> print(compare(state, {"a": torch.zeros(2), "b": torch.zeros(4), "c": torch.zeros(1)}).describe())
            1 of 3 tensors match; 1 missing (c); 1 with a different shape (b is (3,) in the file and (4,) in the model)
        """
        parts = [f"{len(self.filled)} of {self.total} tensors match"]
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({summarize_keys(self.missing)})")
        if self.mismatched:
            shapes = [f"{key} is {a} in the file and {b} in the model" for key, (a, b) in self.mismatched.items()]
            parts.append(f"{len(shapes)} with a different shape ({summarize_keys(shapes, _MAX_SHAPES)})")
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


def is_offset(key: str) -> bool:
    """Tell whether a tensor gives the offsets of a deformable convolution, which files of ImageNet never have."""
    return ".conv2_offset." in key


def fit_trunk(state: Mapping[str, Any], own: Mapping[str, Any]) -> Fit:
    """Compare the trunk in a file with a model's, both under the core's names; it is exact for the same network.

    Stages, classifier and heads that the model does not have are left out, offsets of deformable convolutions may be
    missing, and the first convolution may be one for images of other channels.
    """
    parts = {key.partition(".")[0] for key in own}
    given = {key: value for key, value in state.items() if key.partition(".")[0] in parts}
    shapes = [tuple(one[IMAGE_KEY].shape) for one in (given, own) if IMAGE_KEY in one]
    if len(shapes) == 2 and shapes[0][:1] + shapes[0][2:] == shapes[1][:1] + shapes[1][2:]:
        given[IMAGE_KEY] = own[IMAGE_KEY]
    return compare(given, own, optional=is_offset)


def describe_networks(state: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Return the beginning of a message that names the networks of a file and of a model, "" where they are one."""
    names, own_names = networks_of(state), networks_of(own)
    if set(names) & set(own_names) or not own_names:
        return ""
    return f"the file contains {' or '.join(names) or 'no complete ResNeSt'}, the model is {' or '.join(own_names)}; "


def networks_of(trunk: Mapping[str, Any]) -> list[str]:
    """Return the published networks that a trunk may be by the shapes of the stages it has, or else its depths."""
    blocks = {tuple(key.split(".")[:2]) for key in trunk}
    depths = [sum(stage == name for name, *_ in blocks) for stage in STAGES]
    first = (IMAGE_KEY, "res2.0.conv1.weight", "res2.0.conv2.conv.weight")
    shapes = [tuple(trunk[key].shape) for key in first if key in trunk and trunk[key].ndim == 4]
    if len(shapes) < len(first):
        return []
    stem, reduced, splits = shapes
    radix = splits[0] // max(reduced[0], 1)
    found = (stem[0], radix, reduced[0] // max(splits[1] * radix, 1), reduced[0])
    names = [
        name
        for name, spec in VARIANTS.items()
        if found == (spec.stem_width, spec.radix, spec.cardinality, spec.width(64))
        and all(depth in (0, wanted) for depth, wanted in zip(depths, spec.depths, strict=True))
    ]
    usual = [name for name in names if not VARIANTS[name].avd_first]  # where the pool stands changes no shape
    return usual or names or [f"a ResNeSt of {', '.join(map(str, depths))} blocks"]


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
                "the layout is that of OpenMMLab's ResNeSt, which has no average pool at stride 1; this trunk has "
                f"{len(pools)}. For weights trained there at output stride 16 or 8, set {remedy}"
            )
    return None
