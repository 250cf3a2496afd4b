#!/usr/bin/env python
"""Measure what compiling a trunk costs and gains on a stream of images of different sizes, as a Markdown table.

python tools/benchmark_compilation.py --ways static dynamic buckets --variant resnest50

Ways: `static` compiles each size separately, up to PyTorch's limit of 8, and runs further ones uncompiled; `dynamic` is
what the plugins do; `buckets` is static, with sizes padded to multiples of --bucket pixels. Each way runs in a process
of its own, in turns with an uncompiled trunk with the same weights, image by image. Times are CPU seconds, including
the compilers that PyTorch starts, so that other programs on the machine matter less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

WAYS = {"static": {"dynamic": False}, "dynamic": {}, "buckets": {"dynamic": False}}
# Heights and widths, in the order in which they come; multiples of 8 and others, one of them twice.
SIZES = (
    (160, 224), (224, 160), (128, 256), (203, 155), (256, 256), (192, 195),
    (131, 259), (160, 224), (250, 192), (144, 176), (200, 200), (224, 139),
)  # fmt: skip


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def step(net: nn.Module, images: Tensor) -> float:
    """Return the CPU seconds of the features, and of their gradients in training."""
    import torch

    start = cpu_seconds()
    with torch.set_grad_enabled(net.training):
        features = net(images)
    if net.training:
        sum(value.square().mean() for value in features.values()).backward()
    return cpu_seconds() - start


def measure(way: str, args: argparse.Namespace) -> None:
    """Print the row of one way."""
    import torch
    from torch._dynamo.utils import counters
    from torch.nn.functional import pad

    from resnest_backbones import build
    from resnest_backbones.acceleration import accelerate

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    plain = build(args.variant).train(args.train)
    fast = build(args.variant).train(args.train)
    fast.load_state_dict(plain.state_dict())
    for net, compiled in ((plain, False), (fast, {"backend": args.backend, **WAYS[way]})):
        accelerate(net, channels_last=args.channels_last, compile=compiled)
    stream = [torch.randn(args.batch, 3, *size) for size in SIZES[: args.images]]
    bucket = args.bucket if way == "buckets" else 1
    fed = [pad(images, (0, -images.shape[3] % bucket, 0, -images.shape[2] % bucket)) for images in stream]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = sum(step(fast, images) for images in fed)
    graphs = counters["stats"]["unique_graphs"]
    again: dict[str, list[float]] = {"plain": [], "fast": []}
    for _ in range(args.rounds):
        for images, images_fed in zip(stream, fed, strict=True):
            again["plain"].append(step(plain, images))
            again["fast"].append(step(fast, images_fed))
    assert counters["stats"]["unique_graphs"] == graphs
    plain_s, fast_s = (
        sum(statistics.median(times[i :: len(stream)]) for i in range(len(stream))) for times in again.values()
    )
    print(f"| {way} | {graphs} | {first:.0f} | {fast_s:.2f} | {plain_s:.2f} | {fast_s / plain_s:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="example: python tools/benchmark_compilation.py --ways dynamic --variant resnest14",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    add("--variant", default="resnest50", help="the network")
    add("--train", action="store_true", help="measure forward and backward")
    add("--channels-last", action="store_true", help="use channels-last memory, compiled and uncompiled")
    add("--backend", default="inductor", help="backend of torch.compile")
    add("--images", type=int, default=len(SIZES), help="number of images")
    add("--batch", type=int, default=2)
    add("--bucket", type=int, default=64)
    add("--rounds", type=int, default=5, help="passes after the first, for the median")
    add("--threads", type=int, default=1)
    args = parser.parse_args()
    from resnest_backbones import get_variant

    try:
        get_variant(args.variant)
    except ValueError as error:
        parser.error(str(error))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # workers would outlive what is measured
    print("| sizes | graphs | first pass, CPU s | later passes | uncompiled | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for way in args.ways:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(way, args))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
