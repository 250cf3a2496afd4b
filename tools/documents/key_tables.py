"""Tables of checkpoint keys, old and new, made by converting the keys of a small network between the layouts."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from markdown_table import markdown_table
from resnest_backbones.checkpoint.layouts import convert_state_dict
from resnest_backbones.models.resnest import build

_NORM = re.compile(r"(?:weight|bias|running_mean|running_var)$")


def original_keys_table() -> str:
    """Return the keys of the original, which timm has too, beside ours."""
    state = _state()
    return _table("original and timm", convert_state_dict(state, "official"), state)


def mmseg_keys_table() -> str:
    """Return the keys of the ResNeSt of MMSegmentation, MMDetection and MMPretrain beside ours."""
    state = _state(deform_stages=("res5",))
    return _table("MMSegmentation, MMDetection, MMPretrain", convert_state_dict(state, "mmseg"), state)


def wrapper_keys_table() -> str:
    """Return the keys of a detector of the original's Detectron2 wrapper beside those of a trunk."""
    state = _state(num_classes=None)
    return _table("Detectron2 wrapper", {f"backbone.bottom_up.{key}": value for key, value in state.items()}, state)


def _state(num_classes: int | None = 10, deform_stages: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return the state of a stem, a stage's first block and a classifier; the other stages are named alike."""
    with torch.device("meta"):
        net = build("resnest14", num_classes=num_classes, deform_stages=deform_stages)
    return {key: value for key, value in net.state_dict().items() if not key.startswith(("res2.", "res3.", "res4."))}


def _table(source: str, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> str:
    """Return pairs of names of the same tensors; the four tensors of a norm are one row."""
    converted = convert_state_dict(old)
    if converted.keys() != new.keys():
        raise ValueError(f"the keys of {source} do not convert to those of the trunk")
    names = {id(value): key for key, value in converted.items()}
    tensors = ((key, names[id(value)]) for key, value in old.items() if not key.endswith("num_batches_tracked"))
    rows = dict.fromkeys(_shorten(*pair) for pair in tensors)  # * for the tensors of a norm or of a layer with a bias
    return markdown_table((source, "here"), [(f"`{old}`", f"`{new}`") for old, new in rows], "l")


def _shorten(old: str, new: str) -> tuple[str, str]:
    if ".norm." in new or ".bn" in new or ".fc" in new or new.startswith("fc.") or "offset" in new:
        return _NORM.sub("*", old), _NORM.sub("*", new)
    return old, new
