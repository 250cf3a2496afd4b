"""Batch norms, of one process and of several: what they compute once, and what is computed again in backward.

``nn.SyncBatchNorm`` exchanges its statistics inside, and on GPUs alone. Here the parts are apart, and on any device, so
that a chain that is computed again (``recompute.py``) exchanges them once, and so that CPUs have such a norm.

Shapes: ``c`` and ``x`` are (N, C, H, W), such as the output of a convolution; statistics, scale and shift are (C,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that exchanges statistics by collectives that any backend has.

    Statistics and gradients are those of one process with the images of all, also where images of one process are more
    or larger than another's; Detectron2's ``NaiveSyncBatchNorm`` counts images without their size, and keeps the biased
    variance. It is not an ``nn.SyncBatchNorm``, since ``DistributedDataParallel`` refuses those on CPUs.

    Attributes:
        process_group: the processes that exchange statistics; all where None.
    """

    process_group: distributed.ProcessGroup | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C, H, W); all processes of the group must call it.

        Raises:
            ValueError: there is one value per channel, and no other process.
        """
        if group_of(self) is None:
            return super().forward(input)
        return _SyncNorm.apply(input, self.weight, self.bias, self)


def synchronise_on_cpu(model: nn.Module) -> nn.Module:
    """Let each ``nn.SyncBatchNorm`` in a model exchange statistics between CPUs, in place; parameters stay the same."""
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            setattr(module, "__class__", CpuSyncBatchNorm)  # noqa: B010  (the same state, another forward)
    return model


def is_batch_norm(norm: Any) -> bool:
    """Return whether it is a batch norm over the images of this process or of several, or one with constants."""
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return False
    if _is_synchronized(norm):
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


def _is_naive(norm: Any) -> bool:
    """Return whether it is Detectron2's ``NaiveSyncBatchNorm`` that gives each process the same weight."""
    known = type(norm).__name__ == "NaiveSyncBatchNorm" and type(norm).__module__.startswith("detectron2.")
    return known and norm._stats_mode == ""


def _is_synchronized(norm: Any) -> bool:
    """Return whether it is a norm of which this module knows what it exchanges."""
    return type(norm) in (nn.SyncBatchNorm, CpuSyncBatchNorm) or _is_naive(norm)


def group_of(norm: Any) -> Any:
    """Return the processes with which a synchronized norm exchanges statistics now; None where it does not."""
    if not norm.training or not (distributed.is_available() and distributed.is_initialized()):
        return None
    group = getattr(norm, "process_group", None) or distributed.group.WORLD
    return group if distributed.get_world_size(group) > 1 else None


class Statistics(NamedTuple):
    """What turns ``c`` into its norm once more, (C,) each."""

    mean: Tensor
    variance: Tensor
    inverse_deviation: Tensor
    share: Tensor | None = None  # of a value in the statistics of several processes, ()


def normalize(c: Tensor, norm: Any, *, relu: bool = True) -> tuple[Tensor, Statistics]:
    """Compute the norm of ``c``, and ReLU, and update the running statistics as the norm's own ``forward`` does."""
    exchanged = _is_synchronized(norm) and group_of(norm) is not None
    if exchanged or not is_trained(norm):
        mean, variance, share = _exchange(c, norm) if exchanged else (norm.running_mean, norm.running_var, None)
        statistics = Statistics(mean, variance, (variance + norm.eps).rsqrt(), share)
        return normalize_again(c, norm.weight, norm.bias, statistics, norm.eps, relu=relu), statistics
    if c.numel() == c.shape[1]:  # in the words of PyTorch's batch norm
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {c.size()}")
    y, mean, inverse_deviation = torch.native_batch_norm(
        c, norm.weight, norm.bias, norm.running_mean, norm.running_var, True, _count_batch(norm), norm.eps
    )
    return y.relu_() if relu else y, Statistics(mean, inverse_deviation.pow(-2) - norm.eps, inverse_deviation)


def _count_batch(norm: Any) -> float:
    """Return the momentum of the running statistics in this batch, which is counted."""
    norm.num_batches_tracked.add_(1)
    return 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum


def normalize_again(
    c: Tensor, scale: Tensor, shift: Tensor, statistics: Statistics, eps: float, *, relu: bool = True
) -> Tensor:
    """Compute the norm of ``c``, and ReLU, from statistics that are known."""
    y = F.batch_norm(c, statistics.mean, statistics.variance, scale, shift, training=False, eps=eps)
    return y.relu_() if relu else y


def normalize_backward(
    grad: Tensor,
    y: Tensor | None,
    c: Tensor,
    scale: Tensor | None,
    statistics: Statistics,
    norm: Any,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Compute gradients of ``c``, scale and shift; ``grad`` is overwritten where it is of a ReLU's output ``y``.

    Of a norm that exchanged its statistics, what reaches ``c`` by way of them is a norm of ``c`` itself, scaled and
    shifted by the gradients of scale and shift over the images of all processes. Those two are summed between
    processes, in one collective.
    """
    if y is not None:
        _aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)
    mean, variance, inverse_deviation, share = statistics

    def backward(of_batch: bool, wanted: Sequence[bool]) -> tuple[Tensor, ...]:
        values = (mean, variance, mean, inverse_deviation, of_batch, norm.eps)
        return _aten.native_batch_norm_backward(grad, c, scale, *values, list(wanted))

    if share is None:
        return backward(is_trained(norm), wanted)
    of_c, *of_norm = backward(False, (True, True, True))
    if wanted[0]:
        sums = torch.stack(of_norm).to(mean.dtype)
        distributed.all_reduce(sums, group=group_of(norm))
        factor = -share * inverse_deviation
        by_scale, by_shift = sums * (factor if scale is None else factor * scale)
        of_c.add_(F.batch_norm(c, mean, variance, by_scale, by_shift, training=False, eps=norm.eps))
    return tuple(value if needed else None for value, needed in zip((of_c, *of_norm), wanted, strict=True))


class _SyncNorm(torch.autograd.Function):
    """A synchronized norm, of which ``x`` and the statistics are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None, norm: Any) -> Tensor:
        out, statistics = normalize(x, norm, relu=False)
        ctx.save_for_backward(x, scale, *statistics)
        ctx.norm = norm
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, *values = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return (*normalize_backward(grad, None, x, scale, Statistics(*values), ctx.norm, wanted), None)


def _exchange(x: Tensor, norm: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance over the images of all processes, and follow them with the running statistics.

    The collective is the one of ``nn.SyncBatchNorm``: each process gives its mean, variance and number of values.

    Returns:
        mean, variance (biased), and the share of a single value of this process in them, ().
    """
    group, count = group_of(norm), x.numel() // x.shape[1]
    own = torch.cat([*_own_statistics(x), torch.full((1,), count, dtype=_wide(x), device=x.device)])
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(every, own, group)
    means, variances, counts = torch.stack(every).split([x.shape[1], x.shape[1], 1], dim=1)
    if _is_naive(norm):
        weights, share = torch.full_like(counts, 1 / len(every)), 1 / (count * counts.new_tensor(len(every)))
    else:
        weights, share = counts / counts.sum(), 1 / counts.sum()
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean).square())).sum(0)
    if norm.running_mean is not None:
        _follow(norm, mean, variance, counts.sum())
    return mean, variance, share


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _own_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and biased variance of this process's images; zeros where it has none."""
    if x.numel() == 0:
        zeros = torch.zeros(x.shape[1], dtype=_wide(x), device=x.device)
        return zeros, zeros
    if x.is_cuda:  # in float32 without a copy of x
        mean, inverse_deviation = torch.batch_norm_stats(x, 1e-12)
        return mean, inverse_deviation.pow(-2) - 1e-12
    variance, mean = torch.var_mean(x.to(_wide(x)), [dim for dim in range(x.ndim) if dim != 1], correction=0)
    return mean, variance


def _follow(norm: Any, mean: Tensor, variance: Tensor, total: Tensor) -> None:
    """Update the running statistics as the norm's own ``forward`` does."""
    if _is_naive(norm):
        norm.running_mean += norm.momentum * (mean - norm.running_mean)
        norm.running_var += norm.momentum * (variance - norm.running_var)
        return
    momentum = _count_batch(norm)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_((variance * (total / (total - 1))).to(norm.running_var.dtype), momentum)
