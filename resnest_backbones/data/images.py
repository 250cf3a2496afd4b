"""The one reader of images, and where they are found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from resnest_backbones.errors import DatasetError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_TURN = Image.Transpose
# What makes an image upright, for EXIF's orientations 2 to 8.
_TURNS = (
    _TURN.FLIP_LEFT_RIGHT, _TURN.ROTATE_180, _TURN.FLIP_TOP_BOTTOM,
    _TURN.TRANSPOSE, _TURN.ROTATE_270, _TURN.TRANSVERSE, _TURN.ROTATE_90,
)  # fmt: skip


def read_image(file: Path) -> np.ndarray:
    """Read an image as (H, W, 3), uint8 RGB, turned as its EXIF says.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        with Image.open(file) as opened:
            return to_rgb(opened)
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises each of them for a broken file
        raise DatasetError(f"{file} cannot be read as an image: {error}") from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Return an opened image as (H, W, 3), uint8 RGB, turned as its EXIF says; 16 bits are scaled, not cut off."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of any kind: Detectron2 and OpenCV, by which MMCV reads, do not turn an image with broken EXIF
        orientation = None
    if isinstance(orientation, int) and 2 <= orientation <= 8:
        image = image.transpose(_TURNS[orientation - 2])
    if image.mode.startswith("I"):  # PIL would cut 16 bits off at 255; OpenCV scales
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def files_below(folder: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in a folder and its sub-folders, linked ones too, relative to it; hidden files are left out."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        # A link to a folder above would never end.
        folders[:] = [name for name in folders if not here.resolve().is_relative_to((here / name).resolve())]
        found += [here / name for name in files if name[0] != "." and Path(name).suffix.lower() in suffixes]
    return sorted(path.relative_to(folder) for path in found)
