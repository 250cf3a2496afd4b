#!/usr/bin/env python
"""Measure how long features res2 to res5 take, side by side with the peers that are installed, in one run.

Each round runs every network once, one after the other; medians over the rounds are compared. "Limit" is what the
convolutions alone would take at the rate of one large 3x3 convolution, measured in the same rounds; of a training step,
three times that. Training steps show the memory that they keep for backward, on a GPU also the peak of each.

python tools/benchmark.py --networks resnest50 --sizes 224x224 800x800 --batches 1 8 --output-dir benchmark
python tools/benchmark.py --train --sizes 512 --batches 2
python tools/benchmark.py --detector --sizes 800x1216
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from pathlib import Path

from resnest_backbones.commands.export import parse_size


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--networks", nargs="+", default=["resnest50"], metavar="NAME", help="default: resnest50")
    add("--sizes", nargs="+", type=parse_size, default=[(800, 800)], metavar="HxW", help="default: 800x800")
    add("--batches", nargs="+", type=int, default=[1], metavar="N", help="images per batch (default: 1)")
    add(
        "--dtypes", "--dtype", nargs="+", choices=("float32", "bfloat16", "float16"), default=["float32"],
        help="data types of our network; peers run in float32 and under autocast (default: float32)",
    )  # fmt: skip
    add("--train", action="store_true", help="measure training steps, and the memory they keep for backward")
    add("--detector", action="store_true", help="measure Faster R-CNN with FPN instead of the trunk")
    add("--compile", action="store_true", help="also measure compiled networks (minutes each)")
    add("--profile", action="store_true", help="also print the slowest operators")
    add("--only", nargs="+", metavar="NAME", help="networks to run, as patterns: 'ours*' original (default: all)")
    add("--rounds", type=int, default=11, metavar="N", help="default: %(default)s")
    add("--threads", type=int, metavar="N", help="PyTorch threads (default: PyTorch's own choice)")
    add("--device", default="cpu", help="default: cpu")
    add("--output-dir", type=Path, metavar="DIR", help="write benchmark.md, .json and .png to this folder")
    return parser


def run(arguments: list[str] | None = None) -> None:
    """Measure one case after the other and print each; write a report if one is asked for."""
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    if args.rounds < 1 or min(args.batches) < 1 or (args.threads is not None and args.threads < 1):
        parser.error("--rounds, --batches and --threads must be positive")
    import torch

    from benchmarks.cases import Case
    from benchmarks.measure import measure
    from benchmarks.report import table, write_report
    from machine import describe_machine
    from resnest_backbones.acceleration import resolve_device
    from resnest_backbones.errors import ConfigError

    try:
        device = torch.device(resolve_device(args.device))
    except ConfigError as error:
        parser.error(str(error))
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    what = ("detector " if args.detector else "") + ("training" if args.train else "inference")
    product = itertools.product(args.networks, args.sizes, args.batches, args.dtypes)
    command = shlex.join(["python", "tools/benchmark.py", *(sys.argv[1:] if arguments is None else arguments)])
    about = {**describe_machine(device), "rounds": args.rounds, "command": command}
    results = []
    for network, size, batch, dtype in product:
        case = Case(network, *size, batch, dtype, what, args.compile)
        try:
            results.append(measure(case, rounds=args.rounds, device=device, only=args.only, profiled=args.profile))
        except ValueError as error:
            parser.error(str(error))
        print(table(results[-1]), flush=True)
        if args.output_dir is not None:  # after each case, so that an interruption loses none
            write_report(args.output_dir, results, about)
    print(json.dumps(about))
    if args.output_dir is not None:
        print(f"written: {args.output_dir}")


if __name__ == "__main__":
    run()
