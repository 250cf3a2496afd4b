#!/usr/bin/env python
"""Reproduce the published trainings: list, data, run, report.

python tools/reproduce.py list
python tools/reproduce.py data faster_rcnn_resnest50_fpn_1x --data-root datasets
python tools/reproduce.py run faster_rcnn_resnest50_fpn_1x --num-gpus 8
python tools/reproduce.py report
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence

from resnest_backbones.errors import add_verbose, one_line_errors

_RUN = "run faster_rcnn_resnest50_fpn_1x --num-gpus 8"
# Command -> its module in ``reproduction``, with ``add_arguments`` and ``main``, an example, what it does.
COMMANDS = {
    "list": (
        "listing", "list 'mask_rcnn_*'",
        "print every recipe: its published metrics, config, source, estimated GPU-hours, and the data that it needs",
    ),
    "data": ("data", "data ade20k --data-root datasets", "check that a data root has what recipes need"),
    "run": ("run", _RUN, "train and evaluate recipes, from where an earlier run of them stopped"),
    "report": ("report", "report", "compare what runs measured with what was published, in Markdown, JSON and HTML"),
}  # fmt: skip


def build_argument_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Return the command line, without the options of other commands than the chosen one where it is given.

    The modules of those are not imported: `report` needs packages that the others do not.
    """
    parser = argparse.ArgumentParser(
        description="Reproduce the published transfer-learning results of ResNeSt.",
        epilog=f"example: python tools/reproduce.py {_RUN}. "
        "RECIPE is a name that `list` prints, a pattern such as 'mask_rcnn_*', or a dataset such as ade20k.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command, (module, example, text) in COMMANDS.items():
        description, epilog = f"{text[0].upper()}{text[1:]}.", f"example: python tools/reproduce.py {example}"
        subparser = commands.add_parser(command, help=text, description=description, epilog=epilog)
        if chosen in (None, command):
            importlib.import_module(f"reproduction.{module}").add_arguments(subparser)
        add_verbose(subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        args = build_argument_parser(chosen=arguments[0] if arguments else "").parse_args(arguments)
    except ModuleNotFoundError as error:
        sys.exit(f"reproduce.py: error: {error}: pip install '.[demo]'")
    args.typed = shlex.join(["python", "tools/reproduce.py", *arguments])
    with one_line_errors(f"reproduce.py {args.command}", verbose=args.verbose):
        module = importlib.import_module(f"reproduction.{COMMANDS[args.command][0]}")
        status: int = module.main(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
