"""Hooks of a training: the statistics of precise BN."""

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.engine import hooks
from torch import nn

from resnest_backbones.detectron2.engine.hooks import RepeatablePreciseBN


def test_precise_statistics_of_constant_channels_are_not_negative():
    values = torch.linspace(50, 90, 64).view(1, -1, 1, 1).expand(2, -1, 4, 4)
    least = {}
    for kind in (hooks.PreciseBN, RepeatablePreciseBN):
        net = nn.BatchNorm2d(64).train()
        kind(0, net, [values * (1 + 1e-4 * number) for number in range(4)], 4).update_stats()
        least[kind] = net.running_var.min().item()
    assert least == {hooks.PreciseBN: pytest.approx(-1e-3, rel=0.9), RepeatablePreciseBN: 0}  # the first gives NaN
