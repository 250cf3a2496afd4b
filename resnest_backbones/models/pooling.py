"""The average pool of shortcuts."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["ShortcutPool"]


class ShortcutPool(nn.AvgPool2d):
    """Means of ``stride`` x ``stride`` pixels, at the lower and right edge of those there are: sizes round up.

    In a compiled or exported network it computes the same, to rounding, in a way that asks nothing of height and width.
    Inductor otherwise makes a graph of its own for each answer to whether rounding up was needed, which are two for
    each side and stage; and AOTInductor keeps the answer of the example for every size, which is wrong at the others.
    ONNX has the rounding in its operator.

    Args:
        stride: height and width of what is averaged.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(stride, stride, ceil_mode=True, count_include_pad=False)
        self._side = stride

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H / stride, W / stride), rounded up."""
        if torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export():
            return _pool_any_size(input, self._side)
        return super().forward(input)


def _pool_any_size(x: Tensor, stride: int) -> Tensor:
    padded = F.pad(x, (0, stride - 1, 0, stride - 1))
    sums = F.avg_pool2d(padded, stride, stride, divisor_override=1)
    height, width = (
        (size - stride * torch.arange(pooled, device=x.device)).clamp(max=stride)
        for size, pooled in zip(x.shape[2:], sums.shape[2:], strict=True)
    )
    return sums / (height[:, None] * width).to(x.dtype)
