#!/usr/bin/env python
"""Test a segmentor: MMSegmentation's own command line, with a ResNeSt, a data set of your own, on any machine.

python tools/test_seg.py CONFIG CHECKPOINT
python tools/test_seg.py CONFIG CHECKPOINT --tta --show-dir drawn --out label_maps
torchrun --nproc-per-node 4 tools/test_seg.py CONFIG CHECKPOINT --launcher pytorch
"""

from __future__ import annotations

from resnest_backbones.errors import one_line_errors
from resnest_backbones.mmseg.checkpoint import use_safe_loading
from resnest_backbones.mmseg.engine.run_setup import RUN_ERRORS
from resnest_backbones.mmseg.engine.train import build_test_parser, check_arguments, test


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line and test."""
    parser = build_test_parser()
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, *RUN_ERRORS, verbose=args.verbose):
        check_arguments(args)
        use_safe_loading()
        test(args)


if __name__ == "__main__":
    run()
