"""The one reader of label maps, and whether they fit the classes and the images.

In ADE20K's layout: label n is the n-th class, 0 is not labeled and 255 is ignored.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnest_backbones.data.images import IMAGE_SUFFIXES, files_below, open_image, read_size
from resnest_backbones.errors import DatasetError, name_first

IGNORED = 255  # in label maps
CHECKED_LABEL_MAPS = 200  # read before a training
_SPREAD = {"L;2": 85, "L;4": 17}  # by which Pillow multiplies gray values of 2 and 4 bits


def read_label_map(file: str | Path, content: bytes | None = None) -> np.ndarray:
    """Return a label map (H, W) with the values of the file, whatever their depth; a palette is ignored.

    Args:
        file: an image of one channel.
        content: of the file, where it is not a local one.

    Raises:
        DatasetError: it does not exist, cannot be read, or has several channels or fractions; the message names it.
    """
    with open_image(file, content, what="the label map ") as opened:
        spread = _SPREAD.get(opened.tile[0][3] if opened.tile else "")  # type: ignore[attr-defined]
        labels = np.asarray(opened) // spread if spread else np.asarray(opened)
    if labels.ndim != 2:
        raise DatasetError(
            f"the label map {file} must have one channel with a class number at each pixel, got a color image with "
            f"{labels.shape[2]} channels"
        )
    if labels.dtype.kind == "f":
        raise DatasetError(f"the label map {file} must contain integers, got floating-point values: save it as PNG")
    return labels.astype(np.uint8) if labels.min() >= 0 and labels.max() <= IGNORED else labels


def read_labels(label_map: Path, image: Path, shape: Sequence[int], num_classes: int) -> np.ndarray:
    """Read a label map (H, W) with the indices of classes, from 0; -1 where nothing is labeled or it is ignored.

    ``shape`` is height and width of its image, after the turn of its EXIF.

    Raises:
        DatasetError: as ``read_label_map``; it has another size than its image, or labels that no class has.
    """
    labels = read_label_map(label_map)
    check_shape(label_map, labels.shape, image, shape)
    check_labels(label_map, labels, num_classes)
    return np.where(labels == IGNORED, 0, labels).astype(np.int64) - 1


def check_shape(file: str | Path, shape: Sequence[int], image: Any, image_shape: Sequence[int]) -> None:
    """Raise a ``DatasetError`` where a label map has not the height and width of its image."""
    if tuple(shape) != tuple(image_shape[:2]):
        raise DatasetError(
            f"the label map {file} must have the height and width of its image {image}, {tuple(image_shape[:2])}, got "
            f"{tuple(shape)}"
        )


def check_labels(file: str | Path, labels: np.ndarray, num_classes: int, *, zero_is_ignored: bool = True) -> None:
    """Raise a ``DatasetError`` where a label map holds labels that no class has.

    Classes are 1 to ``num_classes`` in the file, or from 0 on if ``zero_is_ignored`` is off.
    """
    last = num_classes if zero_is_ignored else num_classes - 1
    wrong = (labels != IGNORED) & ((labels < 0) | (labels > last))
    if not wrong.any():
        return
    values, counts = np.unique(labels[wrong], return_counts=True)
    shown = name_first([f"{value} ({count} pixels)" for value, count in zip(values, counts, strict=True)], 10)
    ignored = "0 and 255 are ignored" if zero_is_ignored else "255 is ignored"
    raise DatasetError(
        f"the label map {file} must hold labels from 0 to {last} or 255 ({num_classes} classes; {ignored}), got {shown}"
    )


def pair_label_maps(images: Path, label_maps: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pair the images in a folder with their label maps, PNGs of the same names; sub-folders are searched too.

    Returns:
        The pairs, sorted by name; and a line for each kind of file that is left out.

    Raises:
        DatasetError: a folder is missing or has no image, or an image has no label map, shares it with another, or is a
            link to nothing.
    """
    for folder, what in ((images, "images"), (label_maps, "annotations")):
        if not folder.is_dir():
            raise DatasetError(f"the folder of {what} {folder} does not exist")
    files = files_below(images)
    found = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise DatasetError(f"the image folder {images} has no images ({', '.join(IMAGE_SUFFIXES)})")
    if lost := [file for file in found if not (images / file).exists()]:
        raise DatasetError(f"{len(lost)} of {len(found)} images in {images} are broken links: {name_first(lost)}")
    beside = files_below(label_maps)
    maps = {file.with_suffix(""): file for file in beside if file.suffix.lower() == ".png"}
    counts = Counter(image.with_suffix("") for image in found)
    if shared := [image for image in found if counts[image.with_suffix("")] > 1]:
        raise DatasetError(f"images in {images} must differ in more than their suffix, got {name_first(shared)}")
    if missing := [image for image in found if image.with_suffix("") not in maps]:
        stems = {image.with_suffix("") for image in missing}
        of_other_kinds = name_first([file for file in beside if file.with_suffix("") in stems])
        raise DatasetError(
            f"{len(missing)} of {len(found)} images in {images} have no annotation NAME.png in {label_maps}: "
            f"{name_first(missing)}" + (f"; label maps must be PNG, got {of_other_kinds}" if of_other_kinds else "")
        )
    lines = []
    if others := [file for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]:
        kinds = ", ".join(IMAGE_SUFFIXES)
        lines.append(f"{len(others)} files in {images} are not {kinds} and are left out: {name_first(others)}")
    if unused := [file for stem, file in maps.items() if stem not in counts]:
        lines.append(f"{len(unused)} label maps in {label_maps} have no image and are left out: {name_first(unused)}")
    return [(images / image, label_maps / maps[image.with_suffix("")]) for image in found], lines


def check_label_maps(pairs: Sequence[tuple[Path, Path]], classes: Sequence[str]) -> list[str]:
    """Compare label maps with their images and with the classes.

    Of many, ``CHECKED_LABEL_MAPS`` are read, spread over all.

    Args:
        pairs: images with their label maps.
        classes: names of the classes, the first one's label is 1.

    Returns:
        A line for each thing that looks wrong: classes that never occur, labels that may begin with 0.

    Raises:
        DatasetError: there is a single class, every pixel is ignored, or labels have no class; the message gives values
            and counts. Or a label map cannot be read, or has another size than its image.
    """
    looked_at = pairs[:: max(1, len(pairs) // CHECKED_LABEL_MAPS)]
    folder = os.path.commonpath([file.parent for _, file in looked_at])
    where = f"{len(looked_at)} of {len(pairs)} label maps in {folder}"
    pixels: Counter[int] = Counter()
    first: dict[int, Path] = {}
    for image, file in looked_at:
        labels = read_label_map(file)
        (width, height), _ = read_size(image)
        check_shape(file, labels.shape, image, (height, width))
        values, counts = np.unique(labels, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            pixels[value] += count
            first.setdefault(value, file)
    ignored = {value: pixels[value] for value in (0, IGNORED) if pixels[value]}
    if ignored.keys() == pixels.keys():
        shown = " and ".join(f"{value} ({count} pixels)" for value, count in ignored.items())
        written = ", ".join(f"{label} for {name}" for label, name in enumerate(classes[:2], start=1))
        raise DatasetError(
            f"every pixel of {where} is ignored: they contain only {shown}, where 0 is unlabeled (reduce_zero_label) "
            f"and {IGNORED} is ignored; write {written}"
        )
    if wrong := sorted(value for value in pixels if value != IGNORED and not 0 <= value <= len(classes)):
        shown = name_first([f"{value} ({pixels[value]} pixels, as in {first[value]})" for value in wrong])
        raise DatasetError(f"{where} have labels beyond the {len(classes)} classes or {IGNORED}: {shown}")
    if len(classes) == 1:
        raise DatasetError(
            f"the class file names one class, {classes[0]}, which a network would predict everywhere: list the "
            "background too, with its own label"
        )
    absent = [f"{label} ({name})" for label, name in enumerate(classes, start=1) if label not in pixels]
    if not absent:
        return []
    line = f"{len(absent)} of {len(classes)} classes never occur in {where}: {name_first(absent)}"
    if len(absent) == len(classes) - 1:
        line += "; a network that sees only one class learns to predict it everywhere"
    if pixels[0] and len(classes) not in pixels:
        line += "; if label 0 is the first class there, add 1 to all labels, because 0 means unlabeled"
    return [line]
