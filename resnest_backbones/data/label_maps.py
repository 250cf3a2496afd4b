"""The one reader of label maps, and whether they fit the classes."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from resnest_backbones.errors import DatasetError

IGNORED = 255  # in label maps
CHECKED_LABEL_MAPS = 200  # read before a training


def read_label_map(file: str | Path, content: bytes | None = None) -> np.ndarray:
    """Return a label map (H, W) with the values of the file, whatever their depth; a palette is ignored.

    Args:
        file: an image of one channel.
        content: of the file, where it is not a local one.

    Raises:
        DatasetError: it does not exist, cannot be read, or has several channels; the message names it.
    """
    try:
        with Image.open(file if content is None else io.BytesIO(content)) as opened:
            labels = np.asarray(opened)
    except FileNotFoundError as error:
        raise DatasetError(f"the label map {file} does not exist") from error
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises each of them for a broken file
        raise DatasetError(f"the label map {file} cannot be read as an image: {error}") from error
    if labels.ndim != 2:
        raise DatasetError(
            f"the label map {file} must have one channel with the number of a class at each pixel, got a colour image "
            f"of {labels.shape[2]} channels"
        )
    return labels


def check_label_maps(files: Sequence[Path], classes: Sequence[str]) -> list[str]:
    """Compare the values in label maps with the classes; label n is the n-th class, 0 and 255 are ignored.

    Of many label maps, ``CHECKED_LABEL_MAPS`` are read, spread over all.

    Returns:
        A line for each thing that looks wrong: classes that never occur, labels that may begin with 0.

    Raises:
        DatasetError: there is a single class, every pixel is ignored, or labels have no class; the message gives values
            and counts. Or a label map cannot be read.
    """
    if len(classes) == 1:
        raise DatasetError(
            f"the class file names one class, {classes[0]}, which a network would predict everywhere: name the "
            "background too, with a label of its own"
        )
    step = max(1, len(files) // CHECKED_LABEL_MAPS)
    looked_at = files[::step]
    where = f"{len(looked_at)} of {len(files)} label maps in {os.path.commonpath([file.parent for file in files])}"
    pixels: Counter[int] = Counter()
    first: dict[int, Path] = {}
    for file in looked_at:
        values, counts = np.unique(read_label_map(file), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            pixels[value] += count
            first.setdefault(value, file)
    if wrong := sorted(value for value in pixels if value != IGNORED and not 0 <= value <= len(classes)):
        shown = ", ".join(f"{value} ({pixels[value]} pixels, as in {first[value]})" for value in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DatasetError(f"{where} have labels beyond the {len(classes)} classes or {IGNORED}: {shown}{more}")
    ignored = {value: pixels[value] for value in (0, IGNORED) if pixels[value]}
    if ignored.keys() == pixels.keys():
        shown = " and ".join(f"{value} ({count} pixels)" for value, count in ignored.items())
        raise DatasetError(
            f"every pixel of {where} is ignored: they hold {shown} only, where 0 is not labelled (reduce_zero_label) "
            f"and {IGNORED} is ignored; write 1 for {classes[0]}, 2 for {classes[1]}"
        )
    absent = [f"{label} ({name})" for label, name in enumerate(classes, start=1) if label not in pixels]
    if not absent:
        return []
    more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
    line = f"{len(absent)} of {len(classes)} classes never occur in {where}: {', '.join(absent[:3])}{more}"
    if pixels[0] and len(classes) not in pixels:
        line += "; if label 0 is the first class there, add 1 to all labels, for 0 is not labelled"
    return [line]
