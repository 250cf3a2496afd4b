"""The published recipe: its values by network, what trains the weights, and how rates change over a training.

Sources: the command of the authors' Gluon training (scripts/gluon/README.md, train.py, and resnest/gluon/resnest.py for
dropout and DropBlock by network); docs/pretraining.md says where their PyTorch trainer differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torchvision.ops import DropBlock2d

import resnest_backbones as rb
from resnest_backbones.weights import WEIGHTS

CROPS = {name: record.crop for name, record in WEIGHTS.items()}
DROPOUTS = {"resnest200": 0.2, "resnest269": 0.2}
# GluonCV trained ResNeSt-14 and 26 without.
DROP_BLOCKS = {name: 0.1 for name in WEIGHTS if name not in ("resnest14", "resnest26")}


def make_network(
    name: str, num_classes: int, *, in_channels: int = 3, dropout: float = 0.0, drop_block: float = 0.0
) -> rb.ResNeSt:
    """Return a network for a training from scratch: the last norm of each block starts at zero."""
    net = rb.build(
        name, out_features=("logits",), num_classes=num_classes, in_channels=in_channels, drop_block_rate=drop_block,
        zero_init_last_norm=True,
    )  # fmt: skip
    if dropout:
        assert net.fc is not None
        net.fc.register_forward_pre_hook(Dropout(dropout))
    return net


class Dropout:
    """A hook before the classifier; a module of its own would change the names in a checkpoint."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return F.dropout(inputs[0], self.rate, module.training)


def make_optimizer(net: nn.Module, lr: float, weight_decay: float) -> torch.optim.SGD:
    """Return SGD with Nesterov's momentum; biases and norms do not decay."""
    return torch.optim.SGD(param_groups_weight_decay(net, weight_decay), lr=lr, momentum=0.9, nesterov=True)


def make_schedule(optimizer: Any, *, epochs: int, warmup_epochs: int, iterations: int) -> CosineLRScheduler:
    """Return the schedule: from 0 up to the optimizer's rate, then a cosine to 0, by iterations of an epoch."""
    warmup = warmup_epochs * iterations
    return CosineLRScheduler(
        optimizer, t_initial=epochs * iterations - warmup, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False
    )


def mix_up(
    images: Tensor, labels: Tensor, num_classes: int, *, alpha: float, smoothing: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Mix each image with another of its batch, all by one share, and smooth the labels.

    Returns:
        Images (N, C, H, W) and targets (N, num_classes), the probabilities of each class.
    """
    share = np.random.default_rng(seed).beta(alpha, alpha) if alpha else 1.0
    return images.lerp(images.flip(0), 1.0 - share), mixup_target(labels, num_classes, share, smoothing)


def set_drop_block(net: nn.Module, rate: float, *, epoch: int, epochs: int) -> None:
    """Let DropBlock drop more in each epoch, numbered from 0, up to the rate in the last one."""
    for module in net.modules():
        if isinstance(module, DropBlock2d):
            module.p = rate * (epoch + 1) / epochs
