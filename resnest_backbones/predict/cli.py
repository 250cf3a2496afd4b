"""What ``tools/demo.py`` does: look at images, films or a camera; draw what is found, and write it as json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.cli import print_next
from resnest_backbones.data import read_image
from resnest_backbones.errors import DatasetError, add_verbose
from resnest_backbones.export.formats import FORMATS
from resnest_backbones.predict.draw import draw_detections, draw_label_map
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor
from resnest_backbones.predict.sources import Film, Window, film_writer, find_files

_EXPORTED = tuple(kind.suffix for kind in FORMATS.values())


def build_demo_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Look at images, folders, films or a camera with a trained model; draw what it finds.",
        epilog="""
Examples:

  python tools/demo.py --config output/config.yaml --checkpoint output/model_final.pth photos/ film.mp4
  python tools/demo.py --config CONFIG.py --checkpoint iter_20000.pth --classes classes.txt photo.jpg
  python tools/demo.py --model exported/model.onnx --camera 0 --show

Writes OUTPUT_DIR/drawn/NAME.png, OUTPUT_DIR/drawn/NAME.mp4, OUTPUT_DIR/label_maps/NAME.png of a segmentor (label n
is the n-th class, as in ADE20K's annotations), and OUTPUT_DIR/predictions.json.
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="FILE_OR_FOLDER", help="images and films")
    add("--model", metavar="FILE", help=f"a file that tools/export.py wrote ({', '.join(_EXPORTED)})")
    add("--config", metavar="CONFIG", help="instead of --model: a config of Detectron2 or MMSegmentation")
    add("--checkpoint", metavar="FILE", help="of --config")
    add("--framework", choices=("detectron2", "mmseg"), help="of the config (default: what it looks like)")
    add("--classes", metavar="FILE", help="names of the classes: one a line, or a json of COCO's format")
    add("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the config: a.b=c")
    add("--camera", metavar="N", help="number of a camera, or the URL of a stream")
    add("--show", action="store_true", help="films and the camera on the screen, too; q ends it")
    add("--max-frames", type=int, metavar="N", help="of each film, or of the camera")
    add("--min-score", type=float, default=0.5, metavar="S", help="of what is drawn and written (default: %(default)s)")
    add("--opacity", type=float, default=0.5, help="of masks and label maps, 0 to 1 (default: %(default)s)")
    add("--output-dir", type=Path, default=Path("predictions"), metavar="DIR", help="default: %(default)s")
    add("--device", default="cpu", help="of --config, such as cuda (default: %(default)s)")
    add_verbose(parser)
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Check what the parser cannot.

    Raises:
        ValueError: options are missing, contradict each other, or are out of their range; the message names them.
    """
    if bool(args.model) == bool(args.config):
        raise ValueError("either --model or --config must be given")
    if args.config and not args.checkpoint:
        raise ValueError("--config needs --checkpoint")
    of_configs = [name for name in ("checkpoint", "framework", "classes", "opts") if args.model and getattr(args, name)]
    if of_configs:
        raise ValueError(f"--{of_configs[0]} goes with --config: an exported file knows it itself")
    if not args.inputs and args.camera is None:
        raise ValueError("FILE_OR_FOLDER or --camera must be given")
    for name in ("min_score", "opacity"):
        if not 0 <= getattr(args, name) <= 1:
            raise ValueError(f"--{name.replace('_', '-')} must be from 0 to 1, got {getattr(args, name)}")
    if args.max_frames is not None and args.max_frames < 1:
        raise ValueError(f"--max-frames must be positive, got {args.max_frames}")


def run_demo(args: argparse.Namespace) -> list[str]:
    """Predict, draw and write as the options of ``build_demo_parser`` say.

    Returns:
        What went wrong with single files, one message each; all others are done.

    Raises:
        ExportError: the model cannot be used.
        DatasetError: there is nothing to look at.
    """
    images, films = find_files(args.inputs) if args.inputs else ([], [])
    window = Window("resnest_backbones") if args.show else None
    predictor = _predictor(args)
    (args.output_dir / "drawn").mkdir(parents=True, exist_ok=True)
    demo = _Demo(predictor, args, window)
    problems = []
    try:
        for file in tqdm(images, desc="images", disable=not images):
            try:
                demo.look_at(file)
            except DatasetError as error:
                problems.append(str(error))
        sources = [(str(file), file.stem) for file in films]
        sources += [(args.camera, "camera")] if args.camera is not None else []
        for source, name in sources:
            try:
                demo.watch(source, name)
            except DatasetError as error:
                problems.append(str(error))
    except KeyboardInterrupt:
        problems.append("interrupted: what was done until then is written")
    demo.write_json()
    print(f"written: {args.output_dir / 'drawn'}, {args.output_dir / 'predictions.json'}")
    if args.config:
        print_next("write the model for other programs", "tools/export.py", args.config, args.checkpoint)
    elif args.model.endswith(".onnx"):
        print_next("write it in int8", "tools/quantize.py", args.model, "FOLDER_OF_IMAGES")
    return problems


def _predictor(args: argparse.Namespace) -> Predictor:
    if args.model:
        return Predictor.from_file(args.model)
    return Predictor.from_config(
        args.config,
        args.checkpoint,
        framework=args.framework,
        options=args.opts,
        classes=args.classes,
        device=args.device,
    )


class _Demo:
    """A predictor, and the files that it fills."""

    def __init__(self, predictor: Predictor, args: argparse.Namespace, window: Window | None) -> None:
        self._predictor, self._args, self._window = predictor, args, window
        self._folder: Path = args.output_dir
        self._records: list[dict[str, Any]] = []

    def look_at(self, file: Path) -> None:
        """An image file."""
        image = read_image(file)
        found, picture = self._predict(image)
        _save_png(picture, self._folder / "drawn" / f"{file.stem}.png")
        record = {"file": str(file), **self._record(image, found)}
        if isinstance(found, LabelMap) and len(self._predictor.classes) < 255:  # of what a file of bytes holds
            labels = self._folder / "label_maps" / f"{file.stem}.png"
            labels.parent.mkdir(exist_ok=True)
            _save_png(Image.fromarray((found.labels + 1).astype(np.uint8)), labels)
            record["label_map"] = f"label_maps/{labels.name}"
        self._records.append(record)

    def watch(self, source: str, name: str) -> None:
        """A film or a camera."""
        film = Film(source, "the camera" if name == "camera" else source)
        limit = self._args.max_frames
        total = min(film.count or limit or 0, limit or film.count) or None
        with film_writer(self._folder / "drawn" / f"{name}.mp4", film.frames_per_second) as writer:
            for number, image in enumerate(tqdm(_first(film, limit), desc=name, total=total)):
                found, picture = self._predict(image)
                writer.write(picture)
                self._records.append({"file": source, "frame": number, **self._record(image, found)})
                if self._window is not None and not self._window.show(picture):
                    break

    def _predict(self, image: np.ndarray) -> tuple[Detections | LabelMap, Image.Image]:
        found = self._predictor(image, self._args.min_score)
        palette = self._predictor.metadata.get("palette")
        classes, opacity = self._predictor.classes, self._args.opacity
        if isinstance(found, LabelMap):
            return found, draw_label_map(image, found.labels, classes, palette, opacity=opacity)
        return found, draw_detections(image, found, classes, palette, opacity=opacity)

    def _record(self, image: np.ndarray, found: Detections | LabelMap) -> dict[str, Any]:
        size = {"height": image.shape[0], "width": image.shape[1]}
        return {**size, **describe(found, self._predictor.classes)}

    def write_json(self) -> None:
        """All that was found."""
        content = {
            "task": self._predictor.task,
            "model": self._args.model or self._args.config,
            "checkpoint": self._args.checkpoint,
            "classes": self._predictor.classes,
        }
        records = ",\n ".join(map(json.dumps, self._records))  # one a line
        text = f'{json.dumps(content)[:-1]}, "images": [\n {records}\n]}}\n'
        write_atomically(self._folder / "predictions.json", lambda stream: stream.write(text.encode()))


def _first(film: Film, limit: int | None) -> Iterator[np.ndarray]:
    for number, frame in enumerate(film):
        if limit is not None and number >= limit:
            return
        yield frame


def _save_png(image: Image.Image, file: Path) -> None:
    write_atomically(file, lambda stream: image.save(stream, "PNG"))


def describe(found: Detections | LabelMap, classes: Sequence[str]) -> dict[str, Any]:
    """What was found, of JSON's types: boxes and masks in COCO's format, or the share of each class in the image."""
    if isinstance(found, LabelMap):
        counts = np.bincount(found.labels.ravel(), minlength=len(classes))
        order = np.argsort(-counts, kind="stable")
        return {"shares": {classes[i]: round(counts[i] / found.labels.size, 6) for i in order if counts[i]}}
    things = []
    for number, (box, label, score) in enumerate(zip(found.boxes, found.classes, found.scores, strict=True)):
        left, top, right, bottom = (round(float(value), 3) for value in box)
        thing: dict[str, Any] = {
            "category": classes[label],
            "category_index": int(label),
            "score": round(float(score), 6),
            "bbox": [left, top, round(right - left, 3), round(bottom - top, 3)],
        }
        if found.masks is not None:
            thing["segmentation"] = run_lengths(found.masks[number])
        things.append(thing)
    return {"detections": things}


def run_lengths(mask: np.ndarray) -> Mapping[str, list[int]]:
    """COCO's uncompressed run-length encoding: pixels column by column, lengths of runs of 0, 1, 0, 1, ..."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(np.int8)])
    changes = np.flatnonzero(np.diff(flat)).tolist()
    ends = [0, *changes, mask.size]
    return {"size": list(mask.shape), "counts": [end - begin for begin, end in zip(ends, ends[1:], strict=False)]}
