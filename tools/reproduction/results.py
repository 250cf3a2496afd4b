"""What the run of a row leaves behind, so that it can be resumed and reported: ``OUTPUT_DIR/ROW/row.json``.

Beside it lie ``log.txt``, everything that the row's commands printed, and the framework's own files::

    OUTPUT_DIR/ROW/row.json              RowResult
    OUTPUT_DIR/ROW/log.txt
    OUTPUT_DIR/ROW/train/metrics.json    Detectron2: a json object per line, with "iteration"
    OUTPUT_DIR/ROW/train/*/vis_data/scalars.json    MMEngine: likewise, with "step"
    OUTPUT_DIR/ROW/STEP/                 the same of the steps after the training
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from resnest_backbones.checkpoint import write_atomically

RESULT_FILE = "row.json"
LOG_FILE = "log.txt"
TRAIN_FOLDER = "train"
STATES = ("running", "finished", "failed")


class ResultError(ValueError):
    """A file is not what a run of a row left behind."""


@dataclass(frozen=True)
class StepResult:
    """A command of a row that has ended.

    Attributes:
        name: ``train``, or that of a later step.
        command: as one would type it.
        seconds: that it took, over all attempts.
        status: its exit status.
    """

    name: str
    command: str
    seconds: float
    status: int


@dataclass(frozen=True)
class RowResult:
    """How far the run of a row came, and what it gave.

    Attributes:
        row: name of the recipe.
        state: ``running``, ``finished`` or ``failed``.
        smoke: whether it was a few iterations on the demo data set, whose figures mean nothing.
        figures: in percent, by the names of ``resnest_backbones.model_zoo.METRICS``; None where the framework gave NaN.
        steps: those that have ended, in their order.
        command: that ran the row, as one would type it.
        machine: what it ran on: processor or GPUs, and how many.
        versions: package -> version, of Python, torch and the framework.
        started: date and time, ISO 8601, UTC.
        ended: likewise; "" while it runs.
        error: why it failed, in one line; "" otherwise.
    """

    row: str
    state: str
    smoke: bool
    command: str
    machine: str
    versions: Mapping[str, str]
    started: str
    ended: str = ""
    error: str = ""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    steps: tuple[StepResult, ...] = ()

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, got {self.state!r}")

    @property
    def is_recipe(self) -> bool:
        """Whether the recipe itself was trained: no setting of it was changed, and no other checkpoint evaluated."""
        return not {"--set", "--eval-only"} & set(self.command.split())

    @property
    def has_changed_settings(self) -> bool:
        """Whether settings of the recipe were changed."""
        return "--set" in self.command.split()


def write_result(result: RowResult, folder: Path) -> None:
    """Write ``row.json`` into a row's folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(asdict(result), indent=1) + "\n"
    write_atomically(folder / RESULT_FILE, lambda stream: stream.write(content.encode()))


def read_result(folder: Path) -> RowResult | None:
    """What ``write_result`` wrote into a row's folder; None where there is nothing.

    Raises:
        ResultError: the file is no such thing; the message names it.
    """
    file = folder / RESULT_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        steps = tuple(StepResult(**step) for step in content.pop("steps"))
        return RowResult(**content, steps=steps)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultError(f"{file} must be what the run of a row left behind, got {error}") from error
