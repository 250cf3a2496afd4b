"""The command line of ``tools/benchmark.py``."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from pathlib import Path

import torch

from benchmarks.cases import DTYPES, Case
from benchmarks.measure import measure
from benchmarks.report import table, write_report
from machine import describe_machine


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``800x1333``, or of ``224``, a square."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 32 for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH of 32 pixels and more, got {text!r}")
    return int(sides[0]), int(sides[-1])


def build_argument_parser(description: str | None) -> argparse.ArgumentParser:
    """The options, for readers of ``--help``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnest50"], metavar="NAME", help="default: resnest50")
    parser.add_argument(
        "--sizes", nargs="+", type=parse_size, default=[(800, 800)], metavar="HxW", help="default: 800x800"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1], metavar="N", help="images at once (default: 1)")
    parser.add_argument(
        "--dtypes",
        "--dtype",
        nargs="+",
        choices=tuple(DTYPES),
        default=["float32"],
        help="of our trunk; peers run in float32, and under autocast besides (default: float32)",
    )
    parser.add_argument(
        "--train", action="store_true", help="training steps, and what they keep, in place of inference"
    )
    parser.add_argument("--detector", action="store_true", help="Faster R-CNN with FPN, in place of the trunk alone")
    parser.add_argument("--compile", action="store_true", help="compiled contenders too, which takes minutes for each")
    parser.add_argument("--profile", action="store_true", help="also where the time goes, by kinds of operators")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="contenders to run, as patterns: 'ours*' original (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of PyTorch (default: its own choice)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: cpu")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="write benchmark.md, .json and .png there")
    return parser


def main(arguments: list[str] | None = None, description: str | None = None) -> None:
    """Measure case after case, printing each; write a report where one is asked for."""
    parser = build_argument_parser(description)
    args = parser.parse_args(arguments)
    if args.rounds < 1 or min(args.batches) < 1 or (args.threads is not None and args.threads < 1):
        parser.error("--rounds, --batches and --threads must be positive")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    what = ("detector " if args.detector else "") + ("training" if args.train else "inference")
    cases = [
        Case(network, height, width, batch, dtype, what, args.compile)
        for network, (height, width), batch, dtype in itertools.product(
            args.networks, args.sizes, args.batches, args.dtypes
        )
    ]
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "tools/benchmark.py", *words])
    about = {**describe_machine(args.device), "rounds": args.rounds, "command": command}
    results = []
    for case in cases:
        try:
            results.append(measure(case, rounds=args.rounds, device=args.device, only=args.only, profiled=args.profile))
        except ValueError as error:
            sys.exit(f"{parser.prog}: error: {error}")
        print(table(results[-1:]), flush=True)
        if args.output_dir is not None:  # after each case, so that an interruption loses none
            write_report(args.output_dir, results, about)
    print(json.dumps(about))
    if args.output_dir is not None:
        print(f"written: {args.output_dir}")
