#!/usr/bin/env python
"""Look at images, folders, films or a camera with a trained or exported model: drawings, label maps and json.

python tools/demo.py --model exported/model.onnx photos/ film.mp4 --output-dir predictions
"""

from __future__ import annotations

import sys

from resnest_backbones.errors import CheckpointError, DatasetError, ExportError, one_line_errors
from resnest_backbones.predict.cli import build_demo_parser, check_arguments, run_demo


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line and predict; the status is 1 where a file could not be read."""
    parser = build_demo_parser()
    args = parser.parse_args(arguments)
    try:
        check_arguments(args)
    except ValueError as error:
        parser.error(str(error))
    ours = (CheckpointError, ExportError, DatasetError, ImportError)
    with one_line_errors(parser.prog, *ours, verbose=args.verbose):
        problems = run_demo(args)
    if problems:
        sys.exit("\n".join(f"{parser.prog}: error: {problem}" for problem in problems))


if __name__ == "__main__":
    run()
