#!/usr/bin/env python
"""Draw what a segmentor sees: label maps over images, with a legend of the classes.

In the label maps, as in ADE20K's annotations, label n is the n-th class.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.cli import print_next
from resnest_backbones.data import IMAGE_SUFFIXES, find_class_file, read_image
from resnest_backbones.errors import ConfigError, DatasetError, add_verbose, one_line_errors
from resnest_backbones.mmseg.checkpoint import use_safe_loading
from resnest_backbones.mmseg.config import load_config
from resnest_backbones.mmseg.engine.infer import Predictor
from resnest_backbones.mmseg.engine.train import add_config_options
from resnest_backbones.predict.draw import draw_label_map
from resnest_backbones.predict.sources import find_files


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Predict label maps, and draw them over the images.",
        epilog="example: python tools/infer_seg.py CONFIG CHECKPOINT photo.jpg folder/ --out-dir predictions",
    )
    add_verbose(parser)
    parser.add_argument("config", help="the config file")
    parser.add_argument("checkpoint", help="the checkpoint file")
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help=f"images, or folders with {', '.join(IMAGE_SUFFIXES)}")
    add("--out-dir", required=True, metavar="DIR", help="write drawn/NAME.png and label_maps/NAME.png there")
    add("--opacity", type=float, default=0.5, help="opacity of the colours, 0 to 1 (default: %(default)s)")
    add("--device", help="device, such as cpu or cuda:1 (default: a GPU if available)")
    add("--tta", action="store_true", help="use test-time augmentation: tta_model and tta_pipeline")
    add_config_options(parser)
    return parser


def infer(args: argparse.Namespace) -> list[str]:
    """Predict and draw; return what went wrong with single images, one message each. All others are done."""
    if not 0 <= args.opacity <= 1:
        raise ConfigError(f"--opacity must be from 0 to 1, got {args.opacity}")
    cfg = load_config(args.config, args.cfg_options)
    files, _ = find_files(args.images, allow_videos=False)
    class_file = args.classes or (find_class_file(args.data_root) if args.data_root else None)
    predict = Predictor(cfg, args.checkpoint, class_file=class_file, tta=args.tta, device=args.device)
    folders = Path(args.out_dir, "drawn"), Path(args.out_dir, "label_maps")
    problems = []
    for name, file in track_iter_progress(list(files.items())):
        try:
            image = read_image(file)
        except DatasetError as error:
            problems.append(str(error))
            continue
        labels = predict(file)
        drawn = draw_label_map(image, labels, predict.classes, predict.palette, opacity=args.opacity)
        label_map = Image.fromarray((labels + 1).astype(np.uint8))
        for folder, result in zip(folders, (drawn, label_map), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{name}.png", partial(result.save, format="PNG"))
    print(f"\nwritten: {folders[0]}, {folders[1]}")  # the progress bar stays in its line
    return problems


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line and predict; the status is 1 where an image could not be read."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, verbose=args.verbose):
        use_safe_loading()
        problems = infer(args)
        print_next("export the model", "tools/export.py", args.config, args.checkpoint)
    if problems:
        sys.exit("\n".join(f"{parser.prog}: error: {problem}" for problem in problems))


if __name__ == "__main__":
    run()
