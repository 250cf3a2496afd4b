"""The one reader of class files."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from pathlib import Path

from resnest_backbones.data.coco import read_category_names
from resnest_backbones.errors import DatasetError

CLASS_FILES = ("classes.txt", "objectInfo150.txt")  # looked for in the data root, in this order
MAX_CLASSES = 254  # label maps are uint8; 0 is "not labeled", and MMSegmentation ignores 255


def find_class_file(data_root: str | Path) -> Path:
    """Find the class names of a dataset: ``ROOT/classes.txt`` or ``ROOT/objectInfo150.txt``.

    Raises:
        DatasetError: the root is not a folder, or has neither file.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise DatasetError(f"the dataset root {root} is not a folder")
    for name in CLASS_FILES:
        if (root / name).is_file():
            return root / name
    raise DatasetError(f"{root} has no file with class names ({' or '.join(CLASS_FILES)})")


def read_classes(class_file: str | Path, *, max_classes: int | None = MAX_CLASSES) -> tuple[str, ...]:
    """Return the names of the classes; the first one's label is 1.

    The file has one name per line, where blank lines and those that begin with # do not count. Or it is a table like
    ADE20K's objectInfo150, columns separated by tabs or commas below a header, with the names in the last one; or a
    json with COCO's categories, whose order is that of their ids.

    Args:
        class_file: the file; text is UTF-8, or UTF-16 with a byte order mark.
        max_classes: how many there may be; None for any number, as a detector may have.

    Raises:
        DatasetError: the file cannot be read, or has no names, too many, or the same one twice.
    """
    file = Path(class_file)
    names = read_category_names(file) if file.suffix.lower() == ".json" else _read_lines(file)
    if not 1 <= len(names) <= (max_classes or len(names)):
        wanted = f"1 to {max_classes} classes" if max_classes else "at least one class"
        raise DatasetError(f"the class file {file} must name {wanted}, got {len(names)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(
            f"the class file {file} must name distinct classes, {', '.join(twice[:3])} appear more than once"
        )
    return tuple(names)


def _read_lines(file: Path) -> list[str]:
    try:
        content = file.read_bytes()
        utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = content.decode("utf-16" if utf_16 else "utf-8-sig").splitlines()
    except OSError as error:
        raise DatasetError(f"the class file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"the class file {file} is not UTF-8 text: {error}; save it as UTF-8") from error
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for separator in "\t,":
        _, more, last = lines[0].rpartition(separator) if lines else ("", "", "")
        if more and last.strip().lower() == "name":
            return [row[-1].strip() for row in csv.reader(lines[1:], delimiter=separator)]
    return [line.strip() for line in lines]
