#!/usr/bin/env python
"""Rename the tensors of a ResNeSt checkpoint from whatever published layout it is in to another."""

from __future__ import annotations

import argparse

from resnest_backbones.checkpoint import TARGETS, convert_file
from resnest_backbones.errors import CheckpointError, WeightsError, add_verbose, one_line_errors


def run(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: python tools/convert_checkpoint.py resnest50-528c19ca.pth resnest50_d2.pth --to detectron2",
    )
    parser.add_argument("source", metavar="IN", help="a checkpoint file, or resnest://NAME")
    parser.add_argument("target_file", metavar="OUT", help="the file to write, .pth; it must not be there yet")
    parser.add_argument("--to", required=True, choices=TARGETS, help="the layout to write")
    add_verbose(parser)
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, CheckpointError, WeightsError, ValueError, verbose=args.verbose):
        count = convert_file(args.source, args.target_file, args.to)
    print(f"{args.target_file}: {count} tensors in the layout {args.to}")


if __name__ == "__main__":
    run()
