"""Contenders that compute the features res2 to res5, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import DTYPES, Case, Contender
from benchmarks.engines import engine_contenders
from benchmarks.peers import peers
from resnest_backbones import build
from resnest_backbones.acceleration.inference import optimize_for_inference

OURS, OURS_TRAINING, KEEPING = "ours, optimised", "ours", "ours, keeping all"
_FORMATS = {"": torch.contiguous_format, ", channels_last": torch.channels_last}


def trunk_contenders(case: Case, device: torch.device) -> dict[str, Callable[[], Contender]]:
    """Return name -> builder of the contenders, ours first; peers that are not installed are left out."""
    images = torch.randn(case.batch, 3, case.height, case.width, device=device)
    dtype = None if case.dtype == "float32" else DTYPES[case.dtype]
    return dict((_training if case.trains else _inference)(case, images, dtype))


def _inference(case: Case, images: Tensor, dtype: torch.dtype | None) -> Iterator[tuple[str, Callable[[], Contender]]]:
    yield OURS, partial(_optimized, case.network, images, dtype)
    if case.compiled:
        yield "ours, compiled", partial(_optimized, case.network, images, dtype, compile=True)
    yield "ours, not optimised", partial(_contender, partial(build, case.network), images)
    if dtype is None:
        yield from engine_contenders(case.network, images)
    for name, make in peers(case.network).items():
        for suffix, memory_format in _FORMATS.items():
            peer = partial(_contender, make, images, memory_format)
            yield name + suffix, peer
            if dtype is not None:
                yield f"{name}{suffix}, autocast", partial(peer, dtype=dtype)
            if case.compiled:
                yield f"{name}{suffix}, compiled", partial(peer, dtype=dtype, compiled=True)


def _training(case: Case, images: Tensor, dtype: torch.dtype | None) -> Iterator[tuple[str, Callable[[], Contender]]]:
    ours = {OURS_TRAINING: partial(build, case.network), KEEPING: partial(build, case.network, recompute=False)}
    for name, make in {**ours, **peers(case.network)}.items():
        for suffix, memory_format in _FORMATS.items():
            contender = partial(_contender, make, images, memory_format, dtype=dtype, trains=True)
            yield name + suffix, contender
            if case.compiled and name != KEEPING:
                yield f"{name}{suffix}, compiled", partial(contender, compiled=True)


def _optimized(network: str, images: Tensor, dtype: torch.dtype | None, *, compile: bool = False) -> Contender:
    net = build(network).eval().to(images.device)
    return Contender(partial(_features, optimize_for_inference(net, dtype=dtype, compile=compile), images))


def _contender(
    make: Callable[[], nn.Module],
    images: Tensor,
    memory_format: torch.memory_format = torch.contiguous_format,
    *,
    dtype: torch.dtype | None = None,
    compiled: bool = False,
    trains: bool = False,
) -> Contender:
    net = make().to(images.device, memory_format=memory_format)
    net.train(trains)  # which returns nothing in MMSegmentation
    if compiled:
        net.compile()
    forward = partial(_features, net, images, memory_format, dtype)
    # What a compiled network keeps for backward cannot be seen.
    return Contender(partial(_step, forward, net), None if compiled else forward) if trains else Contender(forward)


def _features(
    net: nn.Module,
    images: Tensor,
    memory_format: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype | None = None,
) -> Any:
    """Compute the features of images that come as they do from a data loader."""
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
        return net(images.contiguous(memory_format=memory_format))


def _step(forward: Callable[[], Any], net: nn.Module) -> None:
    features = forward()
    features = features.values() if isinstance(features, dict) else features
    torch.stack([feature.float().mean() for feature in features]).sum().backward()
    net.zero_grad()
