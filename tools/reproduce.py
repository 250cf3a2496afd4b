#!/usr/bin/env python
"""Reproduce the published trainings: list, data, run, report.

python tools/reproduce.py list
python tools/reproduce.py data faster_rcnn_resnest50_fpn_1x --data-root datasets
python tools/reproduce.py run faster_rcnn_resnest50_fpn_1x --num-gpus 8
python tools/reproduce.py report
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from reproduction import data, listing, report, run
from resnest_backbones.errors import add_verbose, one_line_errors

# Command -> its module with ``add_arguments`` and ``main``, what it does, an example.
COMMANDS = {
    "list": (
        listing,
        "print every recipe: its published metrics, config, source, estimated GPU-hours, and the data that it needs",
        "list 'mask_rcnn_*'",
    ),
    "data": (data, "check that a data root has what recipes need", "data ade20k --data-root datasets"),
    "run": (
        run,
        "train and evaluate recipes, from where an earlier run of them stopped",
        "run faster_rcnn_resnest50_fpn_1x --num-gpus 8",
    ),
    "report": (report, "compare what runs measured with what was published, in Markdown, JSON and HTML", "report"),
}


def build_argument_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Reproduce the published transfer-learning results of ResNeSt.",
        epilog="example: python tools/reproduce.py run faster_rcnn_resnest50_fpn_1x --num-gpus 8. "
        "RECIPE is a name that `list` prints, a pattern such as 'mask_rcnn_*', or a dataset such as ade20k.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command, (module, text, example) in COMMANDS.items():
        description, epilog = f"{text[0].upper()}{text[1:]}.", f"example: python tools/reproduce.py {example}"
        subparser = commands.add_parser(command, help=text, description=description, epilog=epilog)
        module.add_arguments(subparser)
        add_verbose(subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = build_argument_parser().parse_args(arguments)
    args.typed = shlex.join(["python", "tools/reproduce.py", *arguments])
    try:
        with one_line_errors(f"reproduce.py {args.command}", ImportError, verbose=args.verbose):
            status: int = COMMANDS[args.command][0].main(args)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
