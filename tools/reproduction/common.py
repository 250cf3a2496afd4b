"""What the commands and the preparation of data share: recipes by name, options, locks, work on many files.

The networks of ImageNet are recipes too, by the name of the network: ``tools/pretrain.py`` trains and evaluates them.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import fcntl
import io
import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.concurrent import process_map

import resnest_backbones as rb
from resnest_backbones.errors import ConfigError, add_verbose
from resnest_backbones.model_zoo import RECIPES, Recipe, list_trained
from resnest_backbones.weights import WEIGHTS

Item = TypeVar("Item")

SPLITS = ("train", "val")
EPOCHS = 270  # of the published training of networks, and the default of tools/pretrain.py
NETWORKS = {
    record.name: Recipe(
        name=record.name, framework="pretrain", dataset="imagenet", method="classification", backbone=record.name,
        schedule=f"{EPOCHS} epochs", metrics={"top1": record.top1}, source=record.source,
    )
    for record in WEIGHTS.values()
}  # fmt: skip
ALL = {**RECIPES, **NETWORKS}
DEFAULT_WORKERS = min(8, os.cpu_count() or 1)  # disks seldom serve more
_CHUNK = 16  # items that a process is given at a time


def select_recipes(patterns: Sequence[str]) -> list[Recipe]:
    """Return the recipes that names, patterns such as ``mask_rcnn_*``, or datasets choose, in their order; or all.

    One that chooses nothing is a ``ConfigError`` with the nearest name.
    """
    chosen = set() if patterns else set(ALL)
    for pattern in patterns:
        found = {r.name for r in ALL.values() if pattern == r.dataset or fnmatchcase(r.name, pattern)}
        if not found:
            known = [*ALL, *dict.fromkeys(recipe.dataset for recipe in ALL.values())]
            nearest = difflib.get_close_matches(pattern, known, n=1, cutoff=0.0)[0]
            must = "RECIPE must be a name, a pattern or a dataset that `list` prints"
            raise ConfigError(f"{must}, got {pattern!r}; the nearest is {nearest}")
        chosen |= found
    return [recipe for recipe in ALL.values() if recipe.name in chosen]


def can_be_fetched(recipe: Recipe) -> bool:
    """Tell whether the published trained file of a recipe can be fetched: that of each network, and of some recipes."""
    return recipe.name in NETWORKS or recipe.name in list_trained()


def is_published_file(recipe: Recipe, file: str) -> bool:
    """Tell whether a file has the name under which the trained file of a recipe was published."""
    published = WEIGHTS.get(recipe.name) or recipe.file
    return published is not None and Path(file).name == published.filename


def add_data_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root", type=Path, default=Path("datasets"), metavar="DIR",
        help="folder of coco/, ade/, VOCdevkit/, cityscapes/ and imagenet/ (default: %(default)s)",
    )  # fmt: skip


def add_map_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both preparations of data end with."""
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="processes (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_verbose(parser)


def map_files(
    function: Callable[[Item], None], items: Sequence[Item], *, title: str, workers: int, progress: bool
) -> None:
    """Call a function for each item, in several processes; the first error ends the rest and is raised here.

    The function must be of a module's top level, or a ``partial`` of one, so that other processes know it.
    """
    if workers < 1:
        raise ConfigError(f"--workers must be positive, got {workers}")
    if workers > 1:
        process_map(
            function, items, max_workers=workers, chunksize=_CHUNK, desc=title, unit="file", disable=not progress
        )
        return
    for item in tqdm(items, desc=title, unit="file", disable=not progress):
        function(item)


def save_label_map(labels: np.ndarray, file: Path) -> None:
    """Write a label map (H, W) uint8 as PNG, whole or not at all."""
    content = io.BytesIO()
    Image.fromarray(labels).save(content, format="PNG")
    rb.checkpoint.write_atomically(file, lambda stream: stream.write(content.getvalue()))


def write_text(file: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    # Half of a surrogate pair, which JSON admits, cannot be encoded.
    rb.checkpoint.write_atomically(file, lambda stream: stream.write(text.encode("utf-8", errors="replace")))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Lock the folder of a recipe; yield the descriptor of the lock, which commands inherit.

    A command that outlives this process, after SIGKILL, keeps the lock: no second one writes the same checkpoints.
    """
    with open(folder / ".lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"{folder} is in use: another process runs this recipe") from error
        yield file.fileno()
