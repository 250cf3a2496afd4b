"""The layers that stem and blocks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DropBlock2d, drop_block2d

from resnest_backbones.models.arguments import NormLayer


def make_norm(norm_layer: NormLayer | None, channels: int) -> nn.Module:
    """Make a normalization layer over ``channels`` channels; the identity when ``norm_layer`` is None."""
    norm = nn.Identity() if norm_layer is None else norm_layer(channels)
    if not isinstance(norm, nn.Module):
        raise ValueError(f"norm_layer must be a callable from channels to a module, or None; it returned {norm!r}")
    return norm


class ConvNorm(nn.Conv2d):
    """A convolution without bias, followed by its normalization layer ``norm``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        norm_layer: NormLayer | None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.norm = make_norm(norm_layer, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return self.norm(self.convolve(x))

    def convolve(self, x: Tensor) -> Tensor:
        """Compute the convolution alone."""
        return super().forward(x)


class DropBlock(DropBlock2d):
    """Drop blocks of 3x3 pixels of each channel in training, or single ones of maps that have no 3x3 pixels.

    ``p`` may change during a training; at 0 the maps stay as they are.
    """

    @classmethod
    def of_rate(cls, rate: float) -> nn.Module:
        """Return the identity for 0."""
        return cls(rate, block_size=3) if rate else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W) of the same mean."""
        return self._drop(input) if self.training else input

    @torch.compiler.disable  # it would compile each rate anew
    def _drop(self, input: Tensor) -> Tensor:
        size = self.block_size if min(input.shape[2:]) >= self.block_size else 1
        return drop_block2d(input, self.p, size, self.inplace, self.eps)


class ShortcutPool(nn.AvgPool2d):
    """The average pool of shortcuts: windows of ``stride`` x ``stride`` pixels, cut at the edge; sizes round up.

    A compiled or exported network computes the same, to rounding, without a decision that depends on height or width:
    Inductor would compile a graph for each outcome of rounding up. ONNX has the rounding in its operator.

    Args:
        stride: height and width of a window.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(stride, stride, ceil_mode=True, count_include_pad=False)
        self._side = stride

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H / stride, W / stride), rounded up."""
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
