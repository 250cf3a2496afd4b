"""``tools/reproduce.py list``: every row, what was published of it, and what it takes to run it."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from reproduction.cost import DEVICE_RATE, DEVICE_RATE_SOURCE, Estimate, estimate
from reproduction.data import needs
from reproduction.rows import RowError, select_rows
from resnest_backbones.model_zoo import METRICS, Recipe, config_root, get_config_file

_WIDTH = (72, 120)  # least and most columns
# Metric -> what a reader must know of it.
_NOTES = {
    "box_ap_test_dev": "test-dev has no public annotations: `run` gives the figures on val2017; the config with "
    "_test_dev behind its name writes the file for COCO's server",
    "pq": "PQ is computed by the package panopticapi (github.com/cocodataset/panopticapi)",
}


@dataclass(frozen=True)
class Entry:
    """A row as it is listed.

    Attributes:
        recipe: the row.
        config: path of its config file.
        estimate: of its training; None where its framework, which resolves the config, is not installed.
        data: lines that say which data it needs.
        note: what else a reader must know; may be "".
    """

    recipe: Recipe
    config: Path
    estimate: Estimate | None
    data: tuple[str, ...]
    note: str


def entries(recipes: Sequence[Recipe], device_rate: float = DEVICE_RATE) -> list[Entry]:
    """Rows with all that is listed of them.

    Args:
        recipes: the rows.
        device_rate: effective rate of one GPU in TFLOP/s.

    Raises:
        ValueError: ``device_rate`` is not positive.
    """
    return [
        Entry(
            recipe,
            Path(get_config_file(recipe.name)),
            _estimate(recipe, device_rate),
            needs(recipe),
            "; ".join(note for metric, note in _NOTES.items() if metric in recipe.metrics),
        )
        for recipe in recipes
    ]


def _estimate(recipe: Recipe, device_rate: float) -> Estimate | None:
    try:
        return estimate(recipe, device_rate)
    except ImportError:
        return None


def as_text(listed: Sequence[Entry], device_rate: float, width: int) -> str:
    """The rows for a terminal, those of a data set and a folder of configs together.

    Args:
        listed: the rows.
        device_rate: that their GPU-hours were estimated with.
        width: columns of the terminal.
    """
    width = min(max(width, _WIDTH[0]), _WIDTH[1])
    sources = list(dict.fromkeys(entry.recipe.source for entry in listed))
    groups: dict[tuple[str, Path], list[Entry]] = {}
    for entry in listed:
        groups.setdefault((entry.recipe.dataset, entry.config.parent), []).append(entry)
    lines: list[str] = []
    for group in groups.values():
        lines += ["", *_heading(group, width)]
        for entry in group:
            lines += _row(entry, sources.index(entry.recipe.source) + 1, width)
    total = sum(entry.estimate.gpu_hours for entry in listed if entry.estimate)
    lines += ["", f"{len(listed)} rows, {total:,.0f} GPU-hours", ""]
    for number, source in enumerate(sources, start=1):
        lines += wrap(f"[{number}] {source}", width, subsequent_indent="    ")
    return "\n".join([*lines, "", *wrap(rate_in_words(device_rate), width)])


def rate_in_words(device_rate: float) -> str:
    """What the GPU-hours were estimated with."""
    origin = f", about that of {DEVICE_RATE_SOURCE}" if device_rate == DEVICE_RATE else ""
    return (
        f"GPU-hours are an estimate of the training alone, at an effective {device_rate:g} TFLOP/s{origin}. It is 3 "
        "times the forward's multiply-adds, at the size of the training images, for all images of the schedule. They "
        "may be off by a factor of two; --device-rate takes the rate of your GPU."
    )


def _heading(group: Sequence[Entry], width: int) -> list[str]:
    entry = group[0]
    folder = entry.config.parent
    shown = folder.relative_to(config_root().parent) if folder.is_relative_to(config_root().parent) else folder
    title = f"{entry.recipe.dataset}, with {entry.recipe.framework}"
    lines = [title, "=" * len(title), f"configs: {shown}/ROW{entry.config.suffix}"]
    for number, need in enumerate(dict.fromkeys(need for entry in group for need in entry.data)):
        lines += wrap(need, width, initial_indent="   " if number else "data: ", subsequent_indent="      ")
    return [*lines, ""]


def _row(entry: Entry, source: int, width: int) -> list[str]:
    if entry.estimate:
        hours = f"{entry.estimate.gpu_hours:7,.0f} GPU-hours [{source}]"
    else:
        hours = f"{entry.recipe.framework} is missing [{source}]"
    name = entry.recipe.name
    figures = ", ".join(f"{METRICS[metric]} {value:g}" for metric, value in entry.recipe.metrics.items())
    head = f"{name:<{width - len(hours) - 1}} {hours}"
    lines = [head] if len(head) <= width else [name, f"{hours:>{width}}"]
    for text in filter(None, (f"published: {figures}", entry.note)):
        lines += wrap(text, width, initial_indent="    ", subsequent_indent="      ")
    return lines


def as_json(listed: Sequence[Entry], device_rate: float) -> str:
    """The rows for machines."""
    rows = [
        {
            "row": entry.recipe.name,
            "framework": entry.recipe.framework,
            "dataset": entry.recipe.dataset,
            "method": entry.recipe.method,
            "backbone": entry.recipe.backbone,
            "schedule": entry.recipe.schedule,
            "published": dict(entry.recipe.metrics),
            "config": str(entry.config),
            "source": entry.recipe.source,
            "training_images": entry.estimate and entry.estimate.images,
            "multiply_adds_per_image": entry.estimate and round(entry.estimate.multiply_adds),
            "gpu_hours": entry.estimate and round(entry.estimate.gpu_hours, 1),
            "data": list(entry.data),
            "note": entry.note,
        }
        for entry in listed
    ]
    document = {"device_rate_tflops": device_rate, "device_rate": rate_in_words(device_rate), "rows": rows}
    return json.dumps(document, indent=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``list``."""
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--device-rate",
        type=float,
        default=DEVICE_RATE,
        metavar="TFLOPS",
        help="effective rate of one GPU that GPU-hours are estimated with (default: %(default)g, a V100 in float32)",
    )


def main(args: argparse.Namespace) -> int:
    """Print the rows."""
    try:
        listed = entries(select_rows(args.rows), args.device_rate)
    except (RowError, ValueError) as error:
        print(f"reproduce.py list: error: {error}", file=sys.stderr)
        return 2
    width = shutil.get_terminal_size().columns
    print(as_json(listed, args.device_rate) if args.json else as_text(listed, args.device_rate, width))
    return 0
