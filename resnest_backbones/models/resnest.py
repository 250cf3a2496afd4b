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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from resnest_backbones.models.arguments import (
    STAGES,
    NormLayer,
    check_choice,
    check_flags,
    check_multi_grid,
    check_names,
    check_norm_layers,
    check_out_features,
    check_positive,
    check_rates,
    check_recompute,
    stages_to_build,
)
from resnest_backbones.models.blocks import EXPANSION, Bottleneck, DeepStem, Stage
from resnest_backbones.models.variants import ResNeStSpec, get_variant

_DROP_BLOCK_STAGES = ("res4", "res5")
_PLANES = {"res2": 64, "res3": 128, "res4": 256, "res5": 512}

# Per output stride: (stride of the stage's first block, dilation of that block, dilation of the others). The first
# block of a dilated stage keeps the dilation of the stage before it, as in the original.
_STRIDES_AND_DILATIONS = {
    32: {"res2": (1, 1, 1), "res3": (2, 1, 1), "res4": (2, 1, 1), "res5": (2, 1, 1)},
    16: {"res2": (1, 1, 1), "res3": (2, 1, 1), "res4": (2, 1, 1), "res5": (1, 1, 2)},
    8: {"res2": (1, 1, 1), "res3": (2, 1, 1), "res4": (1, 1, 2), "res5": (1, 2, 4)},
}


class FeatureInfo(NamedTuple):
    """A feature map: its name, its channels, and the pixels of the image per step."""

    name: str
    channels: int
    stride: int


class ResNeSt(nn.Module):
    """The trunk: images in, a dict of named features out.

    Args:
        spec: one of ``variants.VARIANTS``, its name, or a custom ``ResNeStSpec``.
        output_stride: 32, or 16 or 8 to dilate res5, or res4 and res5, instead of downsampling. The dilation rule is
            the original's.
        avg_pool_at_stride_1: keep the 3x3 average pool in the first block of a stage that is dilated, where its stride
            is 1. The original does, and its weights were trained with it; MMSegmentation's own ResNeSt leaves it out.
        out_features: which of ``conv1, stem, res2, res3, res4, res5, logits`` to return; ``conv1`` is the stem before
            its pool, at stride 2. Stages beyond the last one asked for are not built.
        in_channels: channels of the image.
        num_classes: classes of the linear head; ``logits`` is then returned as well.
        norm_layer: makes a normalization layer from a channel count; None for none.
        attention_norm_layer: likewise for the attentions' hidden layers, which see one value per image and channel, too
            few for 32 groups; ``norm_layer`` where None.
        multi_grid: factors on the dilation of the blocks of res5, one per block (DeepLabV3, arXiv 1706.05587).
        deform_stages: stages whose 3x3 convolutions are deformable.
        deform_modulated: version 2 (modulated) of deformable convolution.
        deform_groups: offset groups of deformable convolution.
        drop_path_rate: stochastic depth; grows linearly over the blocks from 0 to this rate.
        drop_block_rate: share of the values of res4 and res5 that DropBlock (arXiv 1810.12890) drops in training, in
            blocks of 3x3 pixels, as the original's. It grows over the original's training, whose trainer sets ``p``.
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
        drop_block_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        recompute: bool | str = "auto",
        zero_init_last_norm: bool = False,
    ) -> None:
        super().__init__()
        spec = spec if isinstance(spec, ResNeStSpec) else get_variant(spec)
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
        check_rates(drop_path_rate=drop_path_rate, drop_block_rate=drop_block_rate)
        check_recompute(recompute)
        check_norm_layers(norm_layer=norm_layer, attention_norm_layer=attention_norm_layer)
        self.spec = spec
        self.avg_pool_at_stride_1 = avg_pool_at_stride_1
        self.out_features = check_out_features(out_features, num_classes)
        if recompute is True and "conv1" in self.out_features:
            raise ValueError('recompute must be "auto" or False if out_features has conv1, got True')
        stages = stages_to_build(self.out_features)
        deform = check_names("deform_stages", deform_stages, STAGES)
        self.multi_grid = check_multi_grid(multi_grid, spec.depths[3], built="res5" in stages)

        self.stem = DeepStem(in_channels, spec.stem_width, norm_layer=norm_layer)
        self.stem.returns_conv1 = "conv1" in self.out_features
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
        channels = self.stem.out_channels
        for name, depth in zip(stages, spec.depths, strict=False):
            planes = _PLANES[name]
            blocks = [
                make_block(
                    planes * EXPANSION if i else channels,
                    planes,
                    width=spec.width(planes),
                    deformable=name in deform,
                    drop_path_rate=next(drop_rates),
                    drop_block_rate=drop_block_rate if name in _DROP_BLOCK_STAGES else 0.0,
                )
                for i in range(depth)
            ]
            self.add_module(name, Stage(*blocks))
            channels = planes * EXPANSION
        self._stages = stages
        self.set_output_stride(output_stride)
        self.gradient_checkpointing = gradient_checkpointing
        self.fc = nn.Linear(channels, num_classes) if num_classes is not None else None
        for module in self.modules():
            if isinstance(module, (DeepStem, Bottleneck)):
                module.recompute = recompute
        self._init_weights(zero_init_last_norm)

    def set_output_stride(self, output_stride: int) -> None:
        """Dilate the last stages instead of downsampling, or no longer, in place: as the argument of that name.

        The weights stay: they fit every output stride.

        Raises:
            ValueError: it is not 32, 16 or 8.
        """
        check_choice("output_stride", output_stride, tuple(_STRIDES_AND_DILATIONS))
        self.output_stride = output_stride
        width, total = self.stem.out_channels, 4
        self._features = [FeatureInfo("conv1", width, 2), FeatureInfo("stem", width, total)]
        for name in self._stages:
            stride, first, rest = _STRIDES_AND_DILATIONS[output_stride][name]
            blocks: Any = self.get_submodule(name)
            for i, block in enumerate(blocks):
                dilation = rest if i else first
                if self.multi_grid is not None and name == "res5":
                    dilation = rest * self.multi_grid[i]
                avg_pool = i == 0 and name != "res2" and (stride > 1 or self.avg_pool_at_stride_1)
                block.set_resolution(1 if i else stride, dilation, avg_pool)
            total *= stride
            self._features.append(FeatureInfo(name, _PLANES[name] * EXPANSION, total))

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Name, channels and stride of each feature map in ``out_features``; ``logits`` is no feature map."""
        return tuple(info for info in self._features if info.name in self.out_features)

    @property
    def feature_channels(self) -> dict[str, int]:
        """Channels of each feature map in ``out_features``."""
        return {info.name: info.channels for info in self.feature_info}

    @property
    def feature_strides(self) -> dict[str, int]:
        """Pixels of the image per step of each feature map in ``out_features``."""
        return {info.name: info.stride for info in self.feature_info}

    @property
    def out_channels(self) -> int:
        """Channels of the last stage, as torchvision's detectors ask of a backbone with one feature map."""
        return self._features[-1].channels

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
            x: images, (N, in_channels, H, W), normalized as the weights expect (``weights/records.py``: mean, std and
                channel order of each published file).

        Returns:
            ``{"res2": (N, 256, H/4, W/4), ..., "logits": (N, num_classes)}`` with sizes rounded up, in network order.
        """
        outputs = {}
        x = self.stem(x)
        if "conv1" in self.out_features:
            outputs["conv1"], x = x
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
        """He initialization over fan-out, as the original does; offsets of deformable convolutions start at zero."""
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
