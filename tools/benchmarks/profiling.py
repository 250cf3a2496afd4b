"""The time of a run by kinds of operators, from PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The first kind with a word that is in an operator's name.
_KINDS = {
    "convolutions": ("conv", "thnn", "cudnn"),
    "batch norm": ("batch_norm",),
    "ReLU": ("relu", "clamp_min", "threshold"),
    "pooling": ("pool",),
    "copies": ("copy", "cat", "clone", "fill", "zero"),
}
KINDS = (*_KINDS, "sums and products")


def profile_kinds(run: Callable[[], Any], device: torch.device, *, trains: bool) -> dict[str, float]:
    """Return milliseconds of one run by ``KINDS``: on a CPU the operators' own time, on a GPU that of their kernels."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with nullcontext() if trains else torch.inference_mode():
        run()
        with profile(activities=activities) as profiler:
            run()
            if on_gpu:
                torch.cuda.synchronize(device)
    found = dict.fromkeys(KINDS, 0.0)
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        found[kind_of(event.key)] += microseconds / 1e3
    return found


def kind_of(operator: str) -> str:
    """Return the kind of an operator by its name.

    >>> kind_of("mkldnn::_convolution_pointwise"), kind_of("aten::native_batch_norm_backward"), kind_of("aten::lerp")
    ('convolutions', 'batch norm', 'sums and products')
    """
    name = operator.lower()
    return next((kind for kind, words in _KINDS.items() if any(word in name for word in words)), KINDS[-1])
