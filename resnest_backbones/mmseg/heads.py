"""The decode heads of the paper's segmentors, which were PyTorch-Encoding's (``encoding/models/sseg`` there).

They differ from MMSegmentation's ``ASPPHead`` (512 channels, a 3x3 convolution over all branches) and ``FCNHead``
(two convolutions and a third over their concatenation with the input), which keep their names.

Shapes: N images, C channels, H x W positions of the stage that ``in_index`` picks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import FCNHead
from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor, nn

from resnest_backbones.models.arguments import check_positive


class _PaperHead(BaseDecodeHead):
    """What both heads share: their checks, batch norm by default, plain dropout, PyTorch's initialization."""

    dropout: nn.Module | None
    divisor: int  # of the stage's channels, for those of the head

    def __init__(
        self,
        in_channels: int,
        channels: int | None = None,
        *,
        num_classes: int,
        dropout_ratio: float = 0.1,
        norm_cfg: Mapping[str, Any] | None = None,
        align_corners: bool = True,
        init_cfg: Any = None,
        **kwargs: Any,
    ) -> None:
        check_positive("in_channels", in_channels)
        width = max(in_channels // self.divisor, 1) if channels is None else channels
        check_positive("channels", width)
        _check_share("dropout_ratio", dropout_ratio)
        super().__init__(
            in_channels=in_channels,
            channels=width,
            num_classes=num_classes,
            dropout_ratio=dropout_ratio,
            norm_cfg={"type": "BN"} if norm_cfg is None else dict(norm_cfg),
            align_corners=align_corners,
            init_cfg=init_cfg,
            **kwargs,
        )
        if self.dropout is not None:  # drops single values, where MMSegmentation drops whole channels
            self.dropout = nn.Dropout(dropout_ratio)

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says, or as PyTorch does; once, as in all of MMEngine."""
        first = not self.is_init
        super().init_weights()
        if first and not self.init_cfg:  # undo MMCV's ConvModule; its norms are initialized as PyTorch's
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    module.reset_parameters()


@MODELS.register_module()
class PaperASPPHead(_PaperHead):
    """DeepLabV3's head of the paper.

    A 1x1 convolution, three dilated 3x3 ones and the pooled image are concatenated in that order, projected by a 1x1
    convolution with dropout of whole channels, and followed by a 3x3 convolution, plain dropout and the classifier.
    Without an ``init_cfg``, ``init_weights()`` draws as PyTorch's layers do, as for the published heads;
    MMSegmentation's heads draw from other distributions (standard deviation 0.01 in the classifier).

    Args:
        in_channels: channels C of the stage.
        channels: channels of each branch and of what follows; C/8 by default, which is 256 for res5.
        dilations: of the branches; 1 stands for the 1x1 convolution.
        project_dropout: share of the channels dropped after the projection.
        **kwargs: other arguments of MMSegmentation's ``BaseDecodeHead``, which refuses unknown ones: ``num_classes``;
            ``dropout_ratio``, here the share of the values dropped before the classifier, 0.1 by default; ``norm_cfg``,
            BN by default; ``align_corners``, True by default.

    Raises:
        ValueError: an argument is outside what is allowed; the message names it.
    """

    divisor = 8

    def __init__(
        self,
        in_channels: int,
        channels: int | None = None,
        *,
        dilations: Sequence[int] = (1, 12, 24, 36),
        project_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        _check_share("project_dropout", project_dropout)
        super().__init__(in_channels, channels, **kwargs)
        self.dilations = _check_dilations(dilations)
        layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.aspp_modules = ASPPModule(self.dilations, self.in_channels, self.channels, **layers)
        self.image_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), ConvModule(self.in_channels, self.channels, 1, **layers)
        )
        self.project = ConvModule((len(self.dilations) + 1) * self.channels, self.channels, 1, **layers)
        self.project_dropout = nn.Dropout2d(project_dropout)
        self.bottleneck = ConvModule(self.channels, self.channels, 3, padding=1, **layers)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return class scores (N, num_classes, H, W) from the stages' features."""
        return self.cls_seg(self._forward_feature(inputs))

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the classifier's input (N, channels, H, W); some losses of MMSegmentation call this."""
        x = self._transform_inputs(inputs)
        pooled = resize(self.image_pool(x), x.shape[2:], mode="bilinear", align_corners=self.align_corners)
        branches = torch.cat([*self.aspp_modules(x), pooled], dim=1)
        return self.bottleneck(self.project_dropout(self.project(branches)))


@MODELS.register_module()
class PaperFCNHead(_PaperHead, FCNHead):
    """The paper's FCN head and auxiliary head: a 3x3 convolution, plain dropout and the classifier.

    Arguments and initialization are those of ``PaperASPPHead``, without its own two; ``channels`` are C/4 by default.
    """

    divisor = 4

    def __init__(self, in_channels: int, channels: int | None = None, **kwargs: Any) -> None:
        super().__init__(in_channels, channels, num_convs=1, kernel_size=3, concat_input=False, **kwargs)


def _check_share(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{argument} must be a number from 0 to below 1, got {value!r}")


def _check_dilations(dilations: object) -> tuple[int, ...]:
    if isinstance(dilations, str) or not isinstance(dilations, Sequence) or not dilations:
        raise ValueError(f"dilations must be a sequence of positive integers, got {dilations!r}")
    for dilation in dilations:
        check_positive("each of dilations", dilation)
    return tuple(dilations)
