"""What of a detector's boxes is right, false or missed, and how it is drawn."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")

from visualization.detection import TITLES, draw, match


def box(category, *sides, **more):
    return {"category_id": category, "bbox": list(map(float, sides)), **more}


def test_boxes_are_matched_as_coco_does():
    truth = [box(1, 0, 0, 10, 10), box(1, 20, 0, 10, 10), box(2, 0, 20, 10, 10)]
    sure, double, shifted = (
        box(1, 0, 0, 10, 9, score=0.9),
        box(1, 0, 0, 10, 8, score=0.6),
        box(1, 26, 0, 10, 10, score=0.8),
    )
    wrong_class = box(1, 0, 20, 10, 10, score=0.7)
    found = match(truth, [double, sure, shifted, wrong_class], 0.5)
    assert found.right == [sure]
    assert found.false == [shifted, wrong_class, double]  # the surest first; the IoU of `shifted` is 0.25
    assert found.missed == truth[1:]
    assert match(truth, [shifted], 0.25).right == [shifted]


def test_a_crowd_takes_any_number_and_cannot_be_missed():
    crowd = box(1, 0, 0, 100, 100, iscrowd=1)
    found = match([crowd], [box(1, 0, 0, 10, 10, score=0.9), box(1, 50, 50, 10, 10, score=0.8)], 0.5)
    assert found.right == found.false == found.missed == []


def test_without_objects_or_predictions_there_is_nothing_to_match():
    assert match([], [], 0.5).missed == []
    assert match([], [box(1, 0, 0, 1, 1, score=0.5)], 0.5).false
    assert match([box(1, 0, 0, 1, 1)], [], 0.5).missed


def test_four_panels_show_them():
    image = Image.new("RGB", (100, 80), "white")
    truth, false = [box(1, 10, 10, 30, 30)], [box(1, 50, 40, 30, 30, score=0.7)]
    picture = draw(image, truth, false, match(truth, false, 0.5), {1: "thing"}, {1: (255, 0, 0)})
    panels = np.split(np.asarray(picture)[:, : picture.width // 4 * 4], 4, axis=1)
    red = [np.all(panel == (255, 0, 0), axis=-1).any() for panel in panels]
    assert len(TITLES) == 4 and red == [True, True, True, True]
    right = [box(1, 10, 10, 30, 30, score=0.7)]
    picture = draw(image, truth, right, match(truth, right, 0.5), {1: "thing"}, {1: (255, 0, 0)})
    panels = np.split(np.asarray(picture)[:, : picture.width // 4 * 4], 4, axis=1)
    assert [np.all(panel == (255, 0, 0), axis=-1).any() for panel in panels] == [True, True, False, False]
