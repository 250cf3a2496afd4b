"""Comparison of an exported file with its network: the largest difference of each output at each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resnest_backbones.errors import ExportError
from resnest_backbones.export.exportable import Exportable
from resnest_backbones.export.formats import Loaded

_SAME_BOX = 1.0  # pixels that the boxes of one detection may differ by
_AT_THE_CUT = 1e-4  # that scores differ by at most where either of two detections may be the last one kept


@dataclass(frozen=True)
class Difference:
    """The difference of one output at one size.

    Attributes:
        size: shape of the input.
        output: its name.
        absolute: largest absolute difference.
        relative: ``absolute`` divided by the largest absolute value of the network's output.
        note: the number of detections, and of those without a match.
        unmatched: the latter.
    """

    size: tuple[int, ...]
    output: str
    absolute: float
    relative: float
    note: str = ""
    unmatched: int = 0


def check_parity(exportable: Exportable, loaded: Loaded, inputs: Sequence[Tensor]) -> list[Difference]:
    """Compare the outputs of a network and its file.

    Args:
        exportable: the network.
        loaded: the file.
        inputs: to compare on.

    Raises:
        ExportError: the file cannot be run, or the number or a shape of its outputs is not the network's.
    """
    found: list[Difference] = []
    for x in inputs:
        with torch.no_grad():
            wanted = _named(exportable.module(x), exportable)
        try:
            outputs = loaded.run(x)
        except Exception as error:  # each format has its own errors
            reason = str(error).strip().splitlines()
            size = "x".join(map(str, x.shape))
            raise ExportError(f"the file cannot be run at {size}: {reason[0] if reason else error!r}") from error
        given = _named(outputs, exportable)
        found += _compare_rows(x, wanted, given) if exportable.rows else _compare(x, wanted, given)
    return found


def _named(values: Sequence[Tensor], exportable: Exportable) -> dict[str, Tensor]:
    if len(values) != len(exportable.output_names):
        raise ExportError(f"there must be {len(exportable.output_names)} outputs, got {len(values)}")
    return dict(zip(exportable.output_names, values, strict=True))


def _compare(x: Tensor, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], note: str = "") -> list[Difference]:
    return [_difference(x, name, value, given[name], note) for name, value in wanted.items()]


def _difference(x: Tensor, name: str, wanted: Tensor, given: Tensor, note: str = "", unmatched: int = 0) -> Difference:
    if wanted.shape != given.shape:
        raise ExportError(f"{name} must have the shape {tuple(wanted.shape)}, got {tuple(given.shape)}")
    wanted, given = wanted.double(), given.double()
    absolute = float((wanted - given).abs().max()) if wanted.numel() else 0.0
    scale = float(wanted.abs().max()) if wanted.numel() else 0.0
    return Difference(tuple(x.shape), name, absolute, absolute / scale if scale else absolute, note, unmatched)


def _compare_rows(x: Tensor, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[Difference]:
    """Compare each detection with the nearest one of its class: rounding may change their order."""
    ours, theirs = match_detections(wanted, given)
    unmatched = max(_missing(wanted, ours, given), _missing(given, theirs, wanted))
    note = f"{len(wanted['boxes'])} detections" + (f", {unmatched} without a match" if unmatched else "")
    return [
        _difference(x, name, value[ours], given[name][theirs], note, unmatched)
        if name != "image_size"
        else _difference(x, name, value, given[name])
        for name, value in wanted.items()
    ]


def _missing(one: Mapping[str, Tensor], matched: Sequence[int], other: Mapping[str, Tensor]) -> int:
    """Count detections without a match, except at the cut, where rounding decides which of equal ones is kept."""
    unmatched = one["scores"][sorted(set(range(len(one["scores"]))) - set(matched))]
    cut = float(other["scores"].min()) if len(other["scores"]) else 0.0
    return int((unmatched > cut + _AT_THE_CUT).sum())


def match_detections(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
    """Pair detections of the same class whose boxes differ by at most a pixel, those with the highest scores first.

    Args:
        one: ``boxes`` (M, 4) in pixels, ``classes`` (M,) and ``scores`` (M,).
        other: the same with another M.

    Returns:
        Their indices in ``one`` and in ``other``.
    """
    left = set(range(len(other["boxes"])))
    ours, theirs = [], []
    for i in torch.argsort(one["scores"], descending=True).tolist():
        distances = {
            j: float((one["boxes"][i] - other["boxes"][j]).abs().max())
            for j in left
            if one["classes"][i] == other["classes"][j]
        }
        nearest = min(distances, key=lambda j: distances[j], default=None)
        if nearest is not None and distances[nearest] <= _SAME_BOX:
            ours.append(i)
            theirs.append(nearest)
            left.remove(nearest)
    return ours, theirs
