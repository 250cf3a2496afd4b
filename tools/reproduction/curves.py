"""Reading what a training wrote about itself: its loss and its figures over the iterations.

Detectron2's ``JSONWriter`` appends to one ``metrics.json``, an object per line with its "iteration". MMEngine's
``LocalVisBackend`` writes one ``scalars.json`` per start of the training, in a folder named by its time, an object per
line with its "step". Where MMEngine trains by epochs, the "step" of a validation is an epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reproduction.results import TRAIN_FOLDER

LOSS = "loss"

# Framework -> what it calls a figure -> LOSS, or its name in ``resnest_backbones.model_zoo.METRICS``.
_NAMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "detectron2": MappingProxyType(
            {"total_loss": LOSS, "bbox/AP": "box_ap", "segm/AP": "mask_ap", "panoptic_seg/PQ": "pq"}
        ),
        "mmseg": MappingProxyType({"loss": LOSS, "mIoU": "miou"}),
    }
)
_ENDLESS = 1e30  # a loss that is larger has diverged
_PATTERNS = {"detectron2": "metrics.json", "mmseg": "*/vis_data/scalars.json"}


@dataclass
class Curve:
    """A figure over the iterations.

    Attributes:
        name: ``LOSS``, or a name of ``resnest_backbones.model_zoo.METRICS``.
        iterations: in growing order.
        values: one per iteration; AP, PQ and mIoU in percent. NaN and infinite ones are kept.
    """

    name: str
    iterations: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, iteration: int, value: float) -> None:
        """Put a value at the end. A training that was resumed repeats iterations: what it gave anew counts."""
        while self.iterations and self.iterations[-1] >= iteration:
            self.iterations.pop()
            self.values.pop()
        self.iterations.append(iteration)
        self.values.append(value)

    def drawable(self) -> list[tuple[int, float]]:
        """The points that have a place in a picture, (iteration, value): no NaN, and nothing as far off as infinity."""
        points = zip(self.iterations, self.values, strict=True)
        return [(step, value) for step, value in points if math.isfinite(value) and abs(value) < _ENDLESS]


@dataclass(frozen=True)
class Curves:
    """What was read of a training.

    Attributes:
        curves: those that have at least one point; the loss first.
        files: that were read, in their order.
        unreadable_lines: how many lines of them are no objects, as the last one of a run that was killed.
    """

    curves: tuple[Curve, ...] = ()
    files: tuple[Path, ...] = ()
    unreadable_lines: int = 0


def read_curves(folder: Path, framework: str) -> Curves:
    """The curves of the training of a row.

    Args:
        folder: ``OUTPUT_DIR/ROW``.
        framework: ``detectron2`` or ``mmseg``.

    Raises:
        OSError: a file is there and cannot be read.
    """
    names = _NAMES[framework]
    curves = {name: Curve(name) for name in names.values()}
    files = sorted((folder / TRAIN_FOLDER).glob(_PATTERNS[framework]))
    unreadable = 0
    for file in files:
        trained, by_epoch = 0, False
        for line in _objects(file):
            if line is None:
                unreadable += 1
                continue
            iteration = _iteration(line)
            if iteration is None:
                continue
            if "iter" in line:  # a line of MMEngine about the training, not about a validation
                trained, by_epoch = iteration, "epoch" in line
            for key, name in names.items():
                value = line.get(key)
                if isinstance(value, (int, float)):
                    curves[name].add(trained if by_epoch else iteration, as_float(value))
    return Curves(tuple(curve for curve in curves.values() if curve.iterations), tuple(files), unreadable)


def as_float(number: float) -> float:
    """A number of a json file, where an integer may be beyond every float.

    >>> as_float(2), as_float(-(10**400))
    (2.0, -inf)
    """
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _objects(file: Path) -> Iterator[dict[str, Any] | None]:
    """The objects of a file's lines; None for a line that is none."""
    with open(file, "rb") as stream:
        for line in stream:
            if not line.strip():
                continue
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                content = None
            yield content if isinstance(content, dict) else None


def _iteration(line: Mapping[str, Any]) -> int | None:
    for key in ("iteration", "step"):
        if isinstance(line.get(key), int):
            return int(line[key])
    return None
