r"""Quantize an exported ONNX detector or segmentor to int8, calibrated on your images, and measure what that costs.

For example:
    python tools/quantize.py exported/model.onnx photos/ --output exported/model_int8.onnx \
        --val-json val.json --val-images val/
"""

from __future__ import annotations

import argparse
import statistics
import textwrap
import time
from pathlib import Path
from typing import Any

from resnest_backbones.choices import CALIBRATIONS, RUNTIMES
from resnest_backbones.commands import named, print_next
from resnest_backbones.data import read_image
from resnest_backbones.errors import ExportError, add_verbose, one_line_errors

_TIMED = 20  # images


def build_argument_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.onnx", help="a file written by tools/export.py")
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="a few dozen typical images, for calibration")
    add("--output", type=Path, metavar="FILE.onnx", help="default: MODEL_int8.onnx")
    add("--max-images", type=int, default=100, metavar="N", help="use the first N of the images (default: %(default)s)")
    text = "how to calibrate activation ranges (default: %(default)s)"
    add("--method", choices=CALIBRATIONS, default="minmax", help=text)
    add("--keep", nargs="+", default=[], metavar="NAME", help="keep nodes whose names contain this in float32")
    add(
        "--runtime",
        choices=RUNTIMES,
        default="onnxruntime",
        help="runtime for measuring both files (default: %(default)s)",
    )
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
        parser.error("--val-images requires --val-json or --val-label-maps")
    for name in ("val_json", "val_images", "val_label_maps"):
        value = getattr(args, name)
        if value is not None and not (value.is_file() if name == "val_json" else value.is_dir()):
            parser.error(f"--{name.replace('_', '-')} does not exist: {value}")


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line, quantize and measure."""
    parser = named(build_argument_parser(), command)
    args = parser.parse_args(arguments)
    check_arguments(parser, args)
    with one_line_errors(parser.prog, verbose=args.verbose):
        convert(args)


def convert(args: argparse.Namespace) -> None:
    """Quantize, and compare metrics and times of both files."""
    from tabulate import tabulate

    from resnest_backbones.export.quantize import quantize
    from resnest_backbones.predict import Predictor
    from resnest_backbones.predict.evaluate import average_precision, mean_iou
    from resnest_backbones.predict.sources import find_files

    images = list(find_files(args.images, allow_videos=False)[0].values())[: args.max_images]
    output = args.output or args.model.with_name(f"{args.model.stem}_int8.onnx")
    if output.resolve() == args.model.resolve():
        raise ExportError(f"--output must not be {args.model} itself")
    number = quantize(args.model, output, images, method=args.method, keep=args.keep)
    print(f"{output}: {number} operators in int8, calibrated on {len(images)} images")
    predictors = []
    for name, file in (("float32", args.model), ("int8", output)):
        predictors.append(Predictor.from_file(file, runtime=args.runtime))
        milliseconds = _milliseconds(predictors[-1], images)
        print(f"  {name:<8} {file.stat().st_size / 1e6:>8.1f} MB {milliseconds:>8.1f} ms per image")
    if args.val_images:
        before, after = (
            average_precision(predictor, args.val_json, args.val_images)
            if args.val_json
            else mean_iou(predictor, args.val_images, args.val_label_maps)
            for predictor in predictors
        )
        rows = [(name, value, after[name], f"{after[name] - value:+.2f}") for name, value in before.items()]
        table = tabulate(rows, ("percent", "float32", "int8", "change"), tablefmt="plain", floatfmt=".2f")
        print(textwrap.indent(table, "  "))
    print_next("look at its predictions", "tools/demo.py", "--model", output, "IMAGE_OR_FOLDER")


def _milliseconds(predictor: Any, images: list[Path]) -> float:
    """Return the median time of an image, preprocessing included."""
    times = []
    for image in [read_image(path) for path in [images[0], *images[:_TIMED]]]:
        start = time.perf_counter()
        predictor(image)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:])  # the first call also allocates
