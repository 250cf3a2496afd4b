"""The one reader of images, and where they are found."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resnest_backbones.errors import DatasetError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_SWAPPING = (5, 6, 7, 8)  # EXIF's orientations that exchange width and height
_MAX_16_BITS = 65535
_MODES = {1: "L", 3: "RGB"}
_32_BITS = "has 32-bit values, whose black and white points are undefined: save it with 8 or 16 bits"


@contextmanager
def open_image(file: str | Path, content: bytes | None = None, *, what: str = "") -> Iterator[Image.Image]:
    """Open an image file; every error inside the block becomes a ``DatasetError`` that names it.

    Args:
        file: its path, or the name of ``content``.
        content: of the file, where it is not a local one.
        what: the file is, for messages.
    """
    try:
        with Image.open(file if content is None else io.BytesIO(content)) as opened:
            yield opened
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{what}{file} does not exist") from error
    except Exception as error:  # of any kind: PIL's readers raise whatever a damaged file leads to
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its format is unknown, or it is damaged" if unknown else str(error) or type(error).__name__
        raise DatasetError(f"{what}{file} cannot be read as an image: {reason}") from error


def read_image(file: str | Path, content: bytes | None = None, *, channels: int = 3) -> np.ndarray:
    """Read an image as (H, W, channels), uint8, turned as its EXIF says.

    16 bits are scaled to 8, as OpenCV does it; an alpha channel is left out; of several frames, the first is taken.

    Args:
        file: its path, or the name of ``content``.
        content: of the file, where it is not a local one.
        channels: 3 for RGB, 1 for gray; for another number the file must have as many, as a satellite image has four.

    Raises:
        DatasetError: it cannot be read, has another number of channels, or holds numbers that do not say what is black
            and what is white.
    """
    with open_image(file, content) as opened:
        image = opened
        if _may_be_turned(image):
            with suppress(Exception):  # of any kind: an image with broken EXIF stays as it is
                image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise DatasetError(f"{file} {_32_BITS}")
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if values.min() < 0 or values.max() > _MAX_16_BITS:
                raise DatasetError(f"{file} {_32_BITS}")
            image = Image.fromarray((values >> 8).astype(np.uint8))
        if channels in _MODES:
            image = image.convert(_MODES[channels])
        elif len(image.getbands()) != channels:
            raise DatasetError(f"{file} must have {channels} channels, got {len(image.getbands())} ({image.mode})")
        return np.array(image).reshape(image.height, image.width, channels)  # a copy, which may be written to


def read_size(file: str | Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Read width and height of an image as ``read_image`` gives it, and as they are before the turn of its EXIF.

    Raises:
        DatasetError: it cannot be read, as far as that shows without its pixels.
    """
    with open_image(file) as opened:
        if opened.mode == "F":
            raise DatasetError(f"{file} {_32_BITS}")
        tags = getattr(opened, "tag_v2", None)  # a TIFF: newer releases of Pillow give its size after the turn
        width, height = (tags[256], tags[257]) if tags is not None else opened.size
        orientation = None
        if _may_be_turned(opened):
            with suppress(Exception):
                orientation = opened.getexif().get(ExifTags.Base.Orientation)
        return ((height, width) if orientation in _SWAPPING else (width, height)), (width, height)


def _may_be_turned(image: Image.Image) -> bool:
    # Pillow decodes a whole PNG to look for EXIF behind the pixels, where no camera writes it.
    return image.format != "PNG" or "exif" in image.info


def files_below(folder: str | Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the files in a folder and its sub-folders, linked ones too, relative to it and sorted.

    Args:
        folder: where to look; what is hidden, its name begins with a dot, is left out.
        suffixes: of the files to return, in lower case; files of all kinds where there are none.

    Raises:
        OSError: a folder cannot be read.
    """

    def walk(here: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        place = here.resolve()
        if place in above:  # a link to a folder that it is in would never end
            return
        for entry in os.scandir(here):
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):  # a link to itself is neither a file nor a folder
                yield from walk(here / entry.name, (*above, place))
            elif not suffixes or Path(entry.name).suffix.lower() in suffixes:
                yield here / entry.name

    return sorted(path.relative_to(folder) for path in walk(Path(folder), ()))
