"""What the trunk is made of: the stem, the bottleneck block, and a stage of blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from resnest_backbones.models import recompute
from resnest_backbones.models.arguments import NormLayer, check_choice, check_positive
from resnest_backbones.models.layers import ConvNorm, DropBlock, ShortcutPool
from resnest_backbones.models.split_attention import SplitAttentionConv2d

EXPANSION = 4  # channels of a block's output per plane


class DeepStem(nn.Sequential):
    """Three 3x3 convolutions and a max pool (ResNet-D): stride 4, ``2 x width`` channels.

    Attributes:
        returns_conv1: return what comes before the pool, too, at stride 2.
        recompute: compute norms and ReLUs again in backward: "auto", True or False, as in ``ResNeSt``.
    """

    returns_conv1 = False
    recompute: bool | str = "auto"

    def __init__(self, in_channels: int, width: int, *, norm_layer: NormLayer | None) -> None:
        super().__init__()
        self.conv1_1 = ConvNorm(in_channels, width, 3, stride=2, norm_layer=norm_layer)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1_2 = ConvNorm(width, width, 3, norm_layer=norm_layer)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv1_3 = ConvNorm(width, 2 * width, 3, norm_layer=norm_layer)
        self.relu3 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.out_channels = 2 * width

    def __getitem__(self, index: Any) -> Any:
        """Return a layer, or for a slice an ``nn.Sequential`` of some: ``stem[:-1]`` is the stem without its pool."""
        layers = list(self.children())[index]
        return nn.Sequential(*layers) if isinstance(index, slice) else layers

    def forward(self, x: Tensor) -> Any:
        """Map (N, in_channels, H, W) to (N, 2 x width, H / 4, W / 4), sizes rounded up."""
        if not self.returns_conv1:
            return recompute.stem(self, x) if recompute.applies(self, x) else super().forward(x)
        for layer in list(self.children())[:-1]:
            x = layer(x)
        return x, self.maxpool(x)


class Stage(nn.Sequential):
    """The blocks of res2, res3, res4 or res5.

    Attributes:
        gradient_checkpointing: recompute each block in backward to save memory.
    """

    gradient_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 x planes, H / stride, W / stride), sizes rounded up."""
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            return super().forward(x)
        for block in self:
            x = _checkpointed(block, x)
        return x


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Compute a block of which only ``x`` is kept for backward."""
    if torch.compiler.is_compiling():  # the compiler recomputes without side effects, and takes no context_fn
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _scratch_buffers(block)))


@contextmanager
def _scratch_buffers(module: nn.Module) -> Iterator[None]:
    """Let batch norms write into copies while a checkpointed block is recomputed, so that no batch counts twice.

    The recomputation must save as many tensors for backward as the first pass did, so the statistics stay in place.
    """
    buffers = [(m, name, buffer) for m in module.modules() for name, buffer in m.named_buffers(recurse=False)]
    for owner, name, buffer in buffers:
        setattr(owner, name, buffer.clone())
    try:
        yield
    finally:
        for owner, name, buffer in buffers:
            setattr(owner, name, buffer)


class Bottleneck(nn.Module):
    """1x1 convolution, split-attention 3x3 convolution, 1x1 convolution, and a shortcut.

    Args:
        in_channels: channels of the input.
        planes: 64, 128, 256 or 512; the output has four times as many channels.
        stride: 1 or 2. The 3x3 average pool, not a convolution, takes the stride.
        dilation: dilation of the 3x3 convolution.
        radix: number of splits.
        cardinality: number of groups.
        width: channels of the 3x3 convolution.
        avg_pool: there is a 3x3 average pool with ``stride`` beside the 3x3 convolution: in the first block of
            res3..res5.
        avd_first: that pool comes before the 3x3 convolution.
        norm_layer: makes a normalization layer from a channel count; None for none.
        attention_norm_layer: likewise for the attention's hidden layer; ``norm_layer`` where None.
        deformable: the 3x3 convolution is deformable (version 1).
        deform_modulated: with a modulation mask (version 2).
        deform_groups: number of offset groups.
        drop_path_rate: probability of dropping the residual branch of a sample in training.
        drop_block_rate: probability of dropping a value after each norm but the shortcut's and the attention's.

    Attributes:
        recompute: compute norms, ReLUs and weighted sums again in backward: "auto", True or False, as in ``ResNeSt``.
    """

    recompute: bool | str = "auto"

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        width: int,
        stride: int = 1,
        dilation: int = 1,
        radix: int = 2,
        cardinality: int = 1,
        avg_pool: bool = False,
        avd_first: bool = False,
        norm_layer: NormLayer | None = nn.BatchNorm2d,
        attention_norm_layer: NormLayer | None = None,
        deformable: bool = False,
        deform_modulated: bool = False,
        deform_groups: int = 1,
        drop_path_rate: float = 0.0,
        drop_block_rate: float = 0.0,
    ) -> None:
        super().__init__()
        out_channels = planes * EXPANSION
        self.conv1 = ConvNorm(in_channels, width, 1, norm_layer=norm_layer)
        self.conv2_offset: nn.Conv2d | None = None
        if deformable:
            self.conv2_offset = _make_offset_conv(width, deform_groups, deform_modulated)
        self.deform_modulated = deform_modulated
        self.conv2 = SplitAttentionConv2d(
            width,
            radix=radix,
            cardinality=cardinality,
            norm_layer=norm_layer,
            attention_norm_layer=attention_norm_layer,
            deformable=deformable,
            drop_block_rate=drop_block_rate,
        )
        self.avd_first = avd_first
        self.pool_before: nn.Module = nn.Identity()
        self.pool_after: nn.Module = nn.Identity()
        self.conv3 = ConvNorm(width, out_channels, 1, norm_layer=norm_layer)
        self.drop_path = StochasticDepth(drop_path_rate, "row") if drop_path_rate else nn.Identity()
        self.drop_block = DropBlock.of_rate(drop_block_rate)
        self.shortcut_pool: nn.Module = nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, norm_layer=norm_layer)
        self.relu = nn.ReLU(inplace=True)
        self.set_resolution(stride, dilation, avg_pool)

    def set_resolution(self, stride: int, dilation: int, avg_pool: bool) -> None:
        """Set the arguments of these names, in place; the parameters stay."""
        check_choice("stride", stride, (1, 2))
        check_positive("dilation", dilation)
        if stride != 1 and not avg_pool:
            raise ValueError(f"stride must be 1 if avg_pool is False, got {stride}")
        for conv in filter(None, (self.conv2.conv, self.conv2_offset)):
            conv.dilation = conv.padding = (dilation, dilation)
        pool = nn.AvgPool2d(kernel_size=3, stride=stride, padding=1) if avg_pool else nn.Identity()
        self.pool_before, self.pool_after = (pool, nn.Identity()) if self.avd_first else (nn.Identity(), pool)
        self.shortcut_pool = ShortcutPool(stride) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 x planes, H / stride, W / stride), sizes rounded up."""
        if recompute.applies(self, x):
            return recompute.bottleneck(self, x)
        out = self.pool_before(self.relu(self.drop_block(self.conv1(x))))
        if self.conv2_offset is None:
            out = self.conv2(out)
        else:
            out = self.conv2(out, *self.split_offsets(self.conv2_offset(out)))
        out = self.drop_path(self.drop_block(self.conv3(self.pool_after(out))))
        return self.relu(out.add_(self.shortcut(self.shortcut_pool(x))))

    def split_offsets(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split (N, 3 x 9 x G, H, W) into all offsets and the mask, whose logits come last (version 2)."""
        if not self.deform_modulated:
            return x, None
        split = x.shape[1] // 3
        return x[:, : 2 * split], x[:, 2 * split :].sigmoid()


def _make_offset_conv(width: int, groups: int, modulated: bool) -> nn.Conv2d:
    check_positive("deform_groups", groups)
    if width % groups:
        raise ValueError(f"deform_groups must divide the block's width, {width}, got {groups}")
    channels = (3 if modulated else 2) * 9 * groups
    return nn.Conv2d(width, channels, kernel_size=3, padding=1, groups=groups)
