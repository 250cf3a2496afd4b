"""Comparison of an exported file with its network: the largest difference of each output at each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resnest_backbones.errors import ExportError
from resnest_backbones.export.formats import Loaded, first_line
from resnest_backbones.export.models import BACKBONE, Exportable

_SAME_BOX = 1.0  # pixels that the boxes of one detection may differ by
_AT_THE_CUT = 1e-4  # that scores differ by at most where either of two detections may be the last one kept


@dataclass(frozen=True)
class Difference:
    """The difference of one output at one size."""

    size: tuple[int, ...]  # shape of the input
    output: str  # its name
    absolute: float  # largest absolute difference
    relative: float  # ``absolute`` divided by the largest absolute value of the network's output
    note: str = ""  # the number of detections, and of those without a match
    unmatched: int = 0  # detections without a match


def check_parity(exportable: Exportable, loaded: Loaded, inputs: Sequence[Tensor]) -> list[Difference]:
    """Compare the outputs of a network and its file, on each of the inputs.

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
            size = "x".join(map(str, x.shape))
            raise ExportError(f"the file cannot be run at {size}: {first_line(error)}") from error
        given = _named(outputs, exportable)
        if exportable.rows:
            found += _compare_rows(x, wanted, given)
        else:
            found += [_difference(x, name, value, given[name]) for name, value in wanted.items()]
    return found


def _named(values: Sequence[Tensor], exportable: Exportable) -> dict[str, Tensor]:
    if len(values) != len(exportable.output_names):
        raise ExportError(f"there must be {len(exportable.output_names)} outputs, got {len(values)}")
    return dict(zip(exportable.output_names, values, strict=True))


def _difference(x: Tensor, name: str, wanted: Tensor, given: Tensor, note: str = "", unmatched: int = 0) -> Difference:
    if wanted.shape != given.shape:
        raise ExportError(f"{name} must have the shape {tuple(wanted.shape)}, got {tuple(given.shape)}")
    wanted, given = wanted.double(), given.double()
    absolute, scale = (float(x.abs().max()) if x.numel() else 0.0 for x in (wanted - given, wanted))
    return Difference(tuple(x.shape), name, absolute, absolute / scale if scale else absolute, note, unmatched)


def _compare_rows(x: Tensor, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[Difference]:
    """Compare each detection with the nearest one of its class: rounding may change their order."""
    ours, theirs = match_detections(wanted, given)
    unmatched = max(_missing(wanted, ours, given), _missing(given, theirs, wanted))
    note = f"{len(wanted['boxes'])} detections" + (f", {unmatched} unmatched" if unmatched else "")
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
    distances = (one["boxes"][:, None] - other["boxes"]).abs().amax(dim=2)
    distances[one["classes"][:, None] != other["classes"]] = torch.inf
    ours, theirs = [], []
    for i in torch.argsort(one["scores"], descending=True).tolist() if distances.numel() else ():
        nearest = int(distances[i].argmin())
        if distances[i, nearest] <= _SAME_BOX:
            ours.append(i)
            theirs.append(nearest)
            distances[:, nearest] = torch.inf
    return ours, theirs


def random_inputs(exportable: Exportable, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the example, and inputs of other sizes and, where they may differ, of other batch sizes."""
    shape = list(exportable.example.shape)
    inputs = [exportable.example]
    for number, size in enumerate(sizes):
        batch = [1 + number % 3] if 0 in exportable.dynamic and len(shape) == 4 else shape[:-3]
        x = torch.rand((*batch, shape[-3], *size), generator=torch.Generator().manual_seed(number + 1))
        inputs.append(x - 0.5 if exportable.metadata["task"] == BACKBONE else (255 * x).round())
    return inputs


def find_problems(differences: Sequence[Difference], tolerance: float) -> list[str]:
    """Return a message for each difference above a tolerance."""
    problems = []
    for d in differences:
        where = f"{d.output} at {'x'.join(map(str, d.size))}"
        if not d.relative <= tolerance:  # NaN is a problem, too
            problems.append(f"{where} differs by {d.relative:.1e}, more than the allowed {tolerance:.1e}")
        elif d.unmatched:
            problems.append(f"{where}: {d.unmatched} detections are unmatched")
    return problems
