"""Run contenders in turns and take medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from benchmarks.cases import DTYPES, LIMIT, Case, Contender, Result
from benchmarks.detectors import detector_contenders
from benchmarks.trunks import trunk_contenders
from documents.costs import multiply_adds
from resnest_backbones import build

_PROBE = (256, 64)  # channels, and side of the image, of the convolution whose rate is the limit
# Its images, bytes of the tensor that is copied, and rows of the matrices that are multiplied: enough to fill a device.
_LARGE = {"cpu": (1, 1 << 26, 1024), "cuda": (64, 1 << 30, 8192)}
_MIB = 1 << 20
_PROFILED = 12  # operators in a profile


def contenders(case: Case, device: torch.device) -> dict[str, Callable[[], Contender]]:
    """Return name -> builder of the contenders of a case, ours first."""
    return (detector_contenders if case.what.startswith("detector") else trunk_contenders)(case, device)


def measure(
    case: Case, *, rounds: int, device: torch.device, only: Sequence[str] | None = None, profiled: bool = False
) -> Result:
    """Run every contender, or those that match a pattern in ``only``, once per round, after one that does not count."""
    limit = None if case.what.startswith("detector") else convolution_flops(case)
    makers = contenders(case, device)
    chosen = [name for name in makers if any(fnmatchcase(name, pattern) for pattern in only or ["*"])]
    if not chosen:
        raise ValueError(f"--only must name contenders ({'; '.join(makers)}), got {' '.join(only or ())}")
    found = {name: makers[name]() for name in chosen}
    number, copied, rows = _LARGE[device.type]
    probe, probe_flops = _probe(number, DTYPES[case.dtype], device)
    source, target = torch.ones(2, copied // 4, device=device)
    runs = {name: contender.run for name, contender in found.items()}
    matrix = torch.randn(rows, rows, device=device, dtype=DTYPES[case.dtype])
    runs |= {LIMIT: probe, "copy": lambda: target.copy_(source), "matmul": lambda: matrix @ matrix}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with nullcontext() if case.trains else torch.inference_mode():
        for number in tqdm(range(rounds + 1), desc="rounds", leave=False):
            for name, run in runs.items():
                taken = _time(run, device)
                if number:
                    seconds[name].append(taken)
    bandwidth = 2.0 * copied / min(seconds.pop("copy"))
    peak = 2.0 * rows**3 / min(seconds.pop("matmul"))
    rate = probe_flops / min(seconds.pop(LIMIT))  # the best that the machine can do
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    if limit is not None:
        medians[LIMIT] = 1e3 * limit * (3 if case.trains else 1) / rate  # backward: two convolutions for each
    return Result(
        case,
        medians,
        rate / 1e9,
        peak / 1e9,
        bandwidth / 1e9,
        {name: kept_for_backward(c.forward) / _MIB for name, c in found.items() if c.forward is not None},
        {name: _peak(c.run, device) / _MIB for name, c in found.items() if device.type == "cuda"},
        {name: _profile(c.run, device, trains=case.trains) for name, c in found.items() if profiled},
    )


def kept_for_backward(forward: Callable[[], Any]) -> int:
    """Return the bytes of all storages that a forward pass keeps for backward, those of parameters included."""
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # alive, so that no storage takes the address of another

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def _peak(run: Callable[[], Any], device: torch.device) -> float:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def _profile(run: Callable[[], Any], device: torch.device, *, trains: bool) -> str:
    """Return the operators of one run that take longest, as PyTorch's profiler tells them."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with nullcontext() if trains else torch.inference_mode(), profile(activities=activities) as profiler:
        run()
    order = f"self_{device.type}_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=_PROFILED, max_name_column_width=40)


def _probe(number: int, dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], Any], float]:
    channels, side = _PROBE
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device, dtype=dtype)
    conv = conv.to(memory_format=torch.channels_last)
    x = torch.randn(number, channels, side, side, device=device, dtype=dtype).contiguous(
        memory_format=torch.channels_last
    )

    return torch.no_grad()(lambda: conv(x)), 2.0 * number * 9 * channels**2 * side**2


def _time(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def convolution_flops(case: Case) -> float:
    """Return the operations of the trunk's convolutions in a forward pass, two for each multiply-add."""
    with torch.device("meta"):
        net = build(case.network, norm_layer=None).eval()
        image = torch.zeros(1, 3, case.height, case.width)
    return 2.0 * case.batch * multiply_adds(net, image)
