"""Mixed precision on a machine without a GPU, where MMEngine's ``AmpOptimWrapper`` refuses to be built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """An ``OptimWrapper`` whose forward passes compute in float32 and bfloat16 on the CPU.

    bfloat16 has float32's range, so that losses need no scaling.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute in mixed precision inside, as ``AmpOptimWrapper.optim_context`` does."""
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield
