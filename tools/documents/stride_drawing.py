"""The drawing of output strides in the documentation: the size of each stage's features, and its dilations."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from resnest_backbones.models.resnest import build
from resnest_backbones.models.split_attention import SplitAttentionConv2d

_OUTPUT_STRIDES = (32, 16, 8)
_IMAGE = 512  # pixels of the side that sizes are given for
_COLUMN, _ROW = 150, 200  # distances, in pixels of features as those of the squares
_KEPT, _DILATED = "#cfe2f3", "#f9d9a8"


def draw_output_strides(network: str = "resnest50") -> str:
    """Return an SVG with a row for each output stride, and in it a square as large as each stage's features."""
    stream = io.StringIO()
    # Text as text, and no ids drawn at random or date: the same networks give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "output_stride", "svg.fonttype": "none"}):
        title = f"{network}: sizes of features at output stride 32, 16 and 8"
        metadata = {"Title": title, "Date": None, "Creator": None}
        draw_figure(network).savefig(stream, format="svg", metadata=metadata)
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def draw_figure(network: str) -> Figure:
    """Return the figure of ``draw_output_strides``."""
    width, height = 5 * _COLUMN, 3 * _ROW + 40
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()

    def write(x: float, y: float, *lines: str, **style: Any) -> None:
        for number, line in enumerate(lines):  # each by itself, since only single lines are anchored at their middle
            axes.text(x, y + 16 * number, line, ha="center", **style)

    for row, output_stride in enumerate(_OUTPUT_STRIDES):
        with torch.device("meta"):
            net = build(network, output_stride=output_stride)
        y = 0.5 * _ROW + row * _ROW + 20
        write(0.5 * _COLUMN, y, "output stride", str(output_stride), weight="bold")
        for column, (name, stride) in enumerate(net.feature_strides.items(), start=1):
            x, side = (column + 0.5) * _COLUMN, _IMAGE // stride
            dilations = stage_dilations(net.get_submodule(name))
            first, last = dilations[0], dilations[-1]
            runs = str(first) if first == last else f"{first}, then {last}"
            color = _DILATED if max(dilations) > 1 else _KEPT
            axes.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, facecolor=color, edgecolor="#333333"))
            write(x, y + 80, f"stride {stride}: {side} x {side}", f"dilation {runs}", size=9)
            if row == 0:
                write(x, 24, name, weight="bold")
    return figure


def stage_dilations(stage: nn.Module) -> list[int]:
    """Return the dilation of the 3x3 convolution of each block of a stage."""
    return [module.conv.dilation[0] for module in stage.modules() if isinstance(module, SplitAttentionConv2d)]
