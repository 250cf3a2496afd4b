#!/usr/bin/env python
"""Predict on images, folders, videos or a camera with a trained or exported model: drawings, label maps and JSON.

python tools/demo.py --model faster_rcnn_resnest50_fpn_1x_mmdet photo.jpg
python tools/demo.py --model exported/model.onnx photos/ video.mp4 --output-dir predictions
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.cli import print_next
from resnest_backbones.data import read_image
from resnest_backbones.errors import ConfigError, DatasetError, add_verbose, did_you_mean, one_line_errors
from resnest_backbones.export.formats import FORMATS
from resnest_backbones.model_zoo import RECIPES, list_trained
from resnest_backbones.predict.draw import draw_detections, draw_label_map
from resnest_backbones.predict.evaluate import describe
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor
from resnest_backbones.predict.sources import Video, Window, find_files, video_writer
from resnest_backbones.weights import SCHEME

_SUFFIXES = ", ".join(kind.suffix for kind in FORMATS.values())


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Predict on images, folders, videos or a camera with a trained model, and draw the predictions.",
        epilog="""
Examples:

  python tools/demo.py --model faster_rcnn_resnest50_fpn_1x_mmdet photo.jpg
  python tools/demo.py --config output/config.yaml --checkpoint output/model_final.pth photos/ video.mp4
  python tools/demo.py --config CONFIG.py --checkpoint iter_20000.pth --classes classes.txt photo.jpg
  python tools/demo.py --model exported/model.onnx --camera 0 --show

Writes OUTPUT_DIR/drawn/NAME.png, OUTPUT_DIR/drawn/NAME.mp4, OUTPUT_DIR/label_maps/NAME.png for a segmentor (label n
is the n-th class, as in ADE20K's annotations), and OUTPUT_DIR/predictions.json.
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="FILE_OR_FOLDER", help="images and videos")
    text = "a recipe that `resnest-backbones list --trained` prints, whose weights are downloaded"
    add("--model", metavar="NAME", help=f"{text}; or a file that tools/export.py wrote ({_SUFFIXES})")
    add("--config", metavar="CONFIG", help="instead of --model: a config of Detectron2 or MMSegmentation")
    add("--checkpoint", metavar="FILE", help="checkpoint of --config")
    add("--framework", choices=("detectron2", "mmseg"), help="framework of the config (default: detected)")
    add("--classes", metavar="FILE", help="names of the classes: one per line, or a JSON in COCO's format")
    add("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="config overrides: a.b=c")
    add("--camera", metavar="N", help="number of a camera, or the URL of a stream")
    add("--show", action="store_true", help="also show videos and the camera on the screen; q ends it")
    add("--max-frames", type=int, metavar="N", help="stop after N frames of each video or of the camera")
    add("--min-score", type=float, default=0.5, metavar="S", help="minimum score of predictions (default: %(default)s)")
    add("--opacity", type=float, default=0.5, help="opacity of masks and label maps, 0 to 1 (default: %(default)s)")
    add("--output-dir", type=Path, default=Path("predictions"), metavar="DIR", help="default: %(default)s")
    add("--device", help="device, such as cpu or cuda:1, but for exported files (default: a GPU if available)")
    add_verbose(parser)
    return parser


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check what the parser cannot, and end with its error."""
    if bool(args.model) == bool(args.config):
        parser.error("either --model or --config must be given")
    if args.config and not args.checkpoint:
        parser.error("--config needs --checkpoint")
    of_configs = [name for name in ("checkpoint", "framework", "classes", "opts") if args.model and getattr(args, name)]
    if of_configs:
        parser.error(f"--{of_configs[0]} goes with --config: an exported file contains it")
    if not args.inputs and args.camera is None:
        parser.error("FILE_OR_FOLDER or --camera must be given")
    for name in ("min_score", "opacity"):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f"--{name.replace('_', '-')} must be from 0 to 1, got {getattr(args, name)}")
    if args.max_frames is not None and args.max_frames < 1:
        parser.error(f"--max-frames must be positive, got {args.max_frames}")


def predict(args: argparse.Namespace) -> list[str]:
    """Predict, draw and write; return what went wrong with single files, one message each. All others are done."""
    images, videos = find_files(args.inputs) if args.inputs else ({}, {})
    window = Window("resnest_backbones") if args.show else None
    if args.model:
        if not Path(args.model).suffix and not Path(args.model).exists():
            hint = did_you_mean(args.model, list_trained(), "`resnest-backbones list --trained` prints the names")
            raise ConfigError(f"--model must be an exported file or a trained recipe, got {args.model}; {hint}")
        predictor = Predictor.from_file(args.model)
    else:
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        given = {"framework": args.framework, "options": args.opts, "classes": args.classes, "device": device}
        predictor = Predictor.from_config(args.config, args.checkpoint, **given)
    (args.output_dir / "drawn").mkdir(parents=True, exist_ok=True)
    demo = Demo(predictor, args, window)
    sources = [(str(file), name) for name, file in videos.items()]
    sources += [(args.camera, "camera")] if args.camera is not None else []
    problems: list[str] = []
    try:
        for name, file in tqdm(images.items(), desc="images", disable=not images):
            with collected(problems):
                demo.predict_image(file, name)
        for source, name in sources:
            with collected(problems):
                demo.predict_video(source, name)
    except KeyboardInterrupt:
        problems.append("interrupted: results so far are saved")
    demo.write_json()
    print(f"written: {args.output_dir / 'drawn'}, {args.output_dir / 'predictions.json'}")
    if args.config:
        print_next("export the model", "tools/export.py", args.config, args.checkpoint)
    elif args.model.endswith(".onnx"):
        print_next("quantize it to int8", "tools/quantize.py", args.model, "FOLDER_OF_IMAGES")
    return problems


@contextlib.contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except DatasetError as error:
        problems.append(str(error))


class Demo:
    """A predictor, and the files that it fills."""

    def __init__(self, predictor: Predictor, args: argparse.Namespace, window: Window | None) -> None:
        self._predictor, self._args, self._window = predictor, args, window
        self._folder: Path = args.output_dir
        self._records: list[dict[str, Any]] = []

    def predict_image(self, file: Path, name: str) -> None:
        image = read_image(file)
        found, picture, record = self._predict(image)
        _save_png(picture, self._folder / "drawn" / f"{name}.png")
        record = {"file": str(file), **record}
        if isinstance(found, LabelMap) and len(self._predictor.classes) < 255:  # what a file of bytes holds
            record["label_map"] = f"label_maps/{name}.png"
            _save_png(Image.fromarray((found.labels + 1).astype(np.uint8)), self._folder / record["label_map"])
        self._records.append(record)

    def predict_video(self, source: str, name: str) -> None:
        """Predict on the frames of a video, or of the camera."""
        video = Video(source, "the camera" if name == "camera" else source)
        limit = self._args.max_frames
        total = min(video.count or limit or 0, limit or video.count) or None
        file = self._folder / "drawn" / f"{name}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        with video_writer(file, video.frames_per_second) as writer:
            for number, image in enumerate(tqdm(itertools.islice(video, limit), desc=name, total=total)):
                _, picture, record = self._predict(image)
                writer.write(picture)
                self._records.append({"file": source, "frame": number, **record})
                if self._window is not None and not self._window.show(picture):
                    break

    def _predict(self, image: np.ndarray) -> tuple[Detections | LabelMap, Image.Image, dict[str, Any]]:
        found = self._predictor(image, self._args.min_score)
        classes, palette = self._predictor.classes, self._predictor.metadata.get("palette")
        record = {"height": image.shape[0], "width": image.shape[1], **describe(found, classes)}
        if isinstance(found, LabelMap):
            return found, draw_label_map(image, found.labels, classes, palette, opacity=self._args.opacity), record
        return found, draw_detections(image, found, classes, palette, opacity=self._args.opacity), record

    def write_json(self) -> None:
        """Write all predictions, one image per line."""
        model = self._args.model or self._args.config
        content = {"task": self._predictor.task, "model": model, "checkpoint": self._args.checkpoint}
        content["classes"] = self._predictor.classes
        records = ",\n ".join(map(json.dumps, self._records))
        text = f'{json.dumps(content)[:-1]}, "images": [\n {records}\n]}}\n'
        write_atomically(self._folder / "predictions.json", lambda stream: stream.write(text.encode()))


def _save_png(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda stream: image.save(stream, "PNG"))


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line and predict; the status is 1 if a file could not be read."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.model in RECIPES and not args.config and not Path(args.model).exists():
        args.config, args.checkpoint, args.model = args.model, args.checkpoint or f"{SCHEME}{args.model}", None
    check_arguments(parser, args)
    with one_line_errors(parser.prog, ImportError, verbose=args.verbose):
        problems = predict(args)
    if problems:
        sys.exit("\n".join(f"{parser.prog}: error: {problem}" for problem in problems))


if __name__ == "__main__":
    run()
