"""What ``tools/infer_seg.py`` does: predict label maps by the test pipeline of a config, and draw them."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.commands import print_next
from resnest_backbones.data import find_class_file, read_image
from resnest_backbones.errors import ConfigError, DatasetError
from resnest_backbones.mmseg.checkpoint import use_safe_loading
from resnest_backbones.mmseg.config import load_config
from resnest_backbones.mmseg.engine.infer import Predictor
from resnest_backbones.predict.draw import draw_label_map
from resnest_backbones.predict.sources import find_files


def infer(args: argparse.Namespace) -> list[str]:
    """Predict and draw; return what went wrong with single images, one message each. All others are done."""
    if not 0 <= args.opacity <= 1:
        raise ConfigError(f"--opacity must be from 0 to 1, got {args.opacity}")
    use_safe_loading()
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
    print_next("export the model", "tools/export.py", args.config, args.checkpoint)
    return problems
