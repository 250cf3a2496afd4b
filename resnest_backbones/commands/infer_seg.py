"""Draw what a segmentor sees: label maps over images, with a legend of the classes.

In the label maps, as in ADE20K's annotations, label n is the n-th class.
"""

from __future__ import annotations

import argparse
import sys

from resnest_backbones.commands import named
from resnest_backbones.commands.train_seg import add_config_options
from resnest_backbones.data import IMAGE_SUFFIXES
from resnest_backbones.errors import add_verbose, one_line_errors
from resnest_backbones.model_zoo import get_config_file


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Predict label maps, and draw them over the images.",
        epilog="example: python tools/infer_seg.py CONFIG CHECKPOINT photo.jpg folder/ --out-dir predictions",
    )
    add_verbose(parser)
    parser.add_argument("config", help="a config file, or the name of a packaged config")
    parser.add_argument("checkpoint", help="the checkpoint file")
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help=f"images, or folders with {', '.join(IMAGE_SUFFIXES)}")
    add("--out-dir", required=True, metavar="DIR", help="write drawn/NAME.png and label_maps/NAME.png there")
    add("--opacity", type=float, default=0.5, help="opacity of the colours, 0 to 1 (default: %(default)s)")
    add("--device", help="device, such as cpu or cuda:1 (default: a GPU if there is one)")
    add("--tta", action="store_true", help="use test-time augmentation: tta_model and tta_pipeline")
    add_config_options(parser)
    return parser


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line and predict; the status is 1 where an image could not be read."""
    parser = named(build_parser(), command)
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, verbose=args.verbose):
        args.config = get_config_file(args.config)
        from resnest_backbones.commands.infer_seg_run import infer

        problems = infer(args)
    if problems:
        sys.exit("\n".join(f"{parser.prog}: error: {problem}" for problem in problems))
