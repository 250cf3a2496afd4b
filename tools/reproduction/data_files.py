"""What the checks of all data sets share: looking into folders, and into label maps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from reproduction.parallel import map_files

Item = TypeVar("Item")

QUICK_SAMPLE = 100  # files of a folder that a quick check reads, spread over it
IGNORED = 255  # every loader of the rows ignores this label

_SHOWN = 3  # names given in a problem
_SHOWN_FILES = 5  # files whose content is wrong that are named one by one


@dataclass(frozen=True)
class Extent:
    """How far a check goes.

    Attributes:
        expect_full: the numbers of images must be the published ones.
        quick: of the files of a kind, read only a sample that is spread over them.
        workers: processes that read files.
        progress: show progress bars.
        training: look at the data that are trained on, too.
    """

    expect_full: bool = True
    quick: bool = False
    workers: int = 1
    progress: bool = False
    training: bool = True

    def splits(self, numbers: Mapping[str, int]) -> Mapping[str, int]:
        """Of a data set's splits and their numbers of images, the one of training first, those to be looked at."""
        return numbers if self.training else dict(list(numbers.items())[1:])


@dataclass(frozen=True)
class Labels:
    """What the label maps of a data set may hold.

    Attributes:
        last: labels are 0 to this one.
        modes: those of PIL that the loader reads as labels: ``L``, and ``P`` where it takes the index of a palette.
    """

    last: int
    modes: tuple[str, ...] = ("L", "P")


def find_files(folder: Path, suffix: str) -> dict[str, Path] | None:
    """Files below a folder that end in ``suffix``, by their path in it without that; None where there is no folder."""
    if not folder.is_dir():
        return None
    files = (file for file in folder.rglob(f"*{suffix}") if not file.name.startswith("."))
    return {str(file.relative_to(folder)).removesuffix(suffix): file for file in sorted(files)}


def count_problems(what: Path | str, found: int, wanted: int, kind: str, source: str, extent: Extent) -> Iterator[str]:
    """One line where there are not as many of a kind as there were published, or none at all."""
    if found == 0 or (extent.expect_full and found != wanted):
        yield f"{what}: must have {wanted} {kind}, got {found}; {source}"


def missing_problems(
    folder: Path, wanted: Collection[str], there: Collection[str], kind: str, source: str
) -> Iterator[str]:
    """One line where some of ``wanted`` are not ``there``; both are names as the line shows them."""
    known = set(there)
    missing = [name for name in wanted if name not in known]
    if missing:
        yield f"{folder}: {len(missing)} of {len(wanted)} {kind} are missing: {some(missing)}; {source}"


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of the items, evenly spread, the first and the last among them.

    >>> spread(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(items) <= count:
        return list(items)
    return [items[number * (len(items) - 1) // (count - 1)] for number in range(count)]


def label_map_problems(
    folder: Path, label_maps: Mapping[str, Path], images: Mapping[str, Path], labels: Labels, extent: Extent
) -> Iterator[str]:
    """A line for each label map that no loader can use, few of them; and one that says how many others there are.

    Args:
        folder: to be named.
        label_maps: by names.
        images: likewise; a label map must be as large as the image of its name.
        labels: what they may hold.
        extent: how many to read.
    """
    pairs = [(file, images[name]) for name, file in label_maps.items() if name in images]
    if extent.quick:
        pairs = spread(pairs, QUICK_SAMPLE)
    look = partial(_label_map_problem, labels)
    title = f"labels in {'/'.join(folder.parts[-2:])}"
    found = map_files(look, pairs, title=title, workers=extent.workers, progress=extent.progress)
    wrong = [problem for problem in found if problem]
    yield from wrong[:_SHOWN_FILES]
    if len(wrong) > _SHOWN_FILES:
        yield f"{folder}: {len(wrong)} of {len(pairs)} label maps that were read are wrong in such a way"


def _label_map_problem(labels: Labels, pair: tuple[Path, Path]) -> str:
    """What is wrong with a label map; "" where nothing is."""
    file, image_file = pair
    try:
        with Image.open(file) as label_map:
            mode, size = label_map.mode, label_map.size
            values = np.unique(np.asarray(label_map)).tolist() if mode in labels.modes else []
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises each of them for a broken file
        return f"{file}: cannot be read as an image: {error}"
    if mode not in labels.modes:
        return f"{file}: must be an image of one channel of 8 bits (mode {' or '.join(labels.modes)}), got mode {mode}"
    if wrong := [value for value in values if value > labels.last and value != IGNORED]:
        return f"{file}: labels must be 0 to {labels.last} or {IGNORED}, got {some([str(value) for value in wrong])}"
    image_size = read_size(image_file)
    if isinstance(image_size, str):
        return image_size
    if image_size != size:
        return f"{file}: must be as large as {image_file}, which is {image_size} (width, height), got {size}"
    return ""


def read_size(file: Path) -> tuple[int, int] | str:
    """Width and height of an image, from its beginning; or what is wrong with it."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        return f"{file}: cannot be read as an image: {error}"
