"""The one reader of class files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from resnest_backbones.errors import DatasetError

CLASS_FILES = ("classes.txt", "objectInfo150.txt")  # looked for in the data root, in this order
MAX_CLASSES = 254  # label maps are uint8; 0 is "not labelled", and MMSegmentation ignores 255


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
