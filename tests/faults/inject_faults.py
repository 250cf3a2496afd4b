#!/usr/bin/env python
"""Inject faults into real trainings, and print a table of what was injected, how often, and what happened.

PYTHONPATH=.:tools python -m tests.faults.inject_faults             # 20 kills of each training tool: half an hour
PYTHONPATH=.:tools python -m tests.faults.inject_faults --write     # and put the table into docs/faults.md
PYTHONPATH=.:tools python -m tests.faults.inject_faults kill train_net --times 20 --folder killed    # one tool's kills
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported: trainings are forked, and their sums compared

import argparse
import sys
from pathlib import Path


def build_argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog=__doc__.partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/faults.md")
    commands = parser.add_subparsers(dest="command", metavar="{kill}")
    kill = commands.add_parser("kill", help="kill one tool's training at random moments")
    kill.add_argument("tool", choices=("train_net", "train_seg"))
    kill.add_argument("--times", type=int, default=20, help="how often (default: %(default)s)")
    kill.add_argument("--iterations", type=int, default=24, help="length of the training (default: %(default)s)")
    kill.add_argument("--folder", type=Path, required=True, help="for data, checkpoints and output; new")
    kill.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    return parser


def run(arguments: list[str] | None = None) -> int:
    """Inject them; the exit status is 1 where something did not happen as it should."""
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    if args.command is None:
        from tests.faults.fault_table import inject_all

        return inject_all(write=args.write)
    if args.times < 1 or args.iterations < 4:
        parser.error("--times must be 1 or more, and --iterations 4 or more")
    if args.folder.exists():
        parser.error(f"--folder must be a new folder, {args.folder} is there already")
    from tests.faults.kill_trainings import KillError, main

    try:
        outcome = main(args.tool, args.folder, kills=args.times, iterations=args.iterations, seed=args.seed)
    except KillError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    return 1 if outcome["differing"] else 0


if __name__ == "__main__":
    sys.exit(run())
