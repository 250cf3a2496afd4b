"""The one reader of images, class files and palettes, for training, testing, prediction and export alike."""

from __future__ import annotations

import colorsys
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from resnest_backbones.errors import DatasetError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
CLASS_FILES = ("classes.txt", "objectInfo150.txt")  # looked for in the data root, in this order
IGNORED = 255  # in label maps
CHECKED_LABEL_MAPS = 200  # read before a training
MAX_CLASSES = 254  # label maps are uint8; 0 is "not labelled", and MMSegmentation ignores 255

_TURN = Image.Transpose
# What makes an image upright, for EXIF's orientations 2 to 8.
_TURNS = (
    _TURN.FLIP_LEFT_RIGHT, _TURN.ROTATE_180, _TURN.FLIP_TOP_BOTTOM,
    _TURN.TRANSPOSE, _TURN.ROTATE_270, _TURN.TRANSVERSE, _TURN.ROTATE_90,
)  # fmt: skip
_GOLDEN_RATIO = 0.618034  # successive multiples of it lie far apart on the circle of hues
# (saturation, value), in the order that keeps the nearest of the first 20 and of the first 40 colours farthest apart
_TONES = ((0.85, 0.95), (1.0, 1.0), (1.0, 0.45), (0.95, 0.65), (0.55, 1.0))


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


def find_class_file(data_root: str | Path) -> Path:
    """Find the class names of a dataset: ``ROOT/classes.txt`` or ``ROOT/objectInfo150.txt``.

    Raises:
        DatasetError: the root is not a folder, or has neither file.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise DatasetError(f"the root {root} of the dataset is not a folder")
    for name in CLASS_FILES:
        if (root / name).is_file():
            return root / name
    raise DatasetError(f"{root} has no file with the names of the classes ({' or '.join(CLASS_FILES)})")


def files_below(folder: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in a folder and its sub-folders, linked ones too, relative to it; hidden files are left out."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        # A link to a folder above would never end.
        folders[:] = [name for name in folders if not here.resolve().is_relative_to((here / name).resolve())]
        found += [here / name for name in files if name[0] != "." and Path(name).suffix.lower() in suffixes]
    return sorted(path.relative_to(folder) for path in found)


def read_classes(class_file: str | Path, *, max_classes: int | None = MAX_CLASSES) -> tuple[str, ...]:
    """Return the names of the classes; the first one's label is 1.

    The file has one name per line, where blank lines and those that begin with # do not count; or it is a table like
    ADE20K's objectInfo150.txt: columns separated by tabs, a header, and names in the last column.

    Args:
        class_file: the file.
        max_classes: how many there may be; None for any number, as a detector may have.

    Raises:
        DatasetError: the file cannot be read, or has no names, too many, or the same one twice.
    """
    file = Path(class_file)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DatasetError(f"the class file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"the class file {file} is not UTF-8 text: {error}") from error
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if lines and "\t" in lines[0] and lines[0].split("\t")[-1].strip().lower() == "name":
        lines = [line.split("\t")[-1] for line in lines[1:]]
    names = tuple(line.strip() for line in lines)
    if not 1 <= len(names) <= (max_classes or len(names)):
        wanted = f"1 to {max_classes} classes" if max_classes else "at least one class"
        raise DatasetError(f"the class file {file} must name {wanted}, got {len(names)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(
            f"the class file {file} must name different classes, {', '.join(twice[:3])} appear more than once"
        )
    return names


def make_palette(num_classes: int) -> list[list[int]]:
    """Make colours [R, G, B], 0..255, as different as their number allows; the first ones do not depend on it.

    >>> make_palette(2)
    [[242, 36, 36], [0, 74, 255]]
    """
    colours = []
    for number in range(num_classes):
        saturation, value = _TONES[number % len(_TONES)]
        rgb = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, saturation, value)
        colours.append([int(255 * channel) for channel in rgb])
    return colours


def derive_seed(*numbers: int) -> int:
    """Return a 32-bit seed from several non-negative numbers, such as (seed, rank, iteration)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
