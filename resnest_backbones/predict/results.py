"""Predictions as files: pictures, label maps, videos, and one JSON of all of them."""

from __future__ import annotations

import itertools
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.data import read_image
from resnest_backbones.predict.draw import draw_detections, draw_label_map
from resnest_backbones.predict.evaluate import describe
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor
from resnest_backbones.predict.sources import Video, VideoWriter, Window


class ResultWriter:
    """Predicts on images and videos, and writes what is found to a folder.

    Args:
        predictor: the model.
        folder: gets ``drawn/NAME.png`` or ``.mp4``, ``label_maps/NAME.png``, and ``predictions.json`` at the end.
        min_score: of detections.
        opacity: of masks and label maps, 0 to 1.
    """

    def __init__(self, predictor: Predictor, folder: Path, *, min_score: float = 0.5, opacity: float = 0.5) -> None:
        self._predictor, self._folder = predictor, folder
        self._min_score, self._opacity = min_score, opacity
        self._records: list[dict[str, Any]] = []

    def predict_image(self, file: Path, name: str) -> None:
        """Predict on an image file, and write its drawing and label map under a name."""
        found, picture, record = self._predict(read_image(file))
        save_png(picture, self._folder / "drawn" / f"{name}.png")
        record = {"file": str(file), **record}
        if isinstance(found, LabelMap) and len(self._predictor.classes) < 255:  # what a file of bytes holds
            record["label_map"] = f"label_maps/{name}.png"
            save_png(label_image(found.labels), self._folder / record["label_map"])
        self._records.append(record)

    def predict_video(
        self, source: str, name: str, *, max_frames: int | None = None, window: Window | None = None
    ) -> None:
        """Predict on the frames of a video, or of the camera; also show them in a window."""
        video = Video(source, "the camera" if name == "camera" else source)
        total = min(video.count or max_frames or 0, max_frames or video.count) or None
        file = self._folder / "drawn" / f"{name}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(VideoWriter(file, video.frames_per_second)) as writer:  # also after an interruption
            for number, image in enumerate(tqdm(itertools.islice(video, max_frames), desc=name, total=total)):
                _, picture, record = self._predict(image)
                writer.write(picture)
                self._records.append({"file": source, "frame": number, **record})
                if window is not None and not window.show(picture):
                    break

    def _predict(self, image: np.ndarray) -> tuple[Detections | LabelMap, Image.Image, dict[str, Any]]:
        found = self._predictor(image, self._min_score)
        classes, palette = self._predictor.classes, self._predictor.palette
        record = {"height": image.shape[0], "width": image.shape[1], **describe(found, classes)}
        if isinstance(found, LabelMap):
            return found, draw_label_map(image, found.labels, classes, palette, opacity=self._opacity), record
        return found, draw_detections(image, found, classes, palette, opacity=self._opacity), record

    def write_json(self, model: str, checkpoint: str | None) -> None:
        """Write all predictions, one image per line."""
        predictor = self._predictor
        content = {"task": predictor.task, "model": model, "checkpoint": checkpoint, "classes": predictor.classes}
        records = ",\n ".join(map(json.dumps, self._records))
        text = f'{json.dumps(content)[:-1]}, "images": [\n {records}\n]}}\n'
        write_atomically(self._folder / "predictions.json", lambda stream: stream.write(text.encode()))


def label_image(labels: np.ndarray) -> Image.Image:
    """Return a label map (H, W) of at most 254 classes as in ADE20K's annotations: label n is the n-th class."""
    return Image.fromarray((labels + 1).astype(np.uint8))


def save_png(image: Image.Image, file: Path) -> None:
    """Write a picture, and create its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda stream: image.save(stream, "PNG"))
