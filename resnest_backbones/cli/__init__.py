"""The command ``resnest-backbones``, also ``python -m resnest_backbones``: list, info, download, convert, doctor."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import resnest_backbones
from resnest_backbones.checkpoint import TARGETS
from resnest_backbones.cli import diagnosis, files, networks
from resnest_backbones.errors import CheckpointError, WeightsError, add_verbose, one_line_errors

__all__ = ["build_argument_parser", "main"]

PROGRAM = "resnest-backbones"
EXAMPLES = {
    "list": f"{PROGRAM} list --configs",
    "info": f"{PROGRAM} info resnest50",
    "download": f"{PROGRAM} download resnest50",
    "convert": f"{PROGRAM} convert resnest://resnest50 resnest50_d2.pth --to detectron2",
    "doctor": f"{PROGRAM} doctor > report.txt",
}


def build_argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="ResNeSt backbones: which there are, what they cost and give, their weights, this installation.",
        epilog=f"example: {EXAMPLES['info']}",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {resnest_backbones.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        described = text[0].upper() + text[1:] + "."
        command = commands.add_parser(name, help=text, description=described, epilog=f"example: {EXAMPLES[name]}")
        command.add_argument("--json", action="store_true", help="for scripts")
        add_verbose(command)
        return command

    listing = add("list", "print the networks, or the configs of both frameworks, with published figures")
    listing.add_argument("--configs", action="store_true", help="the configs instead of the networks")
    info = add("info", "print what is known of a network or a config: cost, weights, configs, published figures")
    info.add_argument("name", metavar="NAME", help="as `list` and `list --configs` print it")
    download = add("download", "fetch the published ImageNet weights of a network, verified, and print where they are")
    download.add_argument("name", metavar="NAME", help="a network")
    download.add_argument("--cache-dir", metavar="DIR", help="default: PyTorch Hub's cache")
    convert = add("convert", "write a ResNeSt checkpoint of any published layout in another")
    convert.add_argument("source", metavar="IN", help="a checkpoint file, or resnest://NAME")
    convert.add_argument("target_file", metavar="OUT", help="the file to write, .pth; it must not be there yet")
    convert.add_argument("--to", required=True, choices=TARGETS, help="the layout to write")
    add("doctor", "say what is installed, what is missing, and what clashes; the status is 1 where something does")
    return parser


_COMMANDS = {
    "list": networks.print_list,
    "info": networks.print_info,
    "download": files.download,
    "convert": files.convert,
    "doctor": diagnosis.print_report,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends the program where its status is not 0."""
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    with one_line_errors(PROGRAM, CheckpointError, WeightsError, ValueError, OSError, verbose=args.verbose):
        status = _COMMANDS[args.command](args)
    if status:
        sys.exit(status)
