"""Draw what a segmentor sees: label maps over images, with a legend of the classes.

In the label maps, as in ADE20K's annotations, label n is the n-th class.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from resnest_backbones.commands import named, print_next
from resnest_backbones.commands.train_seg import add_config_options
from resnest_backbones.data import IMAGE_SUFFIXES, find_class_file, read_image
from resnest_backbones.errors import ConfigError, DatasetError, add_verbose, one_line_errors
from resnest_backbones.model_zoo import get_config_file


def build_argument_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Predict label maps and draw them over the images.",
        epilog="example: python tools/infer_seg.py CONFIG CHECKPOINT photo.jpg folder/ --out-dir predictions",
    )
    add_verbose(parser)
    add = parser.add_argument
    add("config", help="a config file, or the name of a packaged config")
    add("checkpoint", help="the checkpoint file")
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help=f"images, or folders with {', '.join(IMAGE_SUFFIXES)}")
    add("--out-dir", required=True, metavar="DIR", help="write drawn/NAME.png and label_maps/NAME.png there")
    add("--opacity", type=float, default=0.5, help="opacity of the colors, 0 to 1 (default: %(default)s)")
    add("--device", help="device, such as cpu or cuda:1 (default: a GPU if available)")
    add("--tta", action="store_true", help="use test-time augmentation: tta_model and tta_pipeline")
    add_config_options(parser)
    return parser


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line and predict; the status is 1 where an image could not be read."""
    parser = named(build_argument_parser(), command)
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, verbose=args.verbose):
        problems = infer(args)
    if problems:
        sys.exit("\n".join(f"{parser.prog}: error: {problem}" for problem in problems))


def infer(args: argparse.Namespace) -> list[str]:
    """Predict and draw; return what went wrong with single images, one message each. All others are done."""
    if not 0 <= args.opacity <= 1:
        raise ConfigError(f"--opacity must be from 0 to 1, got {args.opacity}")
    config = get_config_file(args.config)

    from mmengine.utils import track_iter_progress

    from resnest_backbones.mmseg.checkpoint import use_safe_loading
    from resnest_backbones.mmseg.config import load_config
    from resnest_backbones.mmseg.engine.infer import Predictor
    from resnest_backbones.predict.draw import draw_label_map
    from resnest_backbones.predict.results import label_image, save_png
    from resnest_backbones.predict.sources import find_files

    use_safe_loading()
    cfg = load_config(config, args.cfg_options)
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
        for folder, result in zip(folders, (drawn, label_image(labels)), strict=True):
            save_png(result, folder / f"{name}.png")
    print(f"\nwritten: {folders[0]}, {folders[1]}")  # the progress bar stays in its line
    print_next("export the model", "tools/export.py", config, args.checkpoint)
    return problems
