"""Label maps are compared with the classes before any work."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_backbones.data import check_label_maps, label_maps
from resnest_backbones.errors import DatasetError


def write_maps(folder: Path, *values: list[int]) -> list[Path]:
    """A label map of two rows for each list of values."""
    folder.mkdir(exist_ok=True)
    for number, row in enumerate(values):
        Image.fromarray(np.array([row, row], dtype=np.uint8)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("classes", "values", "message"),
    [
        (["sky"], [[0, 1]], "names one class, sky, .*: name the background too"),
        (
            ["road", "sky"],
            [[0, 255], [0, 0]],
            r"every pixel of 2 of 2 .* hold 0 \(6 pixels\) and 255 \(2 pixels\) only",
        ),
        (["road", "sky"], [[255, 255]], r"hold 255 \(4 pixels\) only, .*write 1 for road, 2 for sky"),
        (["road", "sky"], [[1, 2], [3, 9]], r"beyond the 2 classes or 255: 3 \(2 pixels, as in .*1.png\), 9 \(2"),
    ],
)
def test_label_maps_that_teach_nothing_are_refused(classes, values, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        check_label_maps(write_maps(tmp_path / "maps", *values), classes)


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ([[0, 1], [2, 3]], []),
        ([[1, 2]], ["1 of 3 classes never occur in 1 of 1 label maps in {}: 3 (tree)"]),
        (
            [[0, 1], [1, 2]],
            [
                "1 of 3 classes never occur in 2 of 2 label maps in {}: 3 (tree); if label 0 is the first class there, "
                "add 1 to all labels, for 0 is not labelled"
            ],
        ),
    ],
)
def test_classes_that_never_occur_are_named(values, lines, tmp_path):
    found = check_label_maps(write_maps(tmp_path / "maps", *values), ["road", "sky", "tree"])
    assert found == [line.format(tmp_path / "maps") for line in lines]


def test_of_many_label_maps_some_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(label_maps, "CHECKED_LABEL_MAPS", 2)
    files = write_maps(tmp_path / "maps", [1, 1], [1, 2], [1, 1], [1, 1])
    (line,) = check_label_maps(files, ["road", "sky"])
    assert "in 2 of 4 label maps" in line and "2 (sky)" in line
