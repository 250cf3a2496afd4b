"""Gradient checkpointing: of a whole block only the input is kept, and the block is computed again in backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Compute a block of which only ``x`` is kept for backward."""
    if torch.compiler.is_compiling():  # the compiler recomputes without side effects, and takes no context_fn
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _scratch_buffers(block)))


@contextmanager
def _scratch_buffers(module: nn.Module) -> Iterator[None]:
    """Let batch norms write into copies while a checkpointed block is recomputed, so that no batch counts twice.

    The recomputation must save as many tensors for backward as the first pass did, so the statistics stay in place.
    """
    buffers = [(m, name, buffer) for m in module.modules() for name, buffer in m.named_buffers(recurse=False)]
    for owner, name, buffer in buffers:
        setattr(owner, name, buffer.clone())
    try:
        yield
    finally:
        for owner, name, buffer in buffers:
            setattr(owner, name, buffer)
