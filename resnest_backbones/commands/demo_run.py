"""What ``tools/demo.py`` does: predict, draw, write."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.choices import SUFFIXES
from resnest_backbones.commands import print_next
from resnest_backbones.data import read_image
from resnest_backbones.errors import DatasetError
from resnest_backbones.predict.draw import draw_detections, draw_label_map
from resnest_backbones.predict.evaluate import describe
from resnest_backbones.predict.load import find_model
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor
from resnest_backbones.predict.sources import Video, Window, find_files, video_writer


def predict(args: argparse.Namespace) -> list[str]:
    """Predict, draw and write; return what went wrong with single files, one message each. All others are done."""
    images, videos = find_files(args.inputs) if args.inputs else ({}, {})
    window = Window("resnest_backbones") if args.show else None
    if args.model and not args.model.endswith(tuple(SUFFIXES.values())):
        args.config, args.checkpoint = find_model(args.model, args.checkpoint)
        args.model = None
    if args.model:
        predictor = Predictor.from_file(args.model)
    else:
        given = {"framework": args.framework, "options": args.opts, "classes": args.classes, "device": args.device}
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
    finally:  # after Ctrl-C, too
        demo.write_json()
    print(f"written: {args.output_dir / 'drawn'}, {args.output_dir / 'predictions.json'}")
    if args.config:
        print_next("export the model", "tools/export.py", args.config, args.checkpoint)
    elif args.model.endswith(".onnx"):
        print_next("quantize it to int8", "tools/quantize.py", args.model, "FOLDER_OF_IMAGES")
    return problems


@contextlib.contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Add the message of an error in the data to the problems."""
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
        """Predict on an image file, and write its drawing and label map under a name."""
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
        classes, palette = self._predictor.classes, self._predictor.palette
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
