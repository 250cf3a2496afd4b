"""Which of a detector's boxes are right, false or missed, and how they are drawn."""

import contextlib
import io

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from PIL import Image
from pycocotools.coco import COCO

from visualization.detection import match
from visualization.panels import draw_panels


def box(category, *sides, **more):
    return {"image_id": 1, "category_id": category, "bbox": list(map(float, sides)), **more}


def matched(truth, results, min_iou=0.5):
    """Return the boxes that are right, false and missed."""
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [
            {"iscrowd": 0, **one, "id": number, "area": one["bbox"][2] * one["bbox"][3]}
            for number, one in enumerate(truth, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return [[one["bbox"] for one in boxes] for boxes in match(coco, results, min_iou)]


def test_boxes_are_matched_as_coco_does():
    truth = [box(1, 0, 0, 10, 10), box(1, 20, 0, 10, 10), box(2, 0, 20, 10, 10)]
    sure, double, shifted, wrong_class = (
        box(1, 0, 0, 10, 9, score=0.9),
        box(1, 0, 0, 10, 8, score=0.6),
        box(1, 26, 0, 10, 10, score=0.8),  # an IoU of 0.25
        box(1, 0, 20, 10, 10, score=0.7),
    )
    right, false, missed = matched(truth, [double, sure, shifted, wrong_class])
    assert right == [sure["bbox"]]
    assert false == [one["bbox"] for one in (shifted, wrong_class, double)]
    assert missed == [one["bbox"] for one in truth[1:]]
    assert matched(truth, [shifted], 0.25)[0] == [shifted["bbox"]]


def test_a_crowd_is_never_missed_and_nothing_matches_without_objects_or_predictions():
    crowd = box(1, 0, 0, 100, 100, iscrowd=1)
    assert matched([crowd], [box(1, 0, 0, 10, 10, score=0.9), box(1, 50, 50, 10, 10, score=0.8)]) == [[], [], []]
    assert matched([crowd], []) == [[], [], []]
    one = box(1, 0, 0, 1, 1)
    assert matched([], []) == [[], [], []]
    assert matched([], [one | {"score": 0.5}]) == [[], [one["bbox"]], []]
    assert matched([one], []) == [[], [], [one["bbox"]]]


@pytest.mark.parametrize("columns", [1, 2])
def test_panels_stand_side_by_side(columns, tmp_path):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 90, 90)]
    red, green, blue, teal = (np.full((30, 60, 3), color, dtype=np.uint8) for color in colors)
    rows = [[(red, "a"), (green, "b")], [(blue, "c"), (teal, "d")]]
    draw_panels(rows, tmp_path / "new" / "sheet.png", columns=columns, legend={"a class": (200, 0, 200)})
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png").convert("RGB"))
    places = [np.argwhere((sheet == color).all(axis=-1)) for color in colors]
    width, height = (480, 240) if columns == 1 else (260, 130)
    for place in places:
        assert np.abs(np.ptp(place, axis=0) - (height, width)).max() <= 3
    centres = np.array([place.mean(axis=0) for place in places])
    assert centres[0, 1] < centres[1, 1] and centres[2, 1] < centres[3, 1]
    assert (centres[2, 0] > centres[0, 0] + height) == (columns == 1)
    assert (sheet == (200, 0, 200)).all(axis=-1).any()
