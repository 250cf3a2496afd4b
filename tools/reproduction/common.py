"""What the commands and the preparation of data share: recipes by name, options, work on many files."""

from __future__ import annotations

import argparse
import difflib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import RECIPES, Recipe

Item = TypeVar("Item")

DEFAULT_WORKERS = min(8, os.cpu_count() or 1)  # disks seldom serve more
_CHUNK = 16  # items that a process is given at a time


def select_recipes(patterns: Sequence[str]) -> list[Recipe]:
    """Return the recipes that names, patterns with ``*`` and ``?``, or datasets choose, each once, in their order.

    Args:
        patterns: such as ``faster_rcnn_resnest50_fpn_1x``, ``mask_rcnn_*``, ``ade20k``; empty for all recipes.

    Raises:
        ConfigError: one of them chooses nothing; the message has the nearest name.
    """
    for pattern in patterns:
        if not any(_fits(recipe, pattern) for recipe in RECIPES.values()):
            known = [*RECIPES, *dict.fromkeys(recipe.dataset for recipe in RECIPES.values())]
            nearest = difflib.get_close_matches(pattern, known, n=1, cutoff=0.0)[0]
            must = "RECIPE must be a name, a pattern or a dataset that `list` prints"
            raise ConfigError(f"{must}, got {pattern!r}; the nearest is {nearest}")
    return [recipe for recipe in RECIPES.values() if not patterns or any(_fits(recipe, p) for p in patterns)]


def _fits(recipe: Recipe, pattern: str) -> bool:
    return pattern == recipe.dataset or fnmatchcase(recipe.name, pattern)


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Add ``--data-root``."""
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("datasets"),
        metavar="DIR",
        help="folder of coco/, ade/, VOCdevkit/ and cityscapes/ (default: %(default)s)",
    )


def add_map_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the preparation of data."""
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="processes (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def map_files(
    function: Callable[[Item], None], items: Sequence[Item], *, title: str, workers: int, progress: bool
) -> None:
    """Call a function for each item, in several processes; the first error ends the rest and is raised here.

    Args:
        function: of a module's top level, or a ``partial`` of one, so that other processes know it.
        items: what it is called with.
        title: of the progress bar.
        workers: processes; 1 does everything in this one.
        progress: show a progress bar.

    Raises:
        ConfigError: ``workers`` is less than 1.
    """
    if workers < 1:
        raise ConfigError(f"--workers must be positive, got {workers}")
    if workers == 1:
        for item in tqdm(items, desc=title, unit="file", disable=not progress):
            function(item)
        return
    executor = ProcessPoolExecutor(workers)
    try:
        results = executor.map(function, items, chunksize=_CHUNK)
        for _ in tqdm(results, total=len(items), desc=title, unit="file", disable=not progress):
            pass
    finally:
        executor.shutdown(cancel_futures=True)


def save_label_map(labels: np.ndarray, file: Path) -> None:
    """Write a label map (H, W) uint8 as PNG, whole or not at all."""
    content = io.BytesIO()
    Image.fromarray(labels).save(content, format="PNG")
    write_atomically(file, lambda stream: stream.write(content.getvalue()))


def write_text(file: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    # Half of a surrogate pair, which JSON admits, cannot be encoded.
    write_atomically(file, lambda stream: stream.write(text.encode("utf-8", errors="replace")))
