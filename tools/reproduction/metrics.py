"""What the run of a recipe wrote about itself: its curves, and its final values.

::

    train/metrics.json                 Detectron2, tools/pretrain.py: an object per line, with "iteration"
    train/TIME/vis_data/scalars.json   MMEngine: likewise, with "step"; a file for each start of the training
    evaluate/log.txt                   Detectron2 only logs what --eval-only gives
    evaluate/metrics.json              tools/pretrain.py: an object with the accuracy
    test/TIME/TIME.json                MMEngine: the metrics of a test
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import Recipe
from resnest_backbones.outputs import Curve, last_evaluation, read_metrics, read_records

# Metric of a recipe -> its name in Detectron2: task and metric.
_DETECTRON2 = {"box_ap": ("bbox", "AP"), "mask_ap": ("segm", "AP"), "pq": ("panoptic_seg", "PQ")}
# Metric of a recipe -> the step that measures it, and its name in MMSegmentation's IoUMetric.
_MMSEG = {
    "miou": ("test", "mIoU"),
    "miou_scales_not_stated": ("test", "mIoU"),
    "miou_multi_scale": ("test_tta", "mIoU"),
    "pix_acc_multi_scale": ("test_tta", "aAcc"),
}
# Framework -> names in its files -> "loss", or metric of a recipe.
_CURVES: Mapping[str, Mapping[str, str]] = {
    "detectron2": {"total_loss": "loss"} | {"/".join(names): metric for metric, names in _DETECTRON2.items()},
    "mmseg": {"loss": "loss", "mIoU": "miou"},
    "pretrain": {"loss": "loss", "top1": "top1"},
}
# Detectron2 logs the first when it starts. Our tool logs the second before metrics of several scales, which have the
# same names as those of one scale that recipes publish.
_START, _SEVERAL_SCALES = "Rank of current process: ", "Evaluating with test-time augmentation"


def training_files(folder: Path, framework: str) -> list[Path]:
    """Return the files of metrics that a training wrote, in the order of time."""
    pattern = "train/*/vis_data/scalars.json" if framework == "mmseg" else "train/metrics.json"
    return sorted(file for file in folder.glob(pattern) if file.is_file())


def read_curves(folder: Path, framework: str) -> dict[str, Curve]:
    """Read "loss" and metrics, by the names of ``METRICS``, of the training of a run."""
    found = read_metrics(*training_files(folder, framework), key="step" if framework == "mmseg" else "iteration")
    return {ours: found[name] for name, ours in _CURVES[framework].items() if name in found}


def finite(value: object) -> float | None:
    """Return a number as a float; None for what is not finite, not a number, or beyond every float."""
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:
        return None


def final_metrics(recipe: Recipe, folder: Path) -> dict[str, float | None]:
    """Read the metrics that a recipe publishes from the folder of its run.

    They are in percent, by the names of ``METRICS``; None where the framework gave NaN. Metrics on test-dev are
    missing, since it has no public annotations, and PQ where its package was not installed. To have none is an error.
    """
    found = {"detectron2": _of_detectron2, "mmseg": _of_mmseg, "pretrain": _of_pretrain}[recipe.framework](folder)
    metrics = {metric: finite(found[metric]) for metric in recipe.metrics if metric in found}
    if not metrics:
        raise ConfigError(f"{folder} must hold the metrics of an evaluation, got none of {', '.join(recipe.metrics)}")
    return {metric: value if value is None else round(value, 4) for metric, value in metrics.items()}


def _of_detectron2(folder: Path) -> dict[str, Any]:
    """Read the last evaluation of a training, or an evaluation alone."""
    if (folder / "train" / "metrics.json").is_file():
        last = last_evaluation(folder / "train")
        return {metric: last[name] for name, metric in _CURVES["detectron2"].items() if name in last}
    log = folder / "evaluate" / "log.txt"
    tasks = _read_copypaste(log) if log.is_file() else {}
    return {metric: tasks[t][name] for metric, (t, name) in _DETECTRON2.items() if name in tasks.get(t, {})}


def _read_copypaste(log: Path) -> dict[str, Mapping[str, float]]:
    """Read the last evaluation in a log: lines ``Task: bbox``, then ``AP,AP50``, then ``42.3,60.1``."""
    last = log.read_text(encoding="utf-8", errors="replace").rpartition(_START)[2]
    lines = re.findall("copypaste: (.*)", last.partition(_SEVERAL_SCALES)[0])
    tasks: dict[str, Mapping[str, float]] = {}
    for number, line in enumerate(lines[:-2]):
        if line.startswith("Task: "):
            names, values = (lines[number + offset].strip().split(",") for offset in (1, 2))
            tasks[line.removeprefix("Task: ").strip()] = dict(zip(names, map(float, values), strict=True))
    return tasks


def _of_mmseg(folder: Path) -> dict[str, Any]:
    """Read the last test in the folder of each step."""
    found = {}
    for metric, (step, name) in _MMSEG.items():
        values = [r[name] for file in sorted((folder / step).glob("*/*.json")) for r in read_records(file) if name in r]
        if values:
            found[metric] = values[-1]
    return found


def _of_pretrain(folder: Path) -> dict[str, Any]:
    """Read the last evaluation of a training, or an evaluation alone."""
    files = (folder / step / "metrics.json" for step in ("train", "evaluate"))
    curves = read_metrics(*(file for file in files if file.is_file()))
    return {"top1": curves["top1"][1][-1]} if "top1" in curves else {}
