"""The drawing of output strides says what networks compute."""

import re

import torch
from matplotlib.patches import Rectangle

from documents.stride_drawing import draw_figure, draw_output_strides
from resnest_backbones import build
from update_tables import labels


def test_each_square_is_as_large_as_the_features_and_labelled_with_their_size():
    (axes,) = draw_figure("resnest14").axes
    squares = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    with torch.device("meta"):
        features = [build("resnest14", output_stride=stride)(torch.zeros(2, 3, 512, 512)) for stride in (32, 16, 8)]
    sizes = [feature.shape[-1] for row in features for feature in row.values()]
    assert [square.get_width() for square in squares] == [square.get_height() for square in squares] == sizes
    shown = [re.match(r"stride \d+: (\d+) x", text.get_text()) for text in axes.texts]
    assert [int(match[1]) for match in shown if match] == sizes


def test_dilated_stages_are_marked_and_their_dilations_named():
    text = draw_output_strides("resnest50")
    assert text == draw_output_strides("resnest50"), "the same drawing is the same file"
    assert text.count("#f9d9a8") == 3
    dilations = [label.removeprefix("dilation ") for label in labels(text) if label.startswith("dilation")]
    assert dilations[4:] == ["1", "1", "1", "1, then 2", "1", "1", "1, then 2", "2, then 4"]
