"""Drawings show what was predicted, in the colours of the classes."""

import numpy as np
import pytest

from resnest_backbones.data import make_palette
from resnest_backbones.predict import Detections
from resnest_backbones.predict.draw import draw_detections, draw_label_map

GREY = np.full((240, 480, 3), 100, dtype=np.uint8)
COLORS = make_palette(3)


def test_a_label_map_colours_the_pixels_of_the_classes_above_a_legend():
    labels = np.full((240, 480), 255)
    labels[:, :100], labels[:, 100:150], labels[:, 150:160] = 0, 2, -1
    picture = draw_label_map(GREY, labels, ["a", "b", "c"], opacity=1.0)
    pixels = np.asarray(picture)
    assert pixels.shape[0] > 240 and pixels.shape[1] == 480
    assert (pixels[:240, :100] == COLORS[0]).all() and (pixels[:240, 100:150] == COLORS[2]).all()
    assert (pixels[:240, 150:] == 100).all()
    shown = {tuple(color) for color in pixels[240:].reshape(-1, 3)}
    assert tuple(COLORS[0]) in shown and tuple(COLORS[2]) in shown and tuple(COLORS[1]) not in shown
    plain = draw_label_map(GREY, labels, ["a", "b", "c"], [[9, 9, 9]] * 3, opacity=0.5, legend=False)
    assert plain.size == (480, 240) and np.asarray(plain)[0, 0].tolist() == pytest.approx([54] * 3, abs=1)


@pytest.mark.parametrize("with_masks", [False, True])
def test_detections_have_boxes_names_and_masks_with_high_scores_on_top(with_masks):
    boxes = np.array([[100, 50, 200, 150], [150, 50, 300, 150]], dtype=np.float32)
    masks = [np.zeros((240, 480), dtype=bool) for _ in boxes]
    masks[0][50:151, 100:201] = masks[1][50:151, 150:301] = True
    found = Detections(boxes, np.array([0, 1]), np.array([0.9, 0.6]), masks if with_masks else None)
    pixels = np.asarray(draw_detections(GREY, found, ["a", "b", "c"], opacity=1.0))
    assert pixels[100, 100].tolist() == COLORS[0] and pixels[100, 300].tolist() == COLORS[1]
    assert pixels[100, 120].tolist() == (COLORS[0] if with_masks else [100] * 3)
    assert pixels[100, 250].tolist() == (COLORS[1] if with_masks else [100] * 3)
    assert pixels[50, 199].tolist() == COLORS[0]  # where both have an edge


def test_a_small_image_is_enlarged_and_one_without_detections_left_plain():
    nothing = Detections(np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=int), np.zeros(0), None)
    picture = draw_detections(GREY[:50, :100], nothing, ["a"])
    assert picture.size == (500, 250) and (np.asarray(picture) == 100).all()
