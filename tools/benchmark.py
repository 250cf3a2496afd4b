#!/usr/bin/env python
"""Measure how long features res2 to res5 take, side by side with the peers that are installed, in one run.

Each round runs every network once, one after the other; medians over the rounds are compared. "Limit" is what the
convolutions alone would take at the rate of one large 3x3 convolution, measured in the same rounds.

python tools/benchmark.py --networks resnest50 --sizes 224x224 800x800 --batches 1 8 --output-dir benchmark
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnest_backbones import build
from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.costs import multiply_adds
from resnest_backbones.inference import optimize_for_inference
from resnest_backbones.machine import installed_versions, processor_name

Features = Callable[[Tensor], Any]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OURS = "optimised"
LIMIT = "limit"
_TIMM = {
    "resnest50": "resnest50d",
    "resnest101": "resnest101e",
    "resnest200": "resnest200e",
    "resnest269": "resnest269e",
}
_MMSEG_DEPTHS = {"resnest50": 50, "resnest101": 101, "resnest200": 200}
_PROBE = (256, 64)  # channels, and side of the image, of the convolution whose rate is the limit


@dataclass(frozen=True)
class Case:
    """What is measured: a network, an image size in pixels (height, width), a batch, and a number type."""

    network: str
    height: int
    width: int
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.network}, {self.batch} x 3 x {self.height} x {self.width}, {self.dtype}"


@dataclass(frozen=True)
class Result:
    """Medians of a case, in milliseconds per batch, by the names of the contenders; and GFLOP/s of the probe."""

    case: Case
    milliseconds: Mapping[str, float]
    gflops_per_second: float


# Contenders


def contenders(case: Case, device: torch.device) -> dict[str, Features]:
    """Name -> what computes the features; peers that are not installed are left out."""
    found: dict[str, Features] = {}
    net = build(case.network).eval().to(device)
    dtype = DTYPES[case.dtype]
    found[OURS] = optimize_for_inference(net, dtype=None if dtype == torch.float32 else dtype)
    found["not optimised"] = net
    for name, make in _PEERS.items():
        peer, other = make(case.network), make(case.network)
        if peer is not None and other is not None:
            found[name] = _ready(peer, device)
            found[f"{name}, channels_last"] = _channels_last(_ready(other, device))
    return found


def _ready(net: nn.Module, device: torch.device) -> nn.Module:
    net.eval()  # MMSegmentation's returns None
    return net.to(device)


def _channels_last(net: nn.Module) -> Features:
    net = net.to(memory_format=torch.channels_last)
    return lambda x: net(x.contiguous(memory_format=torch.channels_last))


class _Stages(nn.Module):
    """The features of a classification network of the authors'."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


def _original(network: str) -> nn.Module | None:
    if find_spec("resnest") is None:
        return None
    import resnest.torch

    return _Stages(getattr(resnest.torch, network)())


def _timm(network: str) -> nn.Module | None:
    if find_spec("timm") is None or network not in _TIMM:
        return None
    import timm

    model: nn.Module = timm.create_model(_TIMM[network], features_only=True, out_indices=(1, 2, 3, 4))
    return model


def _mmseg(network: str) -> nn.Module | None:
    if find_spec("mmseg") is None or network not in _MMSEG_DEPTHS:
        return None
    from mmseg.models.backbones import ResNeSt

    wide = network != "resnest50"
    model: nn.Module = ResNeSt(
        depth=_MMSEG_DEPTHS[network],
        stem_channels=128 if wide else 64,
        radix=2,
        reduction_factor=4,
        avg_down_stride=True,
    )
    return model


def _resnet_d(network: str) -> nn.Module | None:
    """The network that a ResNeSt-50 has to be compared with: no split attention, the same stem and shortcuts."""
    if find_spec("timm") is None or network != "resnest50":
        return None
    import timm

    model: nn.Module = timm.create_model("resnet50d", features_only=True, out_indices=(1, 2, 3, 4))
    return model


_PEERS: dict[str, Callable[[str], nn.Module | None]] = {
    "original": _original,
    "timm": _timm,
    "mmseg": _mmseg,
    "ResNet-50-D": _resnet_d,
}


# Measuring


def measure(case: Case, *, rounds: int, device: torch.device) -> Result:
    """Run every contender once per round, after one round that does not count."""
    x = torch.randn(case.batch, 3, case.height, case.width, device=device)
    runs = {name: _bind(features, x) for name, features in contenders(case, device).items()}
    probe, probe_flops = _probe(DTYPES[case.dtype], device)
    seconds: dict[str, list[float]] = {name: [] for name in (*runs, LIMIT)}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, run in (*runs.items(), (LIMIT, probe)):
                taken = _time(run, device)
                if number:
                    seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rate = probe_flops / min(seconds[LIMIT])  # the limit is the best that the machine can do
    medians[LIMIT] = convolution_flops(case) / rate
    return Result(case, {name: 1e3 * value for name, value in medians.items()}, rate / 1e9)


def _bind(features: Features, x: Tensor) -> Callable[[], Any]:
    return lambda: features(x)


def _probe(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], Any], float]:
    channels, side = _PROBE
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device, dtype=dtype)
    conv = conv.to(memory_format=torch.channels_last)
    x = torch.randn(1, channels, side, side, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return lambda: conv(x), 2.0 * 9 * channels**2 * side**2


def _time(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def convolution_flops(case: Case) -> float:
    """Operations of the convolutions alone: two for each multiply-add."""
    with torch.device("meta"):
        net = build(case.network, norm_layer=None).eval()
        image = torch.zeros(1, 3, case.height, case.width)
    return 2.0 * case.batch * multiply_adds(net, image)


# Showing


def table(results: Sequence[Result]) -> str:
    """Milliseconds, and how many times the optimised network's they are, as Markdown."""
    lines = []
    for result in results:
        ours = result.milliseconds[OURS]
        lines += [f"{result.case} (limit: {result.gflops_per_second:.0f} GFLOP/s)", ""]
        lines += ["| network | ms | times ours |", "| --- | ---: | ---: |"]
        for name, value in result.milliseconds.items():
            lines.append(f"| {name} | {value:.1f} | {value / ours:.2f} |")
        lines.append("")
    return "\n".join(lines)


def draw(results: Sequence[Result], file: Path) -> None:
    """A bar chart, one panel for each case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 + 2.8 * len(results)), layout="constrained")
    for axes, result in zip(figure.subplots(len(results), squeeze=False)[:, 0], results, strict=True):
        names = list(result.milliseconds)
        colours = ["tab:blue" if name == OURS else "tab:gray" if name == LIMIT else "tab:orange" for name in names]
        bars = axes.barh(names, [result.milliseconds[name] for name in names], color=colours)
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.invert_yaxis()
        axes.set_title(str(result.case), fontsize=10)
        axes.set_xlabel("milliseconds per batch, median")
        axes.spines[["top", "right"]].set_visible(False)
    write_atomically(file, lambda stream: figure.savefig(stream, format="png", dpi=120))


def circumstances(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What the figures were taken with."""
    packages = ("torch", "torchvision", "timm", "resnest", "onedl-mmsegmentation", "mmsegmentation")
    on_cpu = f"{processor_name()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu,
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "rounds": args.rounds,
        "versions": installed_versions(packages),
    }


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``800x1333``, or of ``224``, a square."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 32 for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH of 32 pixels and more, got {text!r}")
    return int(sides[0]), int(sides[-1])


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnest50"], metavar="NAME", help="default: resnest50")
    parser.add_argument(
        "--sizes", nargs="+", type=parse_size, default=[(800, 800)], metavar="HxW", help="default: 800x800"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1], metavar="N", help="images at once (default: 1)")
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=["float32"], help="default: float32")
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of PyTorch (default: its own choice)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: cpu")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="write benchmark.md, .json and .png there")
    return parser


def run(arguments: list[str] | None = None) -> None:
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    if args.rounds < 1 or min(args.batches) < 1 or (args.threads is not None and args.threads < 1):
        parser.error("--rounds, --batches and --threads must be positive")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    cases = [
        Case(network, *size, batch, dtype)
        for network in args.networks
        for size in args.sizes
        for batch in args.batches
        for dtype in args.dtypes
    ]
    results = []
    for case in cases:
        try:
            results.append(measure(case, rounds=args.rounds, device=args.device))
        except ValueError as error:
            sys.exit(f"{parser.prog}: error: {error}")
        print(table(results[-1:]), flush=True)
    about = circumstances(args, args.device)
    print(json.dumps(about))
    if args.output_dir is not None:
        _write(args.output_dir, results, about)


def _write(folder: Path, results: Sequence[Result], about: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**about, "results": [asdict(result) for result in results]}, indent=1) + "\n"
    facts = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    head = f"{about['machine']}, {about['threads']} threads, {about['date']}, {about['rounds']} rounds; {facts}.\n\n"
    text = head + table(results)
    write_atomically(folder / "benchmark.json", lambda stream: stream.write(content.encode()))
    write_atomically(folder / "benchmark.md", lambda stream: stream.write(text.encode()))
    draw(results, folder / "benchmark.png")
    print(f"written: {folder}")


if __name__ == "__main__":
    run()
