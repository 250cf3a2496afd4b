"""Batch norms that several processes share: what they exchange in forward and in backward.

``nn.SyncBatchNorm`` has these parts inside, for GPUs alone. Here they are apart, and on any device, so that a chain
that is computed again in backward exchanges its statistics once (``recompute.py``), and so that CPUs have such a norm.

Shapes: ``x`` is (N, C, ...); statistics, scale and shift are (C,).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that exchanges statistics by collectives that any backend has.

    Statistics and gradients are those of one process with the images of all, also where images of one process are more
    or larger than another's; Detectron2's ``NaiveSyncBatchNorm`` counts images without their size, and keeps the biased
    variance. It is not an ``nn.SyncBatchNorm``, since ``DistributedDataParallel`` refuses those on CPUs.

    Args:
        num_features: number of channels, C.
        eps: added to the variance.
        momentum: of the running statistics; None for their plain mean.
        affine: whether there are a weight and a bias.
        track_running_stats: whether there are running statistics.
        process_group: the processes that exchange statistics; all where None.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W); all processes of the group must call it.

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


def is_naive(norm: Any) -> bool:
    """Return whether it is Detectron2's ``NaiveSyncBatchNorm`` that gives each process the same weight."""
    known = type(norm).__name__ == "NaiveSyncBatchNorm" and type(norm).__module__.startswith("detectron2.")
    return known and norm._stats_mode == ""


def is_synchronised(norm: Any) -> bool:
    """Return whether it is a norm of which this module knows what it exchanges."""
    return type(norm) in (nn.SyncBatchNorm, CpuSyncBatchNorm) or is_naive(norm)


def group_of(norm: Any) -> Any:
    """Return the processes with which a synchronised norm exchanges statistics now; None where it does not."""
    if not norm.training or not (distributed.is_available() and distributed.is_initialized()):
        return None
    group = getattr(norm, "process_group", None) or distributed.group.WORLD
    return group if distributed.get_world_size(group) > 1 else None


def exchange(x: Tensor, norm: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance over the images of all processes, and follow them with the running statistics.

    The collective is the one of ``nn.SyncBatchNorm``: each process gives its mean, variance and number of values.

    Returns:
        mean, variance (biased), and the share of a single value of this process in them, ().
    """
    group, count = group_of(norm), x.numel() // x.shape[1]
    own = torch.cat([*_own_statistics(x), torch.full((1,), count, dtype=_wide(x), device=x.device)])
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(every, own, group)
    table = torch.stack(every)
    means, variances, counts = table.split([x.shape[1], x.shape[1], 1], dim=1)
    if is_naive(norm):
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
    if is_naive(norm):
        norm.running_mean += norm.momentum * (mean - norm.running_mean)
        norm.running_var += norm.momentum * (variance - norm.running_var)
        return
    norm.num_batches_tracked.add_(1)
    momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_((variance * (total / (total - 1))).to(norm.running_var.dtype), momentum)


class _SyncNorm(torch.autograd.Function):
    """A synchronised norm, of which ``x`` and the statistics are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None, norm: Any) -> Tensor:
        mean, variance, share = exchange(x, norm)
        ctx.save_for_backward(x, scale, mean, variance, share)
        ctx.norm = norm
        return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=norm.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, variance, share = ctx.saved_tensors
        values = (mean, variance, (variance + ctx.norm.eps).rsqrt(), share)
        return (*normalise_backward(grad, x, scale, values, ctx.norm, ctx.needs_input_grad[:3]), None)


def normalise_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, values: Any, norm: Any, wanted: Any
) -> tuple[Tensor | None, ...]:
    """Compute the gradients of ``x``, scale and shift of a norm that exchanged its statistics.

    What reaches ``x`` by way of the statistics is a norm of ``x`` itself, scaled and shifted by the gradients of scale
    and shift over the images of all processes. Those two are summed between processes, in one collective.

    Args:
        grad: the gradient of the norm's output.
        x: what was normalised.
        scale: of the norm; None for ones.
        values: mean, variance, inverse deviation and share, from ``exchange``.
        norm: the norm.
        wanted: which of the three gradients are needed; the others are None.
    """
    mean, variance, inverse_deviation, share = values
    of_x, *of_norm = torch.ops.aten.native_batch_norm_backward(
        grad, x, scale, mean, variance, mean, inverse_deviation, False, norm.eps, [True, True, True]
    )
    if wanted[0]:
        sums = torch.stack(of_norm).to(mean.dtype)
        distributed.all_reduce(sums, group=group_of(norm))
        factor = -share * inverse_deviation
        by_scale, by_shift = sums * (factor if scale is None else factor * scale)
        of_x.add_(F.batch_norm(x, mean, variance, by_scale, by_shift, training=False, eps=norm.eps))
    return tuple(value if needed else None for value, needed in zip((of_x, *of_norm), wanted, strict=True))
