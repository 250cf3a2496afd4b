"""Batch norms in two halves: what they compute once, and what is computed again in backward from their statistics.

Shapes: ``c`` is (N, C, H, W), the output of a convolution; statistics, scale and shift are (C,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnest_backbones.models import sync_batch_norm
from resnest_backbones.models.sync_batch_norm import exchange, group_of, is_synchronised

_aten = torch.ops.aten


def is_batch_norm(norm: Any) -> bool:
    """Return whether it is a batch norm over the images of this process or of several, or one with constants."""
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return False
    if is_synchronised(norm):
        return True
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return type(norm).forward is nn.BatchNorm2d.forward
    return is_frozen(norm)


def is_frozen(norm: Any) -> bool:
    """Return whether it is torchvision's or Detectron2's frozen batch norm, whose scale and shift are buffers.

    Those of other projects (DETR, transformers) may keep their ``eps`` to themselves.
    """
    kind = type(norm)
    return kind.__name__ == "FrozenBatchNorm2d" and kind.__module__.partition(".")[0] in ("torchvision", "detectron2")


def is_constant(norm: Any) -> bool:
    """Return whether a norm in evaluation does nothing but scale and shift by its statistics and parameters."""
    if not all(isinstance(getattr(norm, name, None), Tensor) for name in ("running_mean", "running_var")):
        return False
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return is_frozen(norm)
    known = type(norm).__module__.partition(".")[0] in ("torch", "detectron2", "resnest_backbones")
    return known or type(norm).forward is nn.BatchNorm2d.forward  # timm's BatchNormAct2d has an activation in its own


def is_trained(norm: Any) -> bool:
    """Return whether a batch norm uses the statistics of the batch."""
    return norm.training and not is_frozen(norm)


class Statistics(NamedTuple):
    """What turns ``c`` into its norm once more, (C,) each."""

    mean: Tensor
    variance: Tensor
    inverse_deviation: Tensor
    share: Tensor | None = None  # of a value in the statistics of several processes, ()


def normalise(c: Tensor, norm: Any, *, relu: bool = True) -> tuple[Tensor, Statistics]:
    """Compute the norm of ``c``, and ReLU, and update the running statistics as the norm's own ``forward`` does."""
    if not is_trained(norm):
        statistics = Statistics(norm.running_mean, norm.running_var, (norm.running_var + norm.eps).rsqrt())
        return normalise_again(c, norm.weight, norm.bias, statistics, norm.eps, relu=relu), statistics
    if is_synchronised(norm) and group_of(norm) is not None:
        mean, variance, share = exchange(c, norm)
        statistics = Statistics(mean, variance, (variance + norm.eps).rsqrt(), share)
        return normalise_again(c, norm.weight, norm.bias, statistics, norm.eps, relu=relu), statistics
    if c.numel() == c.shape[1]:  # in the words of PyTorch's batch norm
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {c.size()}")
    norm.num_batches_tracked.add_(1)
    momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    y, mean, inverse_deviation = torch.native_batch_norm(
        c, norm.weight, norm.bias, norm.running_mean, norm.running_var, True, momentum, norm.eps
    )
    return y.relu_() if relu else y, Statistics(mean, inverse_deviation.pow(-2) - norm.eps, inverse_deviation)


def normalise_again(
    c: Tensor, scale: Tensor, shift: Tensor, statistics: Statistics, eps: float, *, relu: bool = True
) -> Tensor:
    """Compute the norm of ``c``, and ReLU, from statistics that are known."""
    mean, variance, *_ = statistics
    y = F.batch_norm(c, mean, variance, scale, shift, training=False, eps=eps)
    return y.relu_() if relu else y


def normalise_backward(
    grad: Tensor, y: Tensor | None, c: Tensor, scale: Tensor, statistics: Statistics, norm: Any, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Compute gradients of ``c``, scale and shift; ``grad`` is overwritten where it is of a ReLU's output ``y``."""
    if y is not None:
        _aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)
    if statistics.share is not None:
        return sync_batch_norm.normalise_backward(grad, c, scale, statistics, norm, wanted)
    mean, variance, inverse_deviation, _ = statistics
    return _aten.native_batch_norm_backward(
        grad, c, scale, mean, variance, mean, inverse_deviation, is_trained(norm), norm.eps, list(wanted)
    )
