"""Blocks for inference on a CPU that compute bias, ReLU and shortcut in the pass of the convolution before them.

The operators are oneDNN's convolutions with post-operations, which PyTorch's compiler calls too; they have no
gradients. Where they do not serve (another device, another type, gradients, a compiler, a hook that waits for a
module's output) the block that a fused one is made of is called as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnest_backbones.arguments import STAGES
from resnest_backbones.recompute import has_hooks
from resnest_backbones.resnest import Bottleneck, DeepStem


def fuse(trunk: Any) -> None:
    """Replace stem and blocks of a ``ResNeSt``, whose norms are folded into its convolutions, by fused ones.

    Modules keep their names. Blocks with deformable convolutions stay as they are.
    """
    trunk.stem = FusedStem(trunk.stem)
    for stage in (child for name, child in trunk.named_children() if name in STAGES):
        before: nn.Module | None = None
        for name, block in list(stage.named_children()):
            if block.conv2_offset is None:
                setattr(stage, name, FusedBottleneck(block, before))
            before = stage.get_submodule(name)


def _can_fuse(x: Tensor, modules: Sequence[nn.Module]) -> bool:
    if x.device.type != "cpu" or x.layout != torch.strided or not torch.backends.mkldnn.is_available():
        return False
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for m in modules for p in m.parameters())):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    return _has_operators(x.dtype) and not any(has_hooks(module) for module in modules)


def _has_operators(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


def _conv_relu(conv: Any, x: Tensor) -> Tensor:
    """(N, C, H, W) -> ReLU of the convolution of it, in one pass."""
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "relu", [], ""
    )
    return result


def _conv_add_relu(conv: Any, x: Tensor, to: Tensor) -> Tensor:
    """ReLU of the convolution of ``x`` plus ``to``, in one pass that writes into ``to``."""
    result: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
        to,
        x,
        conv.weight,
        conv.bias,
        conv.padding,
        conv.stride,
        conv.dilation,
        conv.groups,
        "add",
        1.0,
        "relu",
        [],
        "",
    )
    return result


class FusedStem(nn.Module):
    """The stem, of folded convolutions.

    Args:
        stem: what it computes.
    """

    def __init__(self, stem: DeepStem) -> None:
        super().__init__()
        for name, module in stem.named_children():
            self.add_module(name, module)
        self._plain = (stem,)  # no child: its modules are children here already

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 2 x width, H / 4, W / 4), sizes rounded up."""
        (stem,) = self._plain
        if not _can_fuse(x, list(stem.children())):
            result: Tensor = stem(x)
            return result
        for conv in (stem.conv1_1, stem.conv1_2, stem.conv1_3):
            x = _conv_relu(conv, x)
        result = stem.maxpool(x)
        return result


class FusedBottleneck(nn.Module):
    """A block, of folded convolutions without offsets.

    Args:
        block: what it computes.
        before: the block before it in its stage. Its output, which nothing else needs, is written over by the sum with
            the shortcut, unless a hook may have kept it. None for the first block, whose shortcut is a convolution, or
            else is added to as it is.
    """

    def __init__(self, block: Bottleneck, before: nn.Module | None) -> None:
        super().__init__()
        for name, module in block.named_children():
            self.add_module(name, module)
        self._plain, self._before = (block,), (before,)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 x planes, H / stride, W / stride), sizes rounded up."""
        (block,) = self._plain
        if not _can_fuse(x, list(block.children())):
            result: Tensor = block(x)
            return result
        attention = block.conv2
        splits = _conv_relu(attention.conv, block.pool_before(_conv_relu(block.conv1, x)))
        mixed = attention.weigh(splits, attention.attention(attention.pool(splits)).to(splits.dtype))
        return _conv_add_relu(block.conv3, block.pool_after(mixed), to=self._shortcut(block, x))

    def _shortcut(self, block: Any, x: Tensor) -> Tensor:
        """The shortcut, in a tensor that may be written over."""
        shortcut: Tensor = block.shortcut(block.shortcut_pool(x))
        (before,) = self._before
        if shortcut is x and (before is None or has_hooks(before) or has_hooks(self)):
            shortcut = shortcut.clone()
        return shortcut.contiguous(memory_format=torch.channels_last)
