#!/usr/bin/env python
"""Draw what a segmentor sees: label maps over images, with a legend of the classes.

    python tools/infer_seg.py CONFIG CHECKPOINT photo.jpg folder/ --out-dir predictions

writes predictions/drawn/photo.png and predictions/label_maps/photo.png; in the latter, as in ADE20K's annotations,
label n is the n-th class.
"""

from __future__ import annotations

import sys

from resnest_backbones.errors import one_line_errors
from resnest_backbones.mmseg.checkpoint import use_safe_loading
from resnest_backbones.mmseg.engine.infer import build_infer_parser, infer
from resnest_backbones.mmseg.engine.run_setup import RUN_ERRORS


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line and predict; the status is 1 where an image could not be read."""
    parser = build_infer_parser()
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, *RUN_ERRORS, verbose=args.verbose):
        use_safe_loading()
        problems = infer(args)
    if problems:
        sys.exit("\n".join(f"{parser.prog}: error: {problem}" for problem in problems))


if __name__ == "__main__":
    run()
