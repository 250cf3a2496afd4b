"""The drawing of output strides says what networks compute."""

import re
from xml.etree import ElementTree

import torch

from documents.stride_drawing import draw_output_strides
from resnest_backbones import build

SVG = "{http://www.w3.org/2000/svg}"


def test_each_square_is_as_large_as_the_features_and_labelled_with_their_size():
    root = ElementTree.fromstring(draw_output_strides("resnest14"))
    squares = [float(node.get("width")) for node in root.iter(f"{SVG}rect") if node.get("class")]
    labels = [
        int(match[1]) for node in root.iter(f"{SVG}text") if (match := re.match(r"stride \d+: (\d+) x", node.text))
    ]
    with torch.device("meta"):
        features = [build("resnest14", output_stride=stride)(torch.zeros(2, 3, 512, 512)) for stride in (32, 16, 8)]
    sizes = [feature.shape[-1] for row in features for feature in row.values()]
    assert labels == sizes
    assert [side / squares[0] for side in squares] == [size / sizes[0] for size in sizes]


def test_dilated_stages_are_marked_and_their_dilations_named():
    text = draw_output_strides("resnest50")
    assert text.count('class="dilated"') == 3
    assert re.findall(r"dilation ([^<]+)<", text)[4:] == [
        *("1", "1", "1", "1, then 2"),
        *("1", "1", "1, then 2", "2, then 4"),
    ]
