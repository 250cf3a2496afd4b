"""What the demonstrations of the frameworks have in common: their data set, the files of figures, the report.

Each is in its plugin, ``demonstration.detection`` and ``demonstration.segmentation``;
``tools/make_demo.py`` runs them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demonstration.digits import DemoDataset, make_demo_dataset
from resnest_backbones.cli import shorten

NUM_TRAIN = 1000
NUM_VAL = 100
IMAGE_SIZE = 160  # what the configs are made for
DIGITS_PER_IMAGE = (2, 7)  # the more there are to learn from in an image, the fewer images it takes


@dataclass(frozen=True)
class Demo:
    """What a demonstration leaves behind.

    Attributes:
        folder: where all but the data set is.
        results: name -> percent, None for what is not defined.
        headline: names of the figures to tell first.
        panels: what the pictures show, from left to right.
        model: the trained weights.
        dataset: what it was trained on.
        commands: what could be done next -> a command line that does it.
    """

    folder: Path
    results: Mapping[str, float | None]
    headline: Sequence[str]
    panels: Sequence[str]
    model: Path
    dataset: DemoDataset
    commands: Mapping[str, str]

    @property
    def results_json(self) -> Path:
        """The figures."""
        return self.folder / "results.json"

    @property
    def curves(self) -> Path:
        """Losses and figures over the iterations."""
        return self.folder / "curves.png"

    @property
    def predictions(self) -> Path:
        """The sheet of pictures."""
        return self.folder / "predictions.png"

    @property
    def page(self) -> Path:
        """What ``tools/visualize.py`` shows, in one file."""
        return self.folder / "visualized" / "index.html"

    @property
    def pictures(self) -> Path:
        """The folder of single pictures."""
        return self.folder / "predictions"


def make_dataset(output_dir: Path, *, num_train: int, num_val: int) -> DemoDataset:
    """The data set of all demonstrations, below ``output_dir``; what is there is used again.

    Raises:
        ValueError: a number is out of its range.
        FileExistsError: the data set there has other arguments.
        ImportError: a package of the extra ``demo`` is missing.
    """
    return make_demo_dataset(
        output_dir / "data",
        num_train=num_train,
        num_val=num_val,
        image_size=IMAGE_SIZE,
        digits_per_image=DIGITS_PER_IMAGE,
    )


def draw_page(demo: Demo, *options: str | Path) -> None:
    """Write what ``tools/visualize.py`` shows of the trained model.

    Args:
        demo: what it is of; the page goes into its folder.
        options: of that tool: the model and the held-out images.
    """
    from visualization.cli import build_argument_parser, visualize

    visualize(build_argument_parser().parse_args([*map(str, options), "--output-dir", str(demo.page.parent)]))


def check_iterations(iterations: int | None) -> None:
    """Raise ValueError unless ``iterations`` is None or positive."""
    if iterations is not None and iterations < 1:
        raise ValueError(f"iterations must be a positive integer, got {iterations}")


def check_same_length(folder: Path, iterations: int, found: int) -> None:
    """Refuse to go on with a training of another length: its learning rates were others.

    Args:
        folder: that holds the training.
        iterations: asked for.
        found: of the training there.

    Raises:
        ValueError: they differ.
    """
    if found != iterations:
        raise ValueError(
            f"iterations must be {found}, as in the training that {folder} holds, got {iterations}; remove that folder "
            "or choose another output folder"
        )


# Figures


def write_results(figures: Mapping[str, float], folder: Path, *, title: str) -> None:
    """Write ``results.txt`` and, last, ``results.json``: percent, None for what is not defined (NaN).

    Args:
        figures: name -> percent; names with a hyphen are those of a class.
        folder: to write to.
        title: first line of the text.
    """
    names = sorted(figures, key=lambda name: "-" in name)  # those of classes behind all others
    rounded = {name: round(figures[name], 3) if math.isfinite(figures[name]) else None for name in names}
    width = max(10, *map(len, names))
    lines = [f"{name:<{width}} {show_figure(value):>6}\n" for name, value in rounded.items()]
    (folder / "results.txt").write_text(f"{title}\n" + "".join(lines))
    (folder / "results.json").write_text(json.dumps(rounded, indent=2) + "\n")


def read_results(folder: Path) -> dict[str, float | None]:
    """What ``write_results`` wrote."""
    results: dict[str, float | None] = json.loads((folder / "results.json").read_text())
    return results


def show_figure(value: float | None) -> str:
    """Percent with one decimal."""
    return "n/a" if value is None else f"{value:.1f}"


# The report


def report(demos: Mapping[str, Demo], seconds: float) -> str:
    """What to tell a user when all is done: the figures, where everything is, and what to do next.

    Args:
        demos: name -> what it left behind; not empty.
        seconds: that all of it took.
    """
    dataset = next(iter(demos.values())).dataset
    lines = [f"done in {seconds:.0f} seconds, all in all; data set: {shorten(dataset.root)}"]
    for name, demo in demos.items():
        figures = ", ".join(f"{figure} {show_figure(demo.results.get(figure))}" for figure in demo.headline)
        count = sum(1 for _ in demo.dataset.val_images.iterdir())
        panels = " | ".join(demo.panels)
        lines += [
            "",
            f"{name}: {figures} on {count} held-out images",
            f"  pictures   {shorten(demo.predictions)}: {panels}; one by one in {shorten(demo.pictures)}",
            f"  page       {shorten(demo.page)}: false positives, misses, precision or confusion, split attention",
            f"  curves     {shorten(demo.curves)}",
            f"  figures    {shorten(demo.results_json)}",
            f"  model      {shorten(demo.model)}",
        ]
        for purpose, command in demo.commands.items():
            lines += [f"  Next, {purpose}:", f"    {command}"]
    return "\n".join(lines)
