"""The command line of ``tools/reproduce.py``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

# Command -> what it does; each has a module here of the same name with ``add_arguments(parser)`` and
# ``main(args) -> int``, the exit status.
COMMANDS = {
    "list": "print every row: its published figures, config, source, estimated GPU-hours, and the data that it needs",
    "data": "check that a data root has what rows need",
    "run": "train and evaluate rows, going on where an earlier run of them stopped",
    "report": "compare what runs left behind with what was published, as Markdown, JSON and an HTML page",
    "smoke": "run rows end to end for a few iterations on a small data set made here, on a CPU",
}
EXAMPLES = {
    "list": "python tools/reproduce.py list 'mask_rcnn_*'",
    "data": "python tools/reproduce.py data ade20k --data-root datasets",
    "run": "python tools/reproduce.py run faster_rcnn_resnest50_fpn_1x --num-gpus 8",
    "report": "python tools/reproduce.py report",
    "smoke": "python tools/reproduce.py smoke faster_rcnn_resnest50_fpn_1x",
}
_MODULES = {command: f"reproduction.{'listing' if command == 'list' else command}" for command in COMMANDS}


def build_argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Reproduce the rows of the published transfer-learning tables of ResNeSt.",
        epilog="example: python tools/reproduce.py run faster_rcnn_resnest50_fpn_1x --num-gpus 8. "
        "ROW is a name that `list` prints, a pattern such as 'mask_rcnn_*', or a data set such as ade20k.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command, text in COMMANDS.items():
        module = importlib.import_module(_MODULES[command])
        description, epilog = f"{text[0].upper()}{text[1:]}.", f"example: {EXAMPLES[command]}"
        module.add_arguments(commands.add_parser(command, help=text, description=description, epilog=epilog))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    args = build_argument_parser().parse_args(arguments)
    try:
        status: int = importlib.import_module(_MODULES[args.command]).main(args)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return status
