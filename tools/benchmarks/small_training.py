"""The trainings of the small transfer benchmark, each a process of ``tools/train_net.py``."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.small_records import DATASETS, SmallRun
from checkout import ROOT, TOOLS, environment_with_package
from demonstration.common import make_dataset
from resnest_backbones.errors import DatasetError, ResNeStError
from resnest_backbones.outputs import last_evaluation


def config_file(method: str, network: str, dataset: str, recipe: str) -> Path:
    suffix = "_cpu" if recipe == "cpu" else ""
    return ROOT / "configs" / "detectron2" / "small" / f"{method}_{network}_fpn_{dataset}{suffix}.yaml"


def data_options(folder: Path) -> list[str]:
    """Return the options of ``tools/train_net.py`` for a dataset's folder."""
    images, (train, val) = folder / "images", (folder / "annotations" / f"instances_{s}.json" for s in ("train", "val"))
    if missing := [path for path in (images, train, val) if not path.exists()]:
        raise DatasetError(
            f"{folder} must hold images/ and annotations/instances_{{train,val}}.json, {missing[0]} does not exist"
        )
    return _options(train, images, val, images)


def _options(train_json: Path, train_images: Path, val_json: Path, val_images: Path) -> list[str]:
    options = {"train-json": train_json, "train-images": train_images, "val-json": val_json, "val-images": val_images}
    return [word for name, path in options.items() for word in (f"--{name}", str(path))]


def pretrain(network: str, output_dir: Path, recipe: str, options: Sequence[str] = ()) -> float:
    """Train a network on digits, or use what ``output_dir`` holds of that; return its box AP on held-out digits."""
    digits = make_dataset(output_dir / "digits", num_train=1000, num_val=100)
    data = _options(digits.train_json, digits.train_images, digits.val_json, digits.val_images)
    config = config_file("mask_rcnn", network, "digits", recipe)
    metrics = train(_pretrained(network, output_dir), config, [*data, *options, "SEED", "1"])
    return _percent(metrics, "bbox/AP")


def transfer(
    dataset: str, network: str, start: str, seed: int, *, output_dir: Path, recipe: str, options: Sequence[str]
) -> SmallRun:
    """Train a network on a dataset.

    ``options`` are those of ``data_options``, and keys and values for the config.
    """
    words = [*options, "SEED", str(seed)]
    if start == "digits":
        words += ["MODEL.WEIGHTS", str(_pretrained(network, output_dir) / "model_final.pth")]
    config = config_file(DATASETS[dataset].method, network, dataset, recipe)
    begin = time.monotonic()
    metrics = train(output_dir / f"{dataset}_{network}_{start}_{seed}", config, words)
    percent = {name: _percent(metrics, name) for name in DATASETS[dataset].metrics}
    return SmallRun(network, start, seed, percent, round(time.monotonic() - begin))


def _pretrained(network: str, output_dir: Path) -> Path:
    return output_dir / f"digits_{network}"


def train(folder: Path, config: Path, options: Sequence[str]) -> dict[str, float]:
    """Train, from where an earlier training in the folder stopped; return the metrics of its last evaluation.

    Raises:
        ResNeStError: the training failed, or left no metrics; the message names the file to look at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "console.txt"
    words = ["--resume", "--config-file", str(config), *options, "OUTPUT_DIR", str(folder)]
    with open(log, "a") as stream:
        done = subprocess.run(
            [sys.executable, TOOLS / "train_net.py", *words],
            stdout=stream, stderr=subprocess.STDOUT, env=environment_with_package(os.environ),
        )  # fmt: skip
    if done.returncode:
        raise ResNeStError(f"{config.stem} failed with status {done.returncode}; its log is {log}")
    metrics = last_evaluation(folder)
    if not metrics:
        raise ResNeStError(f"{folder / 'metrics.json'} holds no metrics of an evaluation")
    return metrics


def _percent(metrics: Mapping[str, float], name: str) -> float:
    """Return a metric; a detector that finds nothing has an AP of 0, which Detectron2 gives as NaN or not at all."""
    value = metrics.get(name, math.nan)
    return 0.0 if math.isnan(value) else round(value, 3)
