#!/usr/bin/env python
"""Convert a ResNeSt checkpoint from any published layout to another, as ``resnest-backbones convert`` does."""

from __future__ import annotations

import argparse

from resnest_backbones.cli import add_convert_arguments, convert
from resnest_backbones.errors import add_verbose, one_line_errors


def run(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: python tools/convert_checkpoint.py resnest50-528c19ca.pth resnest50_d2.pth --to detectron2",
    )
    add_convert_arguments(parser)
    add_verbose(parser)
    parser.set_defaults(json=False)
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, ValueError, verbose=args.verbose):
        convert(args)


if __name__ == "__main__":
    run()
