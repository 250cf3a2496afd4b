"""What the tests of the demonstrations share."""

from pathlib import Path

import numpy as np
from PIL import Image

TINY = ["--iterations", "3", "--num-train", "8", "--num-val", "4"]


def pixels(file: Path) -> np.ndarray:
    """Return a picture (H, W, 3)."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def has_content(file: Path) -> bool:
    """Return whether a picture has more than a few colours."""
    image = pixels(file)
    return image.std() > 5 and len(np.unique(image.astype(np.int64) @ [65536, 256, 1])) > 50


def file_times(folder: Path) -> dict[str, int]:
    """Return when each file below a folder was changed."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def unchanged(before: dict[str, int], after: dict[str, int], *, drawn: tuple[str, ...]) -> bool:
    """Return whether all files are as before, but for those whose path contains one of ``drawn``."""
    changed = {name for name, _ in before.items() ^ after.items()}
    return all(any(part in name for part in drawn) for name in changed)


def check_pictures(folder: Path) -> None:
    """Check the pictures and the page of a demonstration with four held-out images."""
    singles = sorted((folder / "predictions").glob("*.png"))
    assert [file.name for file in singles] == [f"{number:06d}.png" for number in range(1, 5)]
    assert all(has_content(file) for file in [*singles, folder / "predictions.png", folder / "curves.png"])
    assert "data:image/png" in (folder / "visualized" / "index.html").read_text()
