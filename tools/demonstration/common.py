"""What the demonstrations of both frameworks share: dataset, runs of tools, results, report.

They take the steps of a real training, and write, under one folder, with PART for detection or segmentation::

    data/                                    the dataset
    PART/                                    the checkpoints and logs of the framework
    PART/results.json, results.txt           the metrics in percent; null where undefined
    PART/curves.png                          losses, and metrics over the iterations
    PART/predictions.png                     a sheet of the pictures in predictions/
    PART/predictions/000001.png
    PART/visualized/index.html               what tools/visualize.py shows

Finished parts are reused: the dataset, the checkpoints of an interrupted training, a finished training.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkout import ROOT as ROOT
from demonstration.digits import DemoDataset, make_demo_dataset
from resnest_backbones.commands import shorten
from resnest_backbones.outputs import named_checkpoint
from visualization.page import visualize
from visualization.panels import Panel, draw_panels
from visualize import build_argument_parser

NUM_TRAIN = 1000
NUM_VAL = 100
PICTURES = 12  # held-out images to draw


@dataclass(frozen=True)
class Demonstration:
    """What a demonstration has written."""

    folder: Path  # of everything but the dataset
    model: Path  # the trained weights
    dataset: DemoDataset
    headline: Sequence[str]  # names of the metrics to report
    panels: Sequence[str]  # what the pictures show, from left to right
    commands: Mapping[str, str]  # purpose -> a command line to run next

    @property
    def results(self) -> dict[str, float | None]:
        """Metrics in percent, None where undefined."""
        return json.loads((self.folder / "results.json").read_text())

    @property
    def predictions(self) -> Path:
        """The sheet of pictures."""
        return self.folder / "predictions.png"


def make_dataset(output_dir: Path, *, num_train: int, num_val: int) -> DemoDataset:
    """Write the dataset of the demonstrations below ``output_dir``, or reuse it; errors as of ``make_demo_dataset``."""
    # The configs are made for this size; with many digits in an image, fewer images suffice.
    sizes = {"num_train": num_train, "num_val": num_val, "image_size": 160}
    return make_demo_dataset(output_dir / "data", digits_per_image=(2, 7), **sizes)


def check_iterations(iterations: int, folder: Path, found: int | None) -> None:
    """Refuse iterations that are not positive, or not the ``found`` ones of a training, whose learning rates differ."""
    if iterations < 1:
        raise ValueError(f"iterations must be a positive integer, got {iterations}")
    if found not in (None, iterations):
        raise ValueError(
            f"iterations must be {found}, as for the run in {folder}, got {iterations}; remove that folder or choose "
            "another output folder"
        )


def is_finished(folder: Path, model: Path) -> bool:
    """Return whether a training is finished, and print what happens otherwise."""
    if (folder / "results.json").is_file() and model.is_file():
        print(f"{folder} contains a finished run, which is reused; remove it to train again", flush=True)
        return True
    if named_checkpoint(folder) is not None:
        print(f"{folder} contains an interrupted run, which resumes from its last checkpoint", flush=True)
    return False


def run_tool(name: str, run: Callable[[list[str]], object], *arguments: str | Path) -> None:
    """Run a tool in this process, after printing its command line."""
    words = [shorten(word) if isinstance(word, Path) else word for word in arguments]
    print(f"Running\n  {shlex.join([f'tools/{name}.py', *words])}", flush=True)
    run(words)


def draw_page(folder: Path, *options: str | Path) -> None:
    """Run ``tools/visualize.py`` with ``options``, into ``folder/visualized``."""
    visualize(build_argument_parser().parse_args([*map(str, options), "--output-dir", str(folder / "visualized")]))


def draw_predictions(pictures: Mapping[str, Sequence[Panel]], folder: Path, **options: Any) -> None:
    """Draw the panels of each image into ``folder/predictions``, and all of them on ``folder/predictions.png``."""
    for name, panels in pictures.items():
        draw_panels([panels], folder / "predictions" / f"{name}.png", **options)
    draw_panels([*pictures.values()], folder / "predictions.png", columns=2, **options)


def write_results(metrics: Mapping[str, float], folder: Path, *, title: str) -> None:
    """Write metrics in percent to ``results.txt`` and, last, ``results.json``, with null for NaN.

    Names with a hyphen belong to one class and go last; ``title`` is the first line of the text.
    """
    names = sorted(metrics, key=lambda name: "-" in name)
    rounded = {name: round(metrics[name], 3) if math.isfinite(metrics[name]) else None for name in names}
    width = max(10, *map(len, names))
    lines = [f"{name:<{width}} {_percent(value):>6}\n" for name, value in rounded.items()]
    (folder / "results.txt").write_text(f"{title}\n" + "".join(lines))
    (folder / "results.json").write_text(json.dumps(rounded, indent=2) + "\n")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def report(demonstrations: Mapping[str, Demonstration], seconds: float) -> str:
    """Return the results of at least one demonstration, where the files are, and what to do next."""
    dataset = next(iter(demonstrations.values())).dataset
    lines = [f"finished after {seconds:.0f} seconds; dataset: {shorten(dataset.root)}"]
    for name, one in demonstrations.items():
        results, folder = one.results, shorten(one.folder)
        metrics = ", ".join(f"{metric} {_percent(results.get(metric))}" for metric in one.headline)
        lines += [
            "",
            f"{name}: {metrics} on {len(list(dataset.val_images.iterdir()))} held-out images",
            f"  images     {folder}/predictions.png: {' | '.join(one.panels)}; individual files in "
            f"{folder}/predictions",
            f"  page       {folder}/visualized/index.html: false positives, misses, precision, confusion, attention",
            f"  curves     {folder}/curves.png",
            f"  metrics    {folder}/results.json",
            f"  model      {shorten(one.model)}",
        ]
        for purpose, command in one.commands.items():
            lines += [f"  Next, {purpose}:", f"    {command}"]
    return "\n".join(lines)
