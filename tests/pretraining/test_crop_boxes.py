"""``tools/crop_boxes.py``: objects cut out of a COCO-format dataset, into a folder per class."""

import json

import numpy as np
import pytest
from PIL import Image

import crop_boxes


def test_objects_are_cut_as_squares_with_a_margin_and_at_most_so_many(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    boxes = [(1, 1, [20, 10, 20, 10]), (2, 2, [60, 40, 20, 20]), (3, 1, [5, 5, 2, 2]), (4, 2, [30, 30, 10, 10])]
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 80, "height": 60}],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, c, box in boxes
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    words = [str(tmp_path / name) for name in ("a.json", "images", "crops")]
    crop_boxes.run([*words, "--margin", "0.5", "--per-class", "1"])
    assert capsys.readouterr().out == "1 cell, 1 dust\n"  # one of each; that of two pixels is left out
    crop = np.asarray(Image.open(tmp_path / "crops" / "cell" / "7_1.png"))
    np.testing.assert_array_equal(crop, pixels[0:30, 15:45])  # 20 x 1.5 around the centre, 30 and 15
    with pytest.raises(SystemExit, match="crops exists already: choose another folder"):
        crop_boxes.run(words)
