"""What ``tools/quantize.py`` does: quantise, and measure both files."""

from __future__ import annotations

import argparse
import statistics
import textwrap
import time
from pathlib import Path

from tabulate import tabulate

from resnest_backbones.commands import print_next
from resnest_backbones.data import read_image
from resnest_backbones.errors import ExportError
from resnest_backbones.export.quantize import quantize
from resnest_backbones.predict import Predictor
from resnest_backbones.predict.evaluate import average_precision, mean_iou
from resnest_backbones.predict.sources import find_files

_TIMED = 20  # images


def measure(predictor: Predictor, args: argparse.Namespace) -> dict[str, float]:
    """Return the metrics of a file on the data that the options name; none where they name none."""
    if args.val_json:
        return average_precision(predictor, args.val_json, args.val_images)
    return mean_iou(predictor, args.val_images, args.val_label_maps)


def milliseconds(predictor: Predictor, images: list[Path]) -> float:
    """Return the median time of an image, preprocessing included."""
    times = []
    for image in [read_image(path) for path in [images[0], *images[:_TIMED]]]:
        start = time.perf_counter()
        predictor(image)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:])  # the first call also allocates


def convert(args: argparse.Namespace) -> None:
    """Quantise, and compare metrics and times of both files."""
    images = list(find_files(args.images, allow_videos=False)[0].values())[: args.max_images]
    output = args.output or args.model.with_name(f"{args.model.stem}_int8.onnx")
    if output.resolve() == args.model.resolve():
        raise ExportError(f"--output must not be {args.model} itself")
    number = quantize(args.model, output, images, method=args.method, keep=args.keep)
    print(f"{output}: {number} operators in int8, calibrated on {len(images)} images")
    predictors = []
    for name, file in (("float32", args.model), ("int8", output)):
        predictors.append(Predictor.from_file(file))
        time_per_image = milliseconds(predictors[-1], images)
        print(f"  {name:<8} {file.stat().st_size / 1e6:>8.1f} MB {time_per_image:>8.1f} ms per image")
    if args.val_images:
        before, after = (measure(predictor, args) for predictor in predictors)
        rows = [(name, value, after[name], f"{after[name] - value:+.2f}") for name, value in before.items()]
        table = tabulate(rows, ("percent", "float32", "int8", "change"), tablefmt="plain", floatfmt=".2f")
        print(textwrap.indent(table, "  "))
    print_next("look at its predictions", "tools/demo.py", "--model", output, "IMAGE_OR_FOLDER")
