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
from torch.nn.functional import linear

from resnest_backbones.models.arguments import STAGES
from resnest_backbones.models.blocks import Bottleneck, DeepStem
from resnest_backbones.models.layers import ConvNorm
from resnest_backbones.models.recompute import has_hooks
from resnest_backbones.models.split_attention import SplitAttentionConv2d


def fuse(trunk: Any) -> None:
    """Replace stem and blocks of a ``ResNeSt``, whose norms are folded into its convolutions, by fused ones.

    Modules keep their names. Blocks with deformable convolutions, or with norms that could not be folded, stay.
    """
    if _is_folded(trunk.stem):
        trunk.stem = FusedStem(trunk.stem)
    for stage in (child for name, child in trunk.named_children() if name in STAGES):
        before: nn.Module | None = None
        for name, block in list(stage.named_children()):
            if block.conv2_offset is None and _is_folded(block):
                setattr(stage, name, FusedBottleneck(block, before))
            before = stage.get_submodule(name)


def norms_of(module: nn.Module) -> list[nn.Module]:
    """Return the norms that a convolution with its norm, or a split attention, still has."""
    names = {ConvNorm: ("norm",), SplitAttentionConv2d: ("bn0", "bn1")}.get(type(module), ())
    return [norm for name in names if not isinstance(norm := module.get_submodule(name), nn.Identity)]


def _is_folded(module: nn.Module) -> bool:
    return not any(norms_of(part) for part in module.modules())


def _can_fuse(x: Tensor, modules: Sequence[nn.Module]) -> bool:
    if x.device.type != "cpu" or x.layout != torch.strided or not torch.backends.mkldnn.is_available():
        return False
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for m in modules for p in m.parameters())):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    # In training, drop path and DropBlock do something.
    return _has_operators(x.dtype) and not any(has_hooks(module) or module.training for module in modules)


def _has_operators(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


class _Convolution:
    """A convolution without gradients whose weight is kept in the layout that its kernel reads.

    oneDNN otherwise reorders the weight in each call, a quarter of the time for small images. The layout depends on the
    size of the input: the weight is packed when a size comes for the second time in a row, and kept for that size only.
    Copies and pickles come without the packed weight, and a weight that changed is packed anew.

    Args:
        conv: an ``nn.Conv2d``, with bias, of images in channels-last memory.
    """

    def __init__(self, conv: Any) -> None:
        self.conv = conv
        self._place = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._packed: Tensor | None = None
        self._packed_for: tuple[Any, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None, "_packed_for": ()}

    def plain(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        return self._pointwise(x, "none")

    def relu(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W) and apply ReLU, in one pass."""
        return self._pointwise(x, "relu")

    def _pointwise(self, x: Tensor, then: str) -> Tensor:
        weight = self._weight(x)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self.conv.bias, *self._place, then, [], "")

    def add_relu(self, x: Tensor, to: Tensor) -> Tensor:
        """Convolve ``x``, add ``to`` and apply ReLU, in one pass that writes into ``to``."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            to, x, self._weight(x), self.conv.bias, *self._place, "add", 1.0, "relu", [], ""
        )

    def _weight(self, x: Tensor) -> Tensor:
        conv, weight = self.conv, self.conv.weight
        # An inference tensor has no version: what is written into it is seen by nobody.
        version = None if weight.is_inference() else weight._version
        packed_for = (tuple(x.shape), weight.data_ptr(), weight.dtype, version)
        if packed_for != self._packed_for:
            self._packed, self._packed_for = None, packed_for
            return weight
        if self._packed is None and version is not None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight, list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups, list(x.shape)
            )
        return weight if self._packed is None else self._packed


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
        self._convolutions = [_Convolution(conv) for conv in (stem.conv1_1, stem.conv1_2, stem.conv1_3)]

    def forward(self, x: Tensor) -> Any:
        """Map (N, in_channels, H, W) to (N, 2 x width, H / 4, W / 4), sizes rounded up."""
        (stem,) = self._plain
        if not _can_fuse(x, list(stem.children())):
            return stem(x)
        for convolution in self._convolutions:
            x = convolution.relu(x)
        return (x, stem.maxpool(x)) if stem.returns_conv1 else stem.maxpool(x)


class FusedBottleneck(nn.Module):
    """A block, of folded convolutions without offsets.

    Args:
        block: what it computes.
        before: the block before it in its stage. Its output, which nothing else needs, is written over by the sum with
            the shortcut, unless a hook may have kept it. None for the first block, whose shortcut is a convolution.
    """

    def __init__(self, block: Bottleneck, before: nn.Module | None) -> None:
        super().__init__()
        for name, module in block.named_children():
            self.add_module(name, module)
        self._plain, self._before = (block,), (before,)
        self._conv1, self._conv2, self._conv3 = map(_Convolution, (block.conv1, block.conv2.conv, block.conv3))
        is_conv = isinstance(block.shortcut, nn.Conv2d)
        self._conv_shortcut = _Convolution(block.shortcut) if is_conv else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 x planes, H / stride, W / stride), sizes rounded up."""
        (block,) = self._plain
        if not _can_fuse(x, list(block.children())):
            return block(x)
        mixed = _mix(block.conv2, self._conv2.relu(block.pool_before(self._conv1.relu(x))))
        return self._conv3.add_relu(block.pool_after(mixed), to=self._shortcut(block, x))

    def _shortcut(self, block: Any, x: Tensor) -> Tensor:
        """Compute the shortcut, in a tensor that may be overwritten."""
        if self._conv_shortcut is not None:
            return self._conv_shortcut.plain(block.shortcut_pool(x))
        shortcut: Tensor = block.shortcut_pool(x)
        (before,) = self._before
        if shortcut is x and (before is None or has_hooks(before) or has_hooks(self)):
            shortcut = shortcut.clone()
        return shortcut.contiguous(memory_format=torch.channels_last)


def _mix(attention: Any, splits: Tensor) -> Tensor:
    """Weigh and sum the splits, (N, R x C, H, W), by their attention: (N, C, H, W)."""
    if attention.radix != 2 or attention.cardinality != 1:
        return attention.weigh(splits, attention.attention(attention.pool(splits)).to(splits.dtype))
    # In small images, many operators with little arithmetic take as long as a convolution. The softmax of two logits is
    # the sigmoid of their difference, and a product of matrices starts faster than a convolution.
    first, second = splits.mean(dim=(2, 3)).chunk(2, dim=1)
    hidden = linear(first + second, attention.fc1.weight.flatten(1), attention.fc1.bias).relu_()
    first, second = linear(hidden, attention.fc2.weight.flatten(1), attention.fc2.bias).chunk(2, dim=1)
    weight = (first - second).sigmoid_().to(splits.dtype)  # of another type under autocast
    first, second = splits.chunk(2, dim=1)
    return torch.lerp(second, first, weight[..., None, None])
