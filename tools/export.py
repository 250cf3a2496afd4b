#!/usr/bin/env python
"""Write a trunk, a detector or a segmentor as ONNX, TorchScript, torch.export or AOTInductor, and compare."""

from __future__ import annotations

import sys

from resnest_backbones.errors import CheckpointError, ExportError, WeightsError, one_line_errors
from resnest_backbones.export.cli import build_export_parser, run_export


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line and export; the status is 1 where a file is not equal to the network."""
    parser = build_export_parser()
    args = parser.parse_args(arguments)
    ours = (CheckpointError, ExportError, ImportError, ValueError, WeightsError)
    with one_line_errors(parser.prog, *ours, verbose=args.verbose):
        good = run_export(args)
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    run()
