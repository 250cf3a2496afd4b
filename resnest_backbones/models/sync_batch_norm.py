"""Synchronised batch norm between processes on CPUs, which ``nn.SyncBatchNorm`` refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that exchanges statistics by collectives that any backend has; on GPUs too, but slower there.

    Statistics and gradients are those of one process with the images of all, also where images of one process are more
    or larger than another's; Detectron2's ``NaiveSyncBatchNorm`` counts images without their size, and keeps the biased
    variance. Two passes, mean first, since the mean of squares minus the square of the mean cancels digits. It is not
    an ``nn.SyncBatchNorm``, since ``DistributedDataParallel`` refuses those on CPUs.

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
        """Normalise (N, C, H, W); all processes must call it.

        Raises:
            ValueError: there is one value per channel in all processes together.
        """
        synchronised = distributed.is_available() and distributed.is_initialized()
        if not self.training or not synchronised or distributed.get_world_size(self._group()) == 1:
            return super().forward(input)
        dims = [dim for dim in range(input.ndim) if dim != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = wide.new_full((1,), wide.numel() / wide.shape[1])
        sums = all_reduce(torch.cat([wide.sum(dims), count]), group=self._group())
        total = sums[-1].item()
        if total == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
        mean = sums[:-1] / total
        centred = wide - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims), group=self._group()) / total
        self._follow(mean.detach(), variance.detach() * (total / (total - 1)))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    def _group(self) -> distributed.ProcessGroup:
        world: Any = distributed.group.WORLD
        return world if self.process_group is None else self.process_group

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics as ``nn.BatchNorm2d`` does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def synchronise_on_cpu(model: nn.Module) -> nn.Module:
    """Let each ``nn.SyncBatchNorm`` in a model exchange statistics between CPUs, in place; parameters stay the same."""
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            setattr(module, "__class__", CpuSyncBatchNorm)  # noqa: B010  (the same state, another forward)
    return model
