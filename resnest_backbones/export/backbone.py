"""The trunk alone: from normalised images to feature maps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from resnest_backbones.errors import ExportError
from resnest_backbones.export.exportable import BACKBONE, Exportable
from resnest_backbones.models.resnest import ResNeSt

_AXES = {0: "batch", 2: "height", 3: "width"}


class _Features(nn.Module):
    """A trunk whose features come as a tuple: the core and Detectron2 have a dict, MMSegmentation a tuple already."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk(images)
        return tuple(features.values() if isinstance(features, Mapping) else features)


def export_backbone(model: nn.Module, size: Sequence[int] = (224, 224), *, fixed: bool = False) -> Exportable:
    """Return the ResNeSt of a model, ready to be exported.

    Args:
        model: a trunk, or a model that contains one, such as a detector or a segmentor.
        size: height and width in pixels of the images that the network is traced with.
        fixed: the file takes exactly two images of that size, instead of any number and size.

    Returns:
        Images (N, channels, H, W), normalised as the weights expect -> one feature map for each of ``out_features``.

    Raises:
        ExportError: the model contains no ResNeSt, or more than one.
    """
    trunks = [module for module in model.modules() if isinstance(module, ResNeSt)]
    if len(trunks) != 1:
        raise ExportError(
            f"the model must contain one ResNeSt of resnest_backbones, {type(model).__name__} has {len(trunks)}"
        )
    (trunk,) = trunks
    names = tuple(trunk.out_features)
    channels = next(module for module in trunk.modules() if isinstance(module, nn.Conv2d)).in_channels
    return Exportable(
        _Features(copy.deepcopy(trunk)).cpu().float().eval(),
        "images",
        names,
        torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0)) - 0.5,
        {} if fixed else _AXES,
        {
            "task": BACKBONE,
            "network": trunk.spec.name,
            "strides": dict(trunk.feature_strides),
            "channels": dict(trunk.feature_channels),
        },
    )
