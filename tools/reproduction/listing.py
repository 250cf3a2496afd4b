"""``tools/reproduce.py list``: every recipe, what was published of it, and what it takes to run it.

GPU-hours are an estimate of the training alone::

    hours = 3 * 2 * multiply-adds of an image * images seen / device rate / 3600

The multiply-adds are those of ``documents.costs``, scaled by area from the input that they were counted on to the
images of the training. Forward and backward are three times the forward; a multiply-add is two operations. Left out are
evaluation, loading, auxiliary heads, and what a device does at another rate: an estimate may be off by a factor of two.

``DEVICE_RATE`` is the effective rate of a V100 in float32, from a published speed: Detectron2's MODEL_ZOO.md has 0.210
s per iteration of Faster R-CNN R50-FPN 1x on 8 V100 with 2 images each. That model costs 211.2 G multiply-adds by our
count, and the mean area of its training images is 0.815 of the counted one: ``3 * 2 * 211.2e9 * 0.815 * 2 / 0.210 =
9.8e12`` operations per second, rounded to 10 TFLOP/s (``tests/reproduction/test_listing.py`` counts it anew).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from textwrap import wrap
from typing import Any

from documents.costs import costs
from reproduction.commands import batch_of_segmentor
from reproduction.common import select_recipes
from reproduction.data import LAYOUT, datasets_of, needs
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import METRICS, Recipe, config_root, get_config, get_config_file

DEVICE_RATE = 10.0  # TFLOP/s
_DEVICE_RATE_SOURCE = (
    ", about that of a V100 in float32: Detectron2's MODEL_ZOO.md has 0.210 s per iteration of Faster R-CNN R50-FPN 1x "
    "on 8 V100 with 2 images each, 9.8 TFLOP/s by the same formula"
)
_OPERATIONS = 3 * 2  # forward and backward of one multiply-add
_WIDTH = (72, 120)  # least and most columns
# Metric -> what a reader must know of it.
_NOTES = {
    "box_ap_test_dev": "test-dev has no public annotations: `run` gives the metrics on val2017; the config with "
    "_test_dev behind its name writes the file for COCO's server",
    "pq": "PQ is computed by the package panopticapi (github.com/cocodataset/panopticapi)",
}


@dataclass(frozen=True)
class Estimate:
    """What the training of a recipe takes.

    Attributes:
        images: seen in the whole schedule.
        multiply_adds: mean forward of one of them.
        gpu_hours: all GPUs together.
    """

    images: int
    multiply_adds: float
    gpu_hours: float


def estimate(recipe: Recipe, device_rate: float = DEVICE_RATE) -> Estimate:
    """Estimate the training of a recipe.

    Args:
        recipe: the recipe.
        device_rate: effective rate of one GPU in TFLOP/s.

    Raises:
        ConfigError: ``device_rate`` is not positive.
        ImportError: the recipe's framework, which resolves its config, is not installed.
    """
    if not device_rate > 0:
        raise ConfigError(f"--device-rate must be positive, got {device_rate}")
    cfg = get_config(recipe.name)
    cost = costs()[recipe.name]
    if recipe.framework == "detectron2":
        images, area = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH, _detector_area(cfg, cost.height)
    else:
        images, area = _images_of_segmentor(cfg, recipe), 1.0  # counted on the crop that it is trained on
    scaled = cost.multiply_adds * area
    return Estimate(images, scaled, _OPERATIONS * scaled * images / (device_rate * 1e12) / 3600)


def _images_of_segmentor(cfg: Any, recipe: Recipe) -> int:
    batch = batch_of_segmentor(recipe)
    if cfg.train_cfg.type == "IterBasedTrainLoop":
        return int(cfg.train_cfg.max_iters) * batch
    training_images = LAYOUT[datasets_of(recipe)[0]][0].count
    return int(cfg.train_cfg.max_epochs) * (training_images // batch) * batch  # an epoch drops what fills no batch


def _detector_area(cfg: Any, counted: int) -> float:
    """Return the mean area of a training image, cropped where the config crops it, over the area that was counted.

    Both have the same proportions: the short side decides.
    """
    sides = cfg.INPUT.MIN_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        sides = range(sides[0], sides[1] + 1)
    area = fmean((side / counted) ** 2 for side in sides)
    if not cfg.INPUT.CROP.ENABLED:
        return area
    if cfg.INPUT.CROP.TYPE != "relative_range":
        raise ValueError(f"INPUT.CROP.TYPE must be relative_range, got {cfg.INPUT.CROP.TYPE}")
    height, width = cfg.INPUT.CROP.SIZE  # each side keeps between that share and all of it
    return area * (1 + height) / 2 * (1 + width) / 2


def as_dict(recipe: Recipe, device_rate: float) -> dict[str, Any]:
    """Return all that is listed of a recipe; its estimate is None where its framework is not installed."""
    try:
        found: Estimate | None = estimate(recipe, device_rate)
    except ImportError:
        found = None
    return {
        "recipe": recipe.name,
        "framework": recipe.framework,
        "dataset": recipe.dataset,
        "method": recipe.method,
        "backbone": recipe.backbone,
        "schedule": recipe.schedule,
        "published": dict(recipe.metrics),
        "config": get_config_file(recipe.name),
        "source": recipe.source,
        "training_images": found and found.images,
        "multiply_adds_per_image": found and round(found.multiply_adds),
        "gpu_hours": found and round(found.gpu_hours, 1),
        "data": needs(recipe),
        "note": "; ".join(note for metric, note in _NOTES.items() if metric in recipe.metrics),
    }


def as_text(listed: Sequence[dict[str, Any]], device_rate: float, width: int) -> str:
    """Return the recipes for a terminal, those of a dataset and a folder of configs together.

    Args:
        listed: the recipes.
        device_rate: that their GPU-hours were estimated with.
        width: columns of the terminal.
    """
    width = min(max(width, _WIDTH[0]), _WIDTH[1])
    sources = list(dict.fromkeys(entry["source"] for entry in listed))
    groups: dict[tuple[str, Path], list[dict[str, Any]]] = {}
    for entry in listed:
        groups.setdefault((entry["dataset"], Path(entry["config"]).parent), []).append(entry)
    lines: list[str] = []
    for (_, folder), group in groups.items():
        lines += ["", *_heading(group, folder, width)]
        for entry in group:
            lines += _entry(entry, sources.index(entry["source"]) + 1, width)
    total = sum(entry["gpu_hours"] or 0 for entry in listed)
    lines += ["", f"{len(listed)} recipes, {total:,.0f} GPU-hours", ""]
    for number, source in enumerate(sources, start=1):
        lines += wrap(f"[{number}] {source}", width, subsequent_indent="    ")
    return "\n".join([*lines, "", *wrap(_rate_in_words(device_rate), width)])


def _rate_in_words(device_rate: float) -> str:
    origin = _DEVICE_RATE_SOURCE if device_rate == DEVICE_RATE else ""
    return (
        f"GPU-hours are an estimate of the training alone, at an effective {device_rate:g} TFLOP/s{origin}. It is 3 "
        "times the forward's multiply-adds, at the size of the training images, for all images of the schedule. They "
        "may be off by a factor of two; --device-rate takes the rate of your GPU."
    )


def _heading(group: Sequence[dict[str, Any]], folder: Path, width: int) -> Iterator[str]:
    root = config_root().parent
    title = f"{group[0]['dataset']}, with {group[0]['framework']}"
    suffix = Path(group[0]["config"]).suffix
    yield from (title, "=" * len(title))
    yield f"configs: {folder.relative_to(root) if folder.is_relative_to(root) else folder}/RECIPE{suffix}"
    for need in dict.fromkeys(need for entry in group for need in entry["data"]):
        yield from wrap(need, width, subsequent_indent="      ")
    yield ""


def _entry(entry: dict[str, Any], source: int, width: int) -> list[str]:
    hours = f"{entry['gpu_hours']:7,.0f} GPU-hours" if entry["gpu_hours"] else f"{entry['framework']} is missing"
    hours = f"{hours} [{source}]"
    name = entry["recipe"]
    head = f"{name:<{width - len(hours) - 1}} {hours}"
    lines = [head] if len(head) <= width else [name, f"{hours:>{width}}"]
    published = ", ".join(f"{METRICS[metric]} {value:g}" for metric, value in entry["published"].items())
    for text in filter(None, (f"published: {published}", entry["note"])):
        lines += wrap(text, width, initial_indent="    ", subsequent_indent="      ")
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``list``."""
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--device-rate",
        type=float,
        default=DEVICE_RATE,
        metavar="TFLOPS",
        help="effective rate of one GPU that GPU-hours are estimated with (default: %(default)g, a V100 in float32)",
    )


def main(args: argparse.Namespace) -> int:
    """Print the recipes."""
    listed = [as_dict(recipe, args.device_rate) for recipe in select_recipes(args.recipes)]
    rate = {"device_rate_tflops": args.device_rate, "device_rate": _rate_in_words(args.device_rate)}
    width = shutil.get_terminal_size().columns
    print(json.dumps({**rate, "recipes": listed}, indent=1) if args.json else as_text(listed, args.device_rate, width))
    return 0
