"""The figures of a row, out of the files that its framework wrote."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reproduction.results import TRAIN_FOLDER
from reproduction.steps import EVALUATE, TEST, TEST_TTA
from resnest_backbones.model_zoo import Recipe

# Our metric -> Detectron2's task and name.
_DETECTRON2 = {"box_ap": ("bbox", "AP"), "mask_ap": ("segm", "AP"), "pq": ("panoptic_seg", "PQ")}
# Our metric -> step and name of MMSegmentation's IoUMetric.
_MMSEG = {
    "miou": (TEST, "mIoU"),
    "miou_scales_not_stated": (TEST, "mIoU"),
    "miou_multi_scale": (TEST_TTA, "mIoU"),
    "pix_acc_multi_scale": (TEST_TTA, "aAcc"),
}
# What Detectron2 prints at the end of an evaluation, to be pasted elsewhere.
_COPYPASTE = re.compile(r"copypaste: (.*)")
# What it logs when it starts, and what our tool logs between the figures of one scale, which rows publish, and others
# of the same names.
_START, _SEVERAL_SCALES = "Rank of current process: ", "Evaluating with test-time augmentation"


class FigureError(ValueError):
    """A run left no figures where they should be."""


def read_figures(recipe: Recipe, folder: Path) -> dict[str, float | None]:
    """The figures that a row published and a run of it can give, as the run gave them.

    Args:
        recipe: the row.
        folder: of its run.

    Returns:
        In percent, by the names of ``METRICS``; None where the framework gave NaN. Figures on test-dev are not among
        them: that has no public annotations. PQ is not where its package was missing.

    Raises:
        FigureError: there are none at all; the message says where they were looked for.
    """
    found = _of_detectron2(folder) if recipe.framework == "detectron2" else _of_mmseg(folder)
    figures = {metric: _finite(found[metric]) for metric in recipe.metrics if metric in found}
    if not figures:
        raise FigureError(f"{folder} must hold the figures of an evaluation, got none of {', '.join(recipe.metrics)}")
    return figures


def _finite(value: Any) -> float | None:
    return round(float(value), 4) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _of_detectron2(folder: Path) -> dict[str, Any]:
    """Of the training's last evaluation, or of an evaluation alone, which Detectron2 only logs."""
    metrics = folder / TRAIN_FOLDER / "metrics.json"
    if metrics.is_file():
        records = [r for r in _records(metrics) if any(f"{task}/{name}" in r for task, name in _DETECTRON2.values())]
        last = records[-1] if records else {}
        return {metric: last[key] for metric, (t, n) in _DETECTRON2.items() if (key := f"{t}/{n}") in last}
    log = folder / EVALUATE / "log.txt"
    tasks = _read_copypaste(log) if log.is_file() else {}
    return {metric: tasks[t][n] for metric, (t, n) in _DETECTRON2.items() if n in tasks.get(t, {})}


def _read_copypaste(log: Path) -> dict[str, Mapping[str, float]]:
    """Task -> name -> figure, of the last evaluation: lines ``Task: bbox``, then ``AP,AP50``, then ``42.3,60.1``."""
    last = log.read_text(encoding="utf-8", errors="replace").rpartition(_START)[2]
    lines = _COPYPASTE.findall(last.partition(_SEVERAL_SCALES)[0])
    tasks: dict[str, Mapping[str, float]] = {}
    for number, line in enumerate(lines[:-2]):
        if line.startswith("Task: "):
            names, values = (lines[number + offset].strip().split(",") for offset in (1, 2))
            tasks[line.removeprefix("Task: ").strip()] = dict(zip(names, map(float, values), strict=True))
    return tasks


def _of_mmseg(folder: Path) -> dict[str, Any]:
    """Of the last test in each step's folder: ``TIME/TIME.json``."""
    found = {}
    for metric, (step, name) in _MMSEG.items():
        files = sorted((folder / step).glob("*/*.json"))
        values = [record[name] for file in files for record in _records(file) if name in record]
        if values:
            found[metric] = values[-1]
    return found


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one per line; the last line may be half-written."""
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record
