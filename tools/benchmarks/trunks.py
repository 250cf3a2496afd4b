"""Contenders that compute the features res2 to res5, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import DTYPES, Case, Contender
from benchmarks.peers import PEERS
from resnest_backbones.acceleration.inference import optimize_for_inference
from resnest_backbones.models.resnest import Bottleneck, DeepStem, build

OURS, OURS_TRAINING, KEEPING = "ours, optimised", "ours", "ours, keeping all"
_FORMATS = {"": torch.contiguous_format, ", channels_last": torch.channels_last}


def trunk_contenders(case: Case, device: torch.device) -> dict[str, Contender]:
    """Name -> contender; ours first. Peers that are not installed are left out."""
    images = torch.randn(case.batch, 3, case.height, case.width, device=device)
    return (_training if case.trains else _inference)(case, images)


def _inference(case: Case, images: Tensor) -> dict[str, Contender]:
    dtype = None if case.dtype == "float32" else DTYPES[case.dtype]
    net = build(case.network).eval().to(images.device)
    found = {OURS: Contender(_bind(optimize_for_inference(net, dtype=dtype), images))}
    if case.compiled:
        found["ours, compiled"] = Contender(_bind(optimize_for_inference(net, dtype=dtype, compile=True), images))
    found["ours, not optimised"] = Contender(_bind(net, images))
    for name, suffix, memory_format, make in _peers(case):
        peer = _on(make(case.network), images.device, memory_format).eval()
        found[name + suffix] = Contender(_bind(peer, images, memory_format))
        if dtype is not None:
            found[f"{name}{suffix}, autocast"] = Contender(_bind(peer, images, memory_format, dtype))
        if case.compiled:
            peer = _on(make(case.network), images.device, memory_format).eval()
            peer.compile()
            found[f"{name}{suffix}, compiled"] = Contender(_bind(peer, images, memory_format, dtype))
    return found


def _training(case: Case, images: Tensor) -> dict[str, Contender]:
    dtype = None if case.dtype == "float32" else DTYPES[case.dtype]
    makers: list[tuple[str, Callable[[str], Any]]] = [(OURS_TRAINING, build), (KEEPING, _keeping)]
    found = {}
    for name, make in makers + [(name, PEERS[name]) for name in PEERS if PEERS[name](case.network) is not None]:
        for suffix, memory_format in _FORMATS.items():
            net = _on(make(case.network), images.device, memory_format).train()
            forward = _bind(net, images, memory_format, dtype)
            found[name + suffix] = Contender(_step(forward, net), forward)
            if case.compiled and name != KEEPING:
                net = _on(make(case.network), images.device, memory_format).train()
                net.compile()
                found[f"{name}{suffix}, compiled"] = Contender(_step(_bind(net, images, memory_format, dtype), net))
    return found


def _keeping(network: str) -> nn.Module:
    net = build(network)
    for module in net.modules():
        if isinstance(module, (Bottleneck, DeepStem)):
            module.recompute = False
    return net


def _peers(case: Case) -> list[tuple[str, str, torch.memory_format, Callable[[str], Any]]]:
    names = [name for name in PEERS if PEERS[name](case.network) is not None]
    return [(name, suffix, kind, PEERS[name]) for name in names for suffix, kind in _FORMATS.items()]


def _on(net: Any, device: torch.device, memory_format: torch.memory_format) -> Any:
    net.to(device, memory_format=memory_format)
    # MMSegmentation's eval() and train() return None.
    net.eval, net.train = _returning(net, net.eval), _returning(net, net.train)
    return net


def _returning(net: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        method(*args)
        return net

    return call


def _bind(
    net: nn.Module,
    images: Tensor,
    memory_format: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype | None = None,
) -> Callable[[], Any]:
    """The features of the images, which come as they do from a data loader."""

    def run() -> Any:
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            return net(images.contiguous(memory_format=memory_format))

    return run


def _step(forward: Callable[[], Any], net: nn.Module) -> Callable[[], None]:
    def run() -> None:
        features = forward()
        features = features.values() if isinstance(features, dict) else features
        torch.stack([feature.float().mean() for feature in features]).sum().backward()
        net.zero_grad()

    return run
