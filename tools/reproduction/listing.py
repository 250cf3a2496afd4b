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
import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from textwrap import wrap
from typing import Any, NamedTuple

from reproduction.commands import batch_of_segmentor
from reproduction.common import EPOCHS, NETWORKS, can_be_fetched, select_recipes
from reproduction.data import LAYOUT, needs
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import METRICS, Recipe, config_root, get_config, get_config_file
from resnest_backbones.weights import SCHEME, WEIGHTS

DEVICE_RATE = 10.0  # TFLOP/s
_DEVICE_RATE_SOURCE = (
    ", about that of a V100 in float32: Detectron2's MODEL_ZOO.md has 0.210 s per iteration of Faster R-CNN R50-FPN 1x "
    "on 8 V100 with 2 images each, 9.8 TFLOP/s by the same formula"
)
# Metric -> what a reader must know of it.
_NOTES = {
    "box_ap_test_dev": "test-dev has no public annotations: `run` gives the metrics on val2017; the config with "
    "_test_dev behind its name writes the file for COCO's server",
    "pq": "PQ is computed by the package panopticapi (github.com/cocodataset/panopticapi)",
}


class Estimate(NamedTuple):
    """What the training of a recipe takes: images seen, mean forward of one, hours of all GPUs together."""

    images: int
    multiply_adds: float
    gpu_hours: float


def estimate(recipe: Recipe, device_rate: float = DEVICE_RATE) -> Estimate:
    """Estimate the training of a recipe on GPUs with an effective rate in TFLOP/s; it needs the recipe's framework."""
    if not device_rate > 0:
        raise ConfigError(f"--device-rate must be positive, got {device_rate}")
    if recipe.name in NETWORKS:
        from resnest_backbones import get_variant  # not at the top: it imports PyTorch, which --help need not

        images = EPOCHS * LAYOUT[recipe.dataset][0].count
        counted, area = get_variant(recipe.name).multiply_adds or 0, (WEIGHTS[recipe.name].crop / 224) ** 2
        return _estimate(counted * area, images, device_rate)
    from documents.costs import costs  # likewise

    cfg, cost, area = get_config(recipe.name), costs()[recipe.name], 1.0
    if recipe.framework == "detectron2":
        images, area = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH, _detector_area(cfg, cost.height)
    else:  # counted on the crop that it is trained on
        batch = batch_of_segmentor(recipe)
        if cfg.train_cfg.type == "IterBasedTrainLoop":
            images = batch * cfg.train_cfg.max_iters
        else:  # an epoch drops what fills no batch
            images = batch * cfg.train_cfg.max_epochs * (LAYOUT[recipe.dataset][0].count // batch)
    return _estimate(cost.multiply_adds * area, images, device_rate)


def _estimate(multiply_adds: float, images: int, device_rate: float) -> Estimate:
    return Estimate(images, multiply_adds, 3 * 2 * multiply_adds * images / (device_rate * 1e12) / 3600)


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
        **{key: getattr(recipe, key) for key in ("framework", "dataset", "method", "backbone", "schedule")},
        "published": dict(recipe.metrics),
        "config": "" if recipe.name in NETWORKS else get_config_file(recipe.name),
        "source": recipe.source,
        "training_images": found and found.images,
        "multiply_adds_per_image": found and round(found.multiply_adds),
        "gpu_hours": found and round(found.gpu_hours, 1),
        "trained_file": f"{SCHEME}{recipe.name}" if can_be_fetched(recipe) else "",
        "data": needs(recipe),
        "note": "; ".join(note for metric, note in _NOTES.items() if metric in recipe.metrics) or _crop(recipe),
    }


def _crop(recipe: Recipe) -> str:
    record = WEIGHTS.get(recipe.name)
    return f"on images of {record.crop} x {record.crop} pixels" if record else ""


def as_text(listed: Sequence[dict[str, Any]], device_rate: float, width: int) -> str:
    """Return the recipes for a terminal of ``width`` columns, those of a dataset and a folder of configs together."""
    width, root = min(max(width, 72), 120), config_root().parent
    sources = list(dict.fromkeys(entry["source"] for entry in listed))
    groups: dict[tuple[str, Path], list[dict[str, Any]]] = {}
    for entry in listed:
        groups.setdefault((entry["dataset"], Path(entry["config"]).parent), []).append(entry)
    lines: list[str] = []
    for (dataset, folder), group in groups.items():
        title = f"{dataset}, with {group[0]['framework']}"
        place = folder.relative_to(root) if folder.is_relative_to(root) else folder
        configs = f"configs: {place}/RECIPE{Path(group[0]['config']).suffix}"
        command = "trained and evaluated by tools/pretrain.py, as docs/pretraining.md says"
        lines += ["", title, "=" * len(title), configs if group[0]["config"] else command]
        for need in dict.fromkeys(need for entry in group for need in entry["data"]):
            lines += wrap(need, width, subsequent_indent="      ")
        lines.append("")
        for entry in group:
            name, hours = entry["recipe"], entry["gpu_hours"]
            cost = f"{hours:7,.0f} GPU-hours" if hours else f"{entry['framework']} is missing"
            cost = f"{cost} [{sources.index(entry['source']) + 1}]"
            head = f"{name:<{width - len(cost) - 1}} {cost}"
            lines += [head] if len(head) <= width else [name, f"{cost:>{width}}"]
            published = ", ".join(f"{METRICS[metric]} {value:g}" for metric, value in entry["published"].items())
            trained = "its trained file can be fetched: `run --published` evaluates it" if entry["trained_file"] else ""
            for text in filter(None, (f"published: {published}", trained, entry["note"])):
                lines += wrap(text, width, initial_indent="    ", subsequent_indent="      ")
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``list``."""
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--device-rate", type=float, default=DEVICE_RATE, metavar="TFLOPS",
        help="effective rate of one GPU that GPU-hours are estimated with (default: %(default)g, a V100 in float32)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Print the recipes."""
    with contextlib.redirect_stdout(sys.stderr):  # MMSegmentation prints while it is imported
        listed = [as_dict(recipe, args.device_rate) for recipe in select_recipes(args.recipes)]
    rate = {"device_rate_tflops": args.device_rate, "device_rate": _rate_in_words(args.device_rate)}
    width = shutil.get_terminal_size().columns
    if args.json:
        print(json.dumps({**rate, "recipes": listed}, indent=1))
    else:
        print(as_text(listed, args.device_rate, width))
    return 0
