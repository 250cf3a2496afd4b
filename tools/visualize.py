#!/usr/bin/env python
"""Draw what a model finds beside the ground truth, its precision and confusion, and its split attention."""

from __future__ import annotations

from resnest_backbones.cli import print_next
from resnest_backbones.errors import one_line_errors
from visualization.cli import build_argument_parser, check_arguments, visualize


def run(arguments: list[str] | None = None) -> None:
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    check_arguments(parser, args)
    with one_line_errors(parser.prog, ImportError, verbose=args.verbose):
        page = visualize(args)
    print(f"wrote {page}, and its pictures beside it")
    if args.config:
        print_next("export the model", "tools/export.py", args.config, args.checkpoint)
    else:
        print_next("predict on other images", "tools/demo.py", "--model", args.model, "IMAGE_OR_FOLDER")


if __name__ == "__main__":
    run()
