"""The other networks, as their packages ship them; None where a package is not installed or has no such network."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

_TIMM = {
    "resnest50": "resnest50d",
    "resnest101": "resnest101e",
    "resnest200": "resnest200e",
    "resnest269": "resnest269e",
}
_MMSEG_DEPTHS = {"resnest50": 50, "resnest101": 101, "resnest200": 200}


class Stages(nn.Module):
    """The features of a classification network of the authors'."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features of strides 4, 8, 16, 32."""
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


def original(network: str) -> nn.Module | None:
    """The authors' package ``resnest``."""
    if find_spec("resnest") is None:
        return None
    networks = importlib.import_module("resnest.torch")
    return Stages(getattr(networks, network)()) if hasattr(networks, network) else None


def _timm_features(name: str) -> nn.Module:
    model: nn.Module = importlib.import_module("timm").create_model(name, features_only=True, out_indices=(1, 2, 3, 4))
    return model


def _timm(network: str) -> nn.Module | None:
    return _timm_features(_TIMM[network]) if find_spec("timm") is not None and network in _TIMM else None


def _mmseg(network: str) -> nn.Module | None:
    if find_spec("mmseg") is None or network not in _MMSEG_DEPTHS:
        return None
    backbones = importlib.import_module("mmseg.models.backbones")
    stem = 64 if network == "resnest50" else 128
    depth = _MMSEG_DEPTHS[network]
    model: nn.Module = backbones.ResNeSt(
        depth=depth, stem_channels=stem, radix=2, reduction_factor=4, avg_down_stride=True
    )
    return model


def _resnet_d(network: str) -> nn.Module | None:
    """What a ResNeSt-50 has to be compared with: no split attention, the same stem and shortcuts."""
    return _timm_features("resnet50d") if find_spec("timm") is not None and network == "resnest50" else None


PEERS: dict[str, Callable[[str], nn.Module | None]] = {
    "original": original,
    "timm": _timm,
    "mmseg": _mmseg,
    "ResNet-50-D": _resnet_d,
}
