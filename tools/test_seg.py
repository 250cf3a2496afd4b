#!/usr/bin/env python
"""Test a segmentor: MMSegmentation's own command line, with a ResNeSt, a custom dataset, on any machine."""

from __future__ import annotations

from resnest_backbones.cli import print_next
from resnest_backbones.errors import one_line_errors
from resnest_backbones.mmseg.checkpoint import use_safe_loading
from resnest_backbones.mmseg.engine.train import build_test_parser, test


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line, test, and print the metrics in one line at the end."""
    parser = build_test_parser()
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, verbose=args.verbose):
        use_safe_loading()
        metrics = test(args)
    if metrics:
        print_next("look at its predictions", "tools/infer_seg.py", args.config, args.checkpoint, "IMAGE_OR_FOLDER")
        print(", ".join(f"{name} {value:.2f}" for name, value in metrics.items()), flush=True)


if __name__ == "__main__":
    run()
