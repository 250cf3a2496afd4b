#!/usr/bin/env python
"""Draw what a model finds beside the ground truth, its precision and confusion, and its split attention."""

from __future__ import annotations

import argparse
from pathlib import Path

from resnest_backbones.errors import add_verbose, one_line_errors


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Draw a model's predictions next to the ground truth: false positives, misses, precision and "
        "recall, confusion, and split attention.",
        epilog="""
Examples:

  python tools/visualize.py --config output/config.yaml --checkpoint output/model_final.pth \\
      --val-json val.json --val-images val --classes train.json
  python tools/visualize.py --config CONFIG.py --checkpoint iter_20000.pth \\
      --val-images my_data/images/validation --val-label-maps my_data/annotations/validation

Writes pictures/NAME.png, precision.png of a detector, confusion.png of a segmentor, attention/NAME.png, and index.html,
which contains all of them.
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    model, truth = (parser.add_mutually_exclusive_group(required=True) for _ in range(2))
    model.add_argument("--config", metavar="CONFIG", help="a Detectron2 or MMSegmentation config")
    add("--checkpoint", metavar="FILE", help="checkpoint of --config")
    text = "instead of both: a file written by tools/export.py; without attention"
    model.add_argument("--model", metavar="FILE", help=text)
    truth.add_argument("--val-json", type=Path, metavar="FILE", help="annotations in COCO format, for a detector")
    add("--val-images", type=Path, metavar="DIR", required=True, help="folder of the images")
    text = "label maps (PNG), for a segmentor: n is the n-th class, 0 is unlabeled"
    truth.add_argument("--val-label-maps", type=Path, metavar="DIR", help=text)
    add("--pictures", type=int, default=8, metavar="N", help="draw the first N images (default: %(default)s)")
    text = "draw attention for the first N images (default: %(default)s)"
    add("--attention", type=int, default=2, metavar="N", help=text)
    add("--max-images", type=int, metavar="N", help="predict only the first N images (default: all)")
    add("--min-score", type=float, default=0.5, metavar="S", help="minimum score of drawn boxes (default: %(default)s)")
    add("--min-iou", type=float, default=0.5, metavar="IOU", help="minimum IoU of a correct box (default: %(default)s)")
    add("--classes", metavar="FILE", help="class names: one per line, or JSON in COCO format")
    add("--framework", choices=("detectron2", "mmseg"), help="framework of the config (default: detected)")
    add("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="config overrides: a.b=c")
    add("--device", help="device for --config, such as cpu or cuda:1 (default: a GPU if available)")
    add("--output-dir", type=Path, default=Path("visualized"), metavar="DIR", help="default: %(default)s")
    add_verbose(parser)
    return parser


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check what the parser cannot, and end with its error."""
    if args.config and not args.checkpoint:
        parser.error("--config needs --checkpoint")
    if args.model and args.device not in (None, "cpu"):
        parser.error(f"--device requires --config: exported files run on the CPU, got {args.device}")
    for path in (args.val_json, args.val_images, args.val_label_maps):
        if path is not None and not path.exists():
            parser.error(f"{path} does not exist")
    for name in ("min_score", "min_iou"):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f"--{name.replace('_', '-')} must be from 0 to 1, got {getattr(args, name)}")
    for name, least in (("pictures", 0), ("attention", 0), ("max_images", 1)):
        if (value := getattr(args, name)) is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more, got {value}")


def run(arguments: list[str] | None = None) -> None:
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    check_arguments(parser, args)
    with one_line_errors(parser.prog, verbose=args.verbose):
        from resnest_backbones.commands import print_next
        from visualization.page import visualize

        page = visualize(args)
    print(f"wrote {page} and its images")
    if args.config:
        print_next("export the model", "tools/export.py", args.config, args.checkpoint)
    else:
        print_next("predict on other images", "tools/demo.py", "--model", args.model, "IMAGE_OR_FOLDER")


if __name__ == "__main__":
    run()
