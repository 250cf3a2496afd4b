"""The other networks, as their packages ship them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

_TIMM = {"resnest50": "resnest50d", **{f"resnest{depth}": f"resnest{depth}e" for depth in (101, 200, 269)}}
_MMSEG_DEPTHS = {"resnest50": 50, "resnest101": 101, "resnest200": 200}


def peers(network: str) -> dict[str, Callable[[], nn.Module]]:
    """Return name -> builder of the implementations of a network whose packages are installed.

    "original" is the authors' package ``resnest``. With "resnest50" comes timm's ResNet-50-D, which has the same stem
    and shortcuts, but no split attention.
    """
    found: dict[str, Callable[[], nn.Module]] = {}
    if find_spec("resnest") is not None:
        networks = importlib.import_module("resnest.torch")
        if hasattr(networks, network):
            found["original"] = lambda: Stages(getattr(networks, network)())
    if find_spec("timm") is not None and network in _TIMM:
        found["timm"] = partial(_timm_features, _TIMM[network])
    if find_spec("mmseg") is not None and network in _MMSEG_DEPTHS:
        found["mmseg"] = partial(_mmseg, network)
    if find_spec("timm") is not None and network == "resnest50":
        found["ResNet-50-D"] = partial(_timm_features, "resnet50d")
    return found


class Stages(nn.Module):
    """The features of a classification network of the authors."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute features of strides 4, 8, 16 and 32 of images (N, 3, H, W)."""
        x = self.stem(x)
        return [x := stage(x) for stage in self.stages]


def _timm_features(name: str) -> nn.Module:
    return importlib.import_module("timm").create_model(name, features_only=True, out_indices=(1, 2, 3, 4))


def _mmseg(network: str) -> nn.Module:
    stem_channels = 64 if network == "resnest50" else 128
    options = {"stem_channels": stem_channels, "radix": 2, "reduction_factor": 4, "avg_down_stride": True}
    return importlib.import_module("mmseg.models.backbones").ResNeSt(depth=_MMSEG_DEPTHS[network], **options)
