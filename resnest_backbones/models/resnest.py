"""The ResNeSt trunk in plain PyTorch (arXiv 2004.08955; original: ``resnest/torch/resnet.py``).

    image (N, 3, H, W)
      stem   three 3x3 convolutions and a max pool      (N, 2 x stem_width, H/4, W/4)
      res2   Bottleneck x depths[0]                     (N, 256, H/4, W/4)
      res3   Bottleneck x depths[1]                     (N, 512, H/8, W/8)
      res4   Bottleneck x depths[2]                     (N, 1024, H/16, W/16)
      res5   Bottleneck x depths[3]                     (N, 2048, H/32, W/32)
      logits global average pool and a linear layer     (N, num_classes)

Modules are named as in the original's Detectron2 wrapper, so that its published detectors fit without renaming.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, StochasticDepth

from resnest_backbones.models import recompute
from resnest_backbones.models.arguments import (
    STAGES,
    NormLayer,
    ResNeStOptions,
    check_choice,
    check_flags,
    check_multi_grid,
    check_names,
    check_norm_layers,
    check_out_features,
    check_positive,
    check_recompute,
    stages_to_build,
)
from resnest_backbones.models.checkpointing import checkpointed
from resnest_backbones.models.layers import ConvNorm, ShortcutPool
from resnest_backbones.models.split_attention import SplitAttentionConv2d
from resnest_backbones.models.variants import ResNeStSpec, get_variant

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PLANES = {"res2": 64, "res3": 128, "res4": 256, "res5": 512}
_EXPANSION = 4

# Per output stride: (stride of the stage's first block, dilation of that block, dilation of the others). The first
# block of a dilated stage keeps the dilation of the stage before it, as in the original.
_STRIDES_AND_DILATIONS = {
    32: {"res2": (1, 1, 1), "res3": (2, 1, 1), "res4": (2, 1, 1), "res5": (2, 1, 1)},
    16: {"res2": (1, 1, 1), "res3": (2, 1, 1), "res4": (2, 1, 1), "res5": (1, 1, 2)},
    8: {"res2": (1, 1, 1), "res3": (2, 1, 1), "res4": (1, 1, 2), "res5": (1, 2, 4)},
}


class DeepStem(nn.Sequential):
    """Three 3x3 convolutions and a max pool (ResNet-D): stride 4, ``2 x width`` channels.

    Attributes:
        recompute: compute norms and ReLUs again in backward: "auto", True or False, as in ``ResNeSt``.
    """

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

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 2 x width, H / 4, W / 4), sizes rounded up."""
        if recompute.applies(self, x):
            return recompute.stem(self, x)
        return super().forward(x)


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
            x = checkpointed(block, x)
        return x


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
        norm_layer: makes a normalisation layer from a channel count; None for none.
        attention_norm_layer: likewise for the attention's hidden layer; ``norm_layer`` where None.
        deformable: the 3x3 convolution is deformable (version 1).
        deform_modulated: with a modulation mask (version 2).
        deform_groups: number of offset groups.
        drop_path_rate: probability of dropping the residual branch of a sample in training.

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
    ) -> None:
        super().__init__()
        check_choice("stride", stride, (1, 2))
        if stride != 1 and not avg_pool:
            raise ValueError(f"stride must be 1 if avg_pool is False, got {stride}")
        out_channels = planes * _EXPANSION
        self.conv1 = ConvNorm(in_channels, width, 1, norm_layer=norm_layer)
        self.conv2_offset: nn.Conv2d | None = None
        if deformable:
            self.conv2_offset = _make_offset_conv(width, deform_groups, deform_modulated, dilation)
        self.deform_modulated = deform_modulated
        self.conv2 = SplitAttentionConv2d(
            width,
            radix=radix,
            cardinality=cardinality,
            dilation=dilation,
            norm_layer=norm_layer,
            attention_norm_layer=attention_norm_layer,
            deformable=deformable,
        )
        pool = nn.AvgPool2d(kernel_size=3, stride=stride, padding=1) if avg_pool else nn.Identity()
        self.pool_before = pool if avd_first else nn.Identity()
        self.pool_after = nn.Identity() if avd_first else pool
        self.conv3 = ConvNorm(width, out_channels, 1, norm_layer=norm_layer)
        self.drop_path = StochasticDepth(drop_path_rate, "row") if drop_path_rate else nn.Identity()
        self.shortcut_pool: nn.Module = nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut_pool = ShortcutPool(stride)
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, norm_layer=norm_layer)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 x planes, H / stride, W / stride), sizes rounded up."""
        if recompute.applies(self, x):
            return recompute.bottleneck(self, x)
        out = self.pool_before(self.relu(self.conv1(x)))
        if self.conv2_offset is None:
            out = self.conv2(out)
        else:
            out = self.conv2(out, *self.split_offsets(self.conv2_offset(out)))
        out = self.drop_path(self.conv3(self.pool_after(out)))
        return self.relu(out.add_(self.shortcut(self.shortcut_pool(x))))

    def split_offsets(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split (N, 3 x 9 x G, H, W) into all offsets and the mask, whose logits come last (version 2)."""
        if not self.deform_modulated:
            return x, None
        split = x.shape[1] // 3
        return x[:, : 2 * split], x[:, 2 * split :].sigmoid()


def _make_offset_conv(width: int, groups: int, modulated: bool, dilation: int) -> nn.Conv2d:
    check_positive("deform_groups", groups)
    if width % groups:
        raise ValueError(f"deform_groups must divide the block's width, {width}, got {groups}")
    channels = (3 if modulated else 2) * 9 * groups
    return nn.Conv2d(width, channels, kernel_size=3, padding=dilation, dilation=dilation, groups=groups)


class ResNeSt(nn.Module):
    """The trunk: images in, a dict of named features out.

    Args:
        spec: one of ``variants.VARIANTS``, its name, or a custom ``ResNeStSpec``.
        output_stride: 32, or 16 or 8 to dilate res5, or res4 and res5, instead of downsampling. The dilation rule is
            the original's.
        avg_pool_at_stride_1: keep the 3x3 average pool in the first block of a stage that is dilated, where its stride
            is 1. The original does, and its weights were trained with it; MMSegmentation's own ResNeSt leaves it out.
        out_features: which of ``stem, res2, res3, res4, res5, logits`` to return. Stages beyond the last one asked for
            are not built.
        in_channels: channels of the image.
        num_classes: classes of the linear head; ``logits`` is then returned as well.
        norm_layer: makes a normalisation layer from a channel count; None for none.
        attention_norm_layer: likewise for the attentions' hidden layers, which see one value per image and channel, too
            few for 32 groups; ``norm_layer`` where None.
        multi_grid: factors on the dilation of the blocks of res5, one per block (DeepLabV3, arXiv 1706.05587).
        deform_stages: stages whose 3x3 convolutions are deformable.
        deform_modulated: version 2 (modulated) of deformable convolution.
        deform_groups: offset groups of deformable convolution.
        drop_path_rate: stochastic depth; grows linearly over the blocks from 0 to this rate.
        gradient_checkpointing: recompute each block in backward to save memory.
        recompute: compute norms, ReLUs and attention, not convolutions, again in backward, which gives the same in less
            memory: "auto" wherever ``models/recompute.py`` can; True for an error where it cannot; False for nowhere.
        zero_init_last_norm: zero the scale of each block's last norm, so that blocks start as identities.

    Raises:
        ValueError: an argument is outside what is allowed; the message names it.
    """

    def __init__(
        self,
        spec: ResNeStSpec | str,
        *,
        output_stride: int = 32,
        avg_pool_at_stride_1: bool = True,
        out_features: Sequence[str] = STAGES,
        in_channels: int = 3,
        num_classes: int | None = None,
        norm_layer: NormLayer | None = nn.BatchNorm2d,
        attention_norm_layer: NormLayer | None = None,
        multi_grid: Sequence[int] | None = None,
        deform_stages: Collection[str] = (),
        deform_modulated: bool = False,
        deform_groups: int = 1,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        recompute: bool | str = "auto",
        zero_init_last_norm: bool = False,
    ) -> None:
        super().__init__()
        spec = spec if isinstance(spec, ResNeStSpec) else get_variant(spec)
        check_choice("output_stride", output_stride, tuple(_STRIDES_AND_DILATIONS))
        check_positive("in_channels", in_channels)
        if num_classes is not None:
            check_positive("num_classes", num_classes)
        check_positive("deform_groups", deform_groups)
        check_flags(
            avg_pool_at_stride_1=avg_pool_at_stride_1,
            deform_modulated=deform_modulated,
            gradient_checkpointing=gradient_checkpointing,
            zero_init_last_norm=zero_init_last_norm,
        )
        if not isinstance(drop_path_rate, (int, float)) or not 0.0 <= drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate must be a number in [0, 1), got {drop_path_rate!r}")
        check_recompute(recompute)
        check_norm_layers(norm_layer=norm_layer, attention_norm_layer=attention_norm_layer)
        self.spec = spec
        self.output_stride = output_stride
        self.out_features = check_out_features(out_features, num_classes)
        stages = stages_to_build(self.out_features)
        deform = check_names("deform_stages", deform_stages, STAGES)
        grid = check_multi_grid(multi_grid, spec.depths[3], built="res5" in stages)

        self.stem = DeepStem(in_channels, spec.stem_width, norm_layer=norm_layer)
        self._info = {"stem": (self.stem.out_channels, 4)}
        make_block = partial(
            Bottleneck,
            radix=spec.radix,
            cardinality=spec.cardinality,
            avd_first=spec.avd_first,
            norm_layer=norm_layer,
            attention_norm_layer=attention_norm_layer,
            deform_modulated=deform_modulated,
            deform_groups=deform_groups,
        )
        drop_rates = (drop_path_rate * i / (sum(spec.depths) - 1) for i in count())
        channels, total_stride = self.stem.out_channels, 4
        for name, depth in zip(stages, spec.depths, strict=False):
            planes = _PLANES[name]
            stride, first, rest = _STRIDES_AND_DILATIONS[output_stride][name]
            dilations = [first] + [rest] * (depth - 1)
            if grid is not None and name == "res5":
                dilations = [rest * factor for factor in grid]
            blocks = [
                make_block(
                    planes * _EXPANSION if i else channels,
                    planes,
                    width=spec.width(planes),
                    stride=1 if i else stride,
                    dilation=dilation,
                    avg_pool=i == 0 and name != "res2" and (stride > 1 or avg_pool_at_stride_1),
                    deformable=name in deform,
                    drop_path_rate=next(drop_rates),
                )
                for i, dilation in enumerate(dilations)
            ]
            self.add_module(name, Stage(*blocks))
            channels, total_stride = planes * _EXPANSION, total_stride * stride
            self._info[name] = (channels, total_stride)
        self._stages = stages
        self.gradient_checkpointing = gradient_checkpointing
        self.fc = nn.Linear(channels, num_classes) if num_classes is not None else None
        for module in self.modules():
            if isinstance(module, (DeepStem, Bottleneck)):
                module.recompute = recompute
        self._init_weights(zero_init_last_norm)

    @property
    def feature_channels(self) -> dict[str, int]:
        """Channels of each feature map in ``out_features``; ``logits`` is no feature map."""
        return {name: self._info[name][0] for name in self.out_features if name in self._info}

    @property
    def feature_strides(self) -> dict[str, int]:
        """Pixels of the image per step of each feature map in ``out_features``."""
        return {name: self._info[name][1] for name in self.out_features if name in self._info}

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether each block is recomputed in backward to save memory."""
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        self._gradient_checkpointing = on
        for stage in (module for module in self.modules() if isinstance(module, Stage)):
            stage.gradient_checkpointing = on

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the features named in ``out_features``.

        Args:
            x: images, (N, in_channels, H, W), normalised as the weights expect (``weights/records.py``: mean, std and
                channel order of each published file).

        Returns:
            ``{"res2": (N, 256, H/4, W/4), ..., "logits": (N, num_classes)}`` with sizes rounded up, in network order.
        """
        outputs = {}
        x = self.stem(x)
        if "stem" in self.out_features:
            outputs["stem"] = x
        for name in self._stages:
            x = self.get_submodule(name)(x)
            if name in self.out_features:
                outputs[name] = x
        if self.fc is not None:
            outputs["logits"] = self.fc(x.mean(dim=(2, 3)))
        return outputs

    @torch.no_grad()
    def _init_weights(self, zero_init_last_norm: bool) -> None:
        """He initialisation over fan-out, as the original does; offsets of deformable convolutions start at zero."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, DeformConv2d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, Bottleneck):
                if module.conv2_offset is not None:
                    for parameter in module.conv2_offset.parameters():
                        nn.init.zeros_(parameter)
                scale = getattr(module.conv3.norm, "weight", None)
                if zero_init_last_norm and scale is not None:
                    nn.init.zeros_(scale)


def build(name: str, **options: Unpack[ResNeStOptions]) -> ResNeSt:
    """Build a published network by name, with random weights.

    Args:
        name: one of ``list_variants()``.
        **options: those of ``ResNeSt``.

    Examples:
        >>> net = build("resnest14", out_features=("res2", "res5"))
        >>> {name: tuple(x.shape) for name, x in net(torch.zeros(2, 3, 64, 96)).items()}
        {'res2': (2, 256, 16, 24), 'res5': (2, 2048, 2, 3)}

    Raises:
        ValueError: the name or an option is outside what is allowed; the message names it.
    """
    return ResNeSt(get_variant(name), **options)
