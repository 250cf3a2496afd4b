"""What a training leaves in its output folder: config, checkpoints, and the log of its metrics. It needs no PyTorch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resnest_backbones.errors import ConfigError

Curve = tuple[list[int], list[float]]  # iterations in growing order, and a value for each


class Training(NamedTuple):
    """What a training, or an evaluation, has left."""

    output_dir: Path
    metrics: Mapping[str, float]  # of the last evaluation, by name; in percent
    model: Path | None  # the last checkpoint; None where none was saved


def named_checkpoint(folder: Path) -> Path | None:
    """Return what the file ``last_checkpoint`` of both frameworks names, a file or a path that may have moved since."""
    named = folder / "last_checkpoint"
    if not named.is_file():
        return None
    if name := Path(named.read_text(encoding="utf-8").strip()).name:
        return folder / name
    # The training was interrupted while that file was written, after the checkpoint.
    return max(folder.glob("*.pth"), key=lambda file: file.stat().st_mtime, default=None)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint in a folder, or Detectron2's final one where none is named; None without either."""
    file = named_checkpoint(folder) or folder / "model_final.pth"
    return file if file.is_file() else None


def how_to_resume(folder: str | Path) -> str:
    """Return what to do after an interrupted training, by the checkpoint that its output folder names."""
    named = named_checkpoint(Path(folder))
    if named is None:
        return f"no checkpoint was saved in {folder} yet; the same command starts over"
    return f"the last checkpoint is {named}: to continue, rerun the same command with --resume"


def find_training(folder: Path) -> tuple[Path, Path]:
    """Return config and last checkpoint of the output folder of a training of either framework.

    Raises:
        ConfigError: one of them is not there, or there are several configs.
    """
    configs = [folder / "config.yaml"] if (folder / "config.yaml").is_file() else sorted(folder.glob("*.py"))
    if len(configs) != 1:
        raise ConfigError(f"{folder} must contain config.yaml or one Python config, found {len(configs)}")
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise ConfigError(f"{folder} contains no training checkpoint, such as model_final.pth")
    return configs[0], checkpoint


def read_metrics(*files: str | Path, key: str = "iteration") -> dict[str, Curve]:
    """Read the curves in logs of one JSON object per line.

    A resumed training repeats iterations: what it logged last counts. Lines that are cut off or not an object with an
    iteration are left out, and so are values that are not numbers. NaN and infinite values are kept.

    Args:
        files: of one training, in the order of time: Detectron2's ``metrics.json``, MMEngine's ``scalars.json``.
        key: name of the iteration in a line: "iteration" in Detectron2, "step" in MMEngine.
    """
    curves: dict[str, Curve] = {}
    for file in files:
        trained, by_epoch = 0, False
        for record in read_records(Path(file)):
            iteration = record.pop(key, None)
            if not isinstance(iteration, int):
                continue
            if "iter" in record:  # MMEngine, of the training
                trained, by_epoch = iteration, "epoch" in record
            elif by_epoch:  # the "step" of a validation is an epoch there
                iteration = trained
            for name, value in record.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    _add(curves.setdefault(name, ([], [])), iteration, value)
    return curves


def _add(curve: Curve, iteration: int, value: float) -> None:
    iterations, values = curve
    while iterations and iterations[-1] >= iteration:
        iterations.pop()
        values.pop()
    iterations.append(iteration)
    try:
        values.append(float(value))
    except OverflowError:  # an integer of JSON may be beyond every float
        values.append(math.inf if value > 0 else -math.inf)


def read_records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects in a log that has one per line; lines that are cut off, or something else, are left out."""
    with open(file, "rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record


def last_evaluation(folder: Path) -> dict[str, Any]:
    """Return the last record of Detectron2's ``metrics.json`` that has metrics of an evaluation; {} where none has."""
    file = folder / "metrics.json"
    records = [*read_records(file)] if file.is_file() else []
    return next((record for record in reversed(records) if any("/AP" in name for name in record)), {})
