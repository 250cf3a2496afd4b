#!/usr/bin/env python
"""Train a segmentor: MMSegmentation's own command line, with a ResNeSt, a custom dataset, on any machine."""

from __future__ import annotations

from resnest_backbones.cli import print_next
from resnest_backbones.errors import one_line_errors
from resnest_backbones.mmseg.checkpoint import use_safe_loading
from resnest_backbones.mmseg.engine.train import build_train_parser, train


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = build_train_parser()
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, verbose=args.verbose):
        use_safe_loading()
        checkpoint = train(args)
    if checkpoint is not None:
        data = ("--data-root", args.data_root) if args.data_root else ()
        print_next("test the trained model", "tools/test_seg.py", args.config, checkpoint, *data)


if __name__ == "__main__":
    run()
