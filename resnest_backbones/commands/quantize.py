r"""Quantise an exported ONNX detector or segmentor to int8, calibrated on your images, and measure what that costs.

For example:
    python tools/quantize.py exported/model.onnx photos/ --output exported/model_int8.onnx \
        --val-json val.json --val-images val/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resnest_backbones.choices import CALIBRATIONS
from resnest_backbones.commands import named
from resnest_backbones.errors import add_verbose, one_line_errors


def build_argument_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.onnx", help="a file that tools/export.py wrote")
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="a few dozen typical images, for calibration")
    add("--output", type=Path, metavar="FILE.onnx", help="default: MODEL_int8.onnx")
    add("--max-images", type=int, default=100, metavar="N", help="use the first N of the images (default: %(default)s)")
    text = "how to find the range of an activation (default: %(default)s)"
    add("--method", choices=CALIBRATIONS, default="minmax", help=text)
    add("--keep", nargs="+", default=[], metavar="NAME", help="keep nodes with this in their names in float32")
    group = parser.add_argument_group("measure AP, or mIoU, of both files")
    group.add_argument("--val-json", type=Path, metavar="FILE", help="annotations in COCO format, for a detector")
    group.add_argument("--val-images", type=Path, metavar="DIR", help="folder of the validation images")
    text = "label maps, for a segmentor: n is the n-th class"
    group.add_argument("--val-label-maps", type=Path, metavar="DIR", help=text)
    add_verbose(parser)
    return parser


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check what the parser cannot, and end with its error."""
    if args.max_images < 1:
        parser.error(f"--max-images must be positive, got {args.max_images}")
    truth = [name for name in ("val_json", "val_label_maps") if getattr(args, name)]
    if len(truth) > 1 or bool(truth) != bool(args.val_images):
        parser.error("--val-images goes with --val-json or with --val-label-maps")
    for name in ("val_json", "val_images", "val_label_maps"):
        value = getattr(args, name)
        if value is not None and not (value.is_file() if name == "val_json" else value.is_dir()):
            parser.error(f"--{name.replace('_', '-')} does not exist: {value}")


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line, quantise and measure."""
    parser = named(build_argument_parser(), command)
    args = parser.parse_args(arguments)
    check_arguments(parser, args)
    with one_line_errors(parser.prog, ImportError, verbose=args.verbose):
        from resnest_backbones.commands.quantize_run import convert

        convert(args)
