"""The drawing of output strides in the documentation: what size each stage's features have, and how it is dilated."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from resnest_backbones.models.arguments import STAGES
from resnest_backbones.models.resnest import ResNeSt, build
from resnest_backbones.models.split_attention import SplitAttentionConv2d

_OUTPUT_STRIDES = (32, 16, 8)
_IMAGE = 512  # pixels of the side that sizes are given for
_COLUMN, _ROW, _LEFT, _TOP = 150, 190, 130, 50
_FULL = 120  # side of the square at stride 4
_STYLE = (
    "text{font:13px sans-serif;fill:#222}.head{font-weight:bold}.small{font-size:12px;fill:#555}"
    ".kept{fill:#cfe2f3;stroke:#33658a}.dilated{fill:#f9d9a8;stroke:#b36b00}"
)


def draw_output_strides(network: str = "resnest50") -> str:
    """An SVG: a row for each output stride, in it a square for the features of each stage, as large as they are.

    Strides and dilations are read from networks that are built for it.

    Args:
        network: a name of ``list_variants()``.
    """
    width, height = _LEFT + _COLUMN * len(STAGES) + 10, _TOP + _ROW * len(_OUTPUT_STRIDES)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<title>{network}: sizes of features at output stride 32, 16 and 8</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *(_text(_LEFT + _COLUMN * i + _FULL / 2, 30, name, "head") for i, name in enumerate(STAGES)),
    ]
    for row, output_stride in enumerate(_OUTPUT_STRIDES):
        with torch.device("meta"):
            net = build(network, output_stride=output_stride)
        top = _TOP + _ROW * row
        parts.append(_text(_LEFT / 2, top + _FULL / 2, "output stride", "head"))
        parts.append(_text(_LEFT / 2, top + _FULL / 2 + 18, str(output_stride), "head"))
        parts.extend(_stages(net, top))
    return "\n".join([*parts, "</svg>"]) + "\n"


def stage_dilations(stage: nn.Module) -> list[int]:
    """Dilation of the 3x3 convolution of each block of a stage."""
    found = [m.conv for m in stage.modules() if isinstance(m, SplitAttentionConv2d)]
    return [int(conv.dilation[0]) for conv in found]


def _stages(net: ResNeSt, top: float) -> Iterator[str]:
    for column, (name, stride) in enumerate(net.feature_strides.items()):
        dilations = stage_dilations(net.get_submodule(name))
        side = _FULL * 4 / stride
        centre = _LEFT + _COLUMN * column + _FULL / 2
        kind = "dilated" if max(dilations) > 1 else "kept"
        corner = f'x="{centre - side / 2:g}" y="{top + (_FULL - side) / 2:g}"'
        yield f'<rect {corner} width="{side:g}" height="{side:g}" class="{kind}"/>'
        yield _text(centre, top + _FULL + 18, f"stride {stride}: {_IMAGE // stride} x {_IMAGE // stride}", "small")
        yield _text(centre, top + _FULL + 34, f"dilation {_runs(dilations)}", "small")


def _runs(dilations: list[int]) -> str:
    """``1, then 2``: of the first block, and of the others where it is another."""
    first, rest = dilations[0], dilations[-1]
    return str(first) if first == rest else f"{first}, then {rest}"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" class="{kind}">{text}</text>'
