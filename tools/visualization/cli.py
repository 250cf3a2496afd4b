"""The command line of ``tools/visualize.py``."""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.data import read_image
from resnest_backbones.errors import ExportError, add_verbose
from resnest_backbones.export.exportable import DETECTION
from resnest_backbones.predict.evaluate import (
    coco_results,
    confusion_of,
    evaluate_coco,
    label_map_pairs,
    read_truth,
)
from resnest_backbones.predict.pictures import distinct_colours, draw_legend, read_label_map, stack
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor
from visualization import attention, curves, detection, segmentation
from visualization.page import Section, make_page

_PAGE = "index.html"


def build_argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Draw what a model finds beside what there is: false positives, misses, precision and recall, "
        "confusion, and what split attention does.",
        epilog="""
Examples:

  python tools/visualize.py --config output/config.yaml --checkpoint output/model_final.pth \\
      --val-json val.json --val-images val --classes train.json
  python tools/visualize.py --config CONFIG.py --checkpoint iter_20000.pth \\
      --val-images my_data/images/validation --val-label-maps my_data/annotations/validation

Writes pictures/NAME.png, precision.png of a detector, confusion.png of a segmentor, attention/NAME.png, and index.html,
which holds them all.
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", metavar="CONFIG", help="a config of Detectron2 or MMSegmentation")
    add("--checkpoint", metavar="FILE", help="of --config")
    add("--model", metavar="FILE", help="instead of both: what tools/export.py wrote; it does not show its attention")
    add("--val-json", type=Path, metavar="FILE", help="of a detector: COCO instances")
    add("--val-images", type=Path, metavar="DIR", required=True, help="folder of the images")
    add("--val-label-maps", type=Path, metavar="DIR", help="of a segmentor: PNGs, label n is the n-th class, 0 none")
    add("--pictures", type=int, default=8, metavar="N", help="images to draw, the first (default: %(default)s)")
    add("--attention", type=int, default=2, metavar="N", help="images to show the attention of (default: %(default)s)")
    add("--max-images", type=int, metavar="N", help="images to look at, the first (default: all)")
    add("--min-score", type=float, default=0.5, metavar="S", help="of boxes that are drawn (default: %(default)s)")
    add("--min-iou", type=float, default=0.5, metavar="IOU", help="of a box that is right (default: %(default)s)")
    add("--classes", metavar="FILE", help="names of the classes: one a line, or a json of COCO's format")
    add("--framework", choices=("detectron2", "mmseg"), help="of the config (default: what it looks like)")
    add("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the config: a.b=c")
    add("--device", default="cpu", help="of --config, such as cuda (default: %(default)s)")
    add("--output-dir", type=Path, default=Path("visualized"), metavar="DIR", help="default: %(default)s")
    add_verbose(parser)
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Check what the parser cannot.

    Raises:
        ValueError: options are missing, contradict each other, or are out of their range; the message names them.
    """
    if bool(args.model) == bool(args.config):
        raise ValueError("either --config or --model must be given")
    if args.config and not args.checkpoint:
        raise ValueError("--config needs --checkpoint")
    if bool(args.val_json) == bool(args.val_label_maps):
        raise ValueError("either --val-json or --val-label-maps must be given")
    for path in (args.val_json, args.val_images, args.val_label_maps):
        if path is not None and not path.exists():
            raise ValueError(f"{path} is not there")
    for name in ("min_score", "min_iou"):
        if not 0 <= getattr(args, name) <= 1:
            raise ValueError(f"--{name.replace('_', '-')} must be from 0 to 1, got {getattr(args, name)}")
    for name in ("pictures", "attention"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name} must be 0 or more, got {getattr(args, name)}")
    if args.max_images is not None and args.max_images < 1:
        raise ValueError(f"--max-images must be 1 or more, got {args.max_images}")


def visualize(args: argparse.Namespace) -> Path:
    """Draw what the options of ``build_argument_parser`` ask for.

    Returns:
        The HTML file.

    Raises:
        ExportError: the model, or the data set, is of another kind than the options say.
        resnest_backbones.checkpoint.CheckpointError: the checkpoint does not fill the model.
        resnest_backbones.predict.sources.DatasetError: an image cannot be read.
        ImportError: the framework, or pycocotools, is not installed.
    """
    predictor = _predictor(args)
    if (predictor.task == DETECTION) != bool(args.val_json):
        wanted = "--val-json" if predictor.task == DETECTION else "--val-label-maps"
        raise ExportError(f"the model is for {predictor.task}: {wanted} must be given")
    (args.output_dir / "pictures").mkdir(parents=True, exist_ok=True)
    drawing = _Drawing(predictor, args)
    sections, facts = drawing.detector() if predictor.task == DETECTION else drawing.segmentor()
    if drawing.attended:
        text = (
            "Each channel of a block's 3x3 convolution comes in several splits, and attention weighs them anew for "
            "each image: their weights sum to one. Rows are blocks and, in them, splits; columns are channels, sorted "
            "by the weight of the first split. Where all were at the dotted line, the splits would be averaged."
        )
        sections.append(Section("Split attention", text, drawing.attended))
    facts = {"model": args.model or f"{args.config}, {args.checkpoint}", "images": str(args.val_images), **facts}
    page = args.output_dir / _PAGE
    content = make_page("What the model finds, and what it misses", facts, sections)
    write_atomically(page, lambda stream: stream.write(content.encode()))
    return page


def _predictor(args: argparse.Namespace) -> Predictor:
    if args.model:
        return Predictor.from_file(args.model)
    given = {"framework": args.framework, "options": args.opts, "classes": args.classes, "device": args.device}
    return Predictor.from_config(args.config, args.checkpoint, **given)


class _Drawing:
    """A predictor on a data set, image by image."""

    def __init__(self, predictor: Predictor, args: argparse.Namespace) -> None:
        self._predictor, self._args = predictor, args
        self._folder: Path = args.output_dir
        self.attended: list[tuple[Path, str]] = []
        self._trunk = None if predictor.module is None else attention.find_trunk(predictor.module)

    def _look(self, file: Path) -> tuple[np.ndarray, Any]:
        """An image and what is in it; of the first images, the attention is drawn too."""
        image = read_image(file)
        if self._trunk is None or len(self.attended) >= self._args.attention:
            return image, self._predictor(image)
        with attention.recording(self._trunk) as weights:
            found = self._predictor(image)
        target = self._folder / "attention" / f"{file.stem}.png"
        target.parent.mkdir(exist_ok=True)
        attention.draw(weights, target, file.name)
        self.attended.append((target, file.name))
        return image, found

    def _save(self, picture: Image.Image, name: str) -> tuple[Path, str]:
        file = self._folder / "pictures" / f"{Path(name).stem}.png"
        write_atomically(file, lambda stream: picture.save(stream, "PNG"))
        return file, name

    def detector(self) -> tuple[list[Section], dict[str, str]]:
        args = self._args
        truth, categories = read_truth(self._predictor, args.val_json)
        names = {number: truth.cats[number]["name"] for number in categories}
        colours = dict(zip(categories, distinct_colours(len(categories)), strict=True))
        results: list[dict[str, Any]] = []
        drawn: list[tuple[Path, str]] = []
        counts = {"right": 0, "false": 0, "missed": 0}
        entries = sorted(truth.imgs.items())[: args.max_images]
        for number, entry in tqdm(entries, desc="looking"):
            image, found = self._look(args.val_images / entry["file_name"])
            assert isinstance(found, Detections)
            of_image = coco_results(found, number, categories)
            results += of_image
            there = truth.imgToAnns[number]
            sure = [one for one in of_image if one["score"] >= args.min_score]
            matches = detection.match(there, sure, args.min_iou)
            for kind in counts:
                counts[kind] += len(getattr(matches, kind))
            if len(drawn) < args.pictures:
                picture = detection.draw(Image.fromarray(image), there, sure, matches, names, colours)
                drawn.append(self._save(picture, entry["file_name"]))
        text = (
            f"Boxes with a score from {args.min_score:g} on. A false positive overlaps no object of its class by an "
            f"IoU of {args.min_iou:g}, or one that a surer box has found already."
        )
        sections = [Section("Truth, predictions, false positives, misses", text, drawn)]
        facts = {
            "images looked at": str(len(entries)),
            f"right boxes (score {args.min_score:g}, IoU {args.min_iou:g})": str(counts["right"]),
            "false positives": str(counts["false"]),
            "missed objects": str(counts["missed"]),
        }
        if results:
            evaluation = evaluate_coco(self._only(truth, [number for number, _ in entries]), results, "bbox")
            file = self._folder / "precision.png"
            parameters = evaluation.params
            precision = detection.precisions(evaluation)
            curves.draw_precision(precision, parameters.recThrs, parameters.iouThrs, [*names.values()], file)
            figures = zip(("AP", "AP50", "AP75"), evaluation.stats[:3], strict=True)
            facts |= {name: f"{100 * value:.1f}" for name, value in figures}
            text = "As COCO's evaluation has it, of boxes of any score."
            sections.append(Section("Precision and recall", text, [(file, "precision over recall")]))
        return sections, facts

    @staticmethod
    def _only(truth: Any, numbers: list[int]) -> Any:
        """The truth of some images."""
        from pycocotools.coco import COCO

        kept = set(numbers)
        if len(kept) < len(truth.imgs):
            content = {
                **truth.dataset,
                "images": [entry for entry in truth.dataset["images"] if entry["id"] in kept],
                "annotations": [one for one in truth.dataset["annotations"] if one["image_id"] in kept],
            }
            truth = COCO()
            truth.dataset = content
            with contextlib.redirect_stdout(io.StringIO()):
                truth.createIndex()
        return truth

    def segmentor(self) -> tuple[list[Section], dict[str, str]]:
        args, names = self._args, self._predictor.classes
        pairs = label_map_pairs(args.val_images, args.val_label_maps)[: args.max_images]
        confusion = np.zeros((len(names),) * 2, dtype=np.int64)
        shown: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
        for file, label_map in tqdm(pairs, desc="looking"):
            image, found = self._look(file)
            assert isinstance(found, LabelMap)
            truth = read_label_map(label_map)
            confusion += confusion_of(truth, found.labels, len(names))
            if len(shown) < args.pictures:
                shown.append((file.name, image, truth, found.labels))
        present = np.unique(np.concatenate([np.unique(maps) for one in shown for maps in one[2:]] or [np.zeros(0)]))
        kept = [int(index) for index in present if 0 <= index < len(names)]
        palette = dict(zip(kept, distinct_colours(len(kept), on_grey=True), strict=True))
        drawn = [self._save(self._with_legend(one, palette), one[0]) for one in shown]
        text = "In the last two panels, the wrong pixels: by the class that was found there, and by the true one."
        sections = [Section("Truth, prediction, false positives, misses", text, drawn)]
        file = self._folder / "confusion.png"
        curves.draw_confusion(confusion, names, file)
        sections.append(Section("Confusion", "Of all labelled pixels.", [(file, "confusion of classes")]))
        right = confusion.diagonal()
        union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
        facts = {"images looked at": str(len(pairs))}
        if union.any():
            facts["mIoU"] = f"{100 * (right[union > 0] / union[union > 0]).mean():.1f}"
            facts["aAcc"] = f"{100 * right.sum() / confusion.sum():.1f}"
        return sections, facts

    def _with_legend(
        self, one: tuple[str, np.ndarray, np.ndarray, np.ndarray], palette: dict[int, tuple[int, int, int]]
    ) -> Image.Image:
        _, image, truth, found = one
        picture = segmentation.draw(Image.fromarray(image), truth, found, palette)
        legend = {self._predictor.classes[index]: colour for index, colour in palette.items()}
        return stack([picture, draw_legend(legend, picture.width)])
