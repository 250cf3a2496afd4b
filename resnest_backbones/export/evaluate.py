"""What a model is worth on a labelled data set: AP of a detector, mIoU of a segmentor, from an exported file too."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from resnest_backbones.data import IMAGE_SUFFIXES, read_image
from resnest_backbones.errors import ExportError
from resnest_backbones.export.exportable import DETECTION, SEGMENTATION
from resnest_backbones.predict.cli import run_lengths
from resnest_backbones.predict.pictures import read_label_map
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor

_FIGURES = ("AP", "AP50", "AP75")


def average_precision(predictor: Predictor, json_file: Path, image_root: Path) -> dict[str, float]:
    """COCO's figures, in percent, of boxes, and of masks where the network has them.

    Args:
        predictor: a detector, whose n-th class is the n-th category of the file by its id.
        json_file: COCO instances.
        image_root: folder of its images.

    Returns:
        ``box AP``, ``box AP50``, ``box AP75``, and ``mask AP`` and so on.

    Raises:
        ExportError: it is no detector, or the number of categories differs from that of its classes.
        ImportError: pycocotools is missing.
    """
    if predictor.task != DETECTION:
        raise ExportError(f"AP is a figure of detectors, got a network for {predictor.task}")
    truth, categories = read_truth(predictor, json_file)
    results = []
    for number, entry in tqdm(sorted(truth.imgs.items()), desc="evaluating"):
        found = predictor(read_image(image_root / entry["file_name"]))
        if isinstance(found, Detections):
            results += coco_results(found, number, categories)
    figures = _coco_figures(truth, results, "bbox", "box")
    if any("segmentation" in result for result in results):
        figures |= _coco_figures(truth, results, "segm", "mask")
    return figures


def read_truth(predictor: Predictor, json_file: Path) -> tuple[Any, list[int]]:
    """A ``pycocotools.coco.COCO`` of the file, and its categories' ids in order, which are the network's classes.

    Raises:
        ExportError: the number of categories differs from that of the network's classes.
        ImportError: pycocotools is missing.
    """
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(json_file))
    categories = sorted(truth.getCatIds())
    if len(categories) != len(predictor.classes):
        raise ExportError(
            f"{json_file} must have as many categories as the network has classes, {len(predictor.classes)}, got "
            f"{len(categories)}"
        )
    return truth, categories


def coco_results(found: Detections, image: int, categories: Sequence[int]) -> list[dict[str, Any]]:
    """Detections in COCO's format, of the image with this id."""
    from pycocotools import mask as coco_mask

    results = []
    for number, (left, top, right, bottom) in enumerate(found.boxes.tolist()):
        result: dict[str, Any] = {
            "image_id": image,
            "category_id": categories[found.classes[number]],
            "score": float(found.scores[number]),
            "bbox": [left, top, right - left, bottom - top],
        }
        if found.masks is not None:
            mask = found.masks[number]
            result["segmentation"] = coco_mask.frPyObjects(run_lengths(mask), *mask.shape)
        results.append(result)
    return results


def _coco_figures(truth: object, results: list[dict[str, Any]], kind: str, name: str) -> dict[str, float]:
    if not results:
        return {f"{name} {figure}": 0.0 for figure in _FIGURES}
    evaluation = evaluate_coco(truth, results, kind)
    return {f"{name} {figure}": 100 * float(value) for figure, value in zip(_FIGURES, evaluation.stats, strict=False)}


def evaluate_coco(truth: Any, results: Sequence[Mapping[str, Any]], kind: str) -> Any:
    """The ``COCOeval`` of results, accumulated and summarised, with nothing printed.

    Args:
        truth: a ``pycocotools.coco.COCO``.
        results: in COCO's format; not empty.
        kind: ``bbox`` or ``segm``.
    """
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        # A result with a mask gets the box of the mask, if it has none of its own.
        other = "segmentation" if kind == "bbox" else "bbox"
        kept = [{key: value for key, value in result.items() if key != other} for result in results]
        evaluation = COCOeval(truth, truth.loadRes(kept), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def mean_iou(predictor: Predictor, image_root: Path, label_maps: Path) -> dict[str, float]:
    """MMSegmentation's figures, in percent: over all pixels that are labelled, of all images together.

    Args:
        predictor: a segmentor.
        image_root: folder of images.
        label_maps: folder of PNGs of the same names, as in ADE20K: label n is the n-th class, 0 is not labelled.

    Returns:
        ``mIoU`` and ``aAcc``, the share of pixels with the right class.

    Raises:
        ExportError: it is no segmentor, an image has no label map, or there is no image.
    """
    if predictor.task != SEGMENTATION:
        raise ExportError(f"mIoU is a figure of segmentors, got a network for {predictor.task}")
    confusion = np.zeros((len(predictor.classes),) * 2, dtype=np.int64)
    for file, label_map in tqdm(label_map_pairs(image_root, label_maps), desc="evaluating"):
        found = predictor(read_image(file))
        if isinstance(found, LabelMap):
            confusion += confusion_of(read_label_map(label_map), found.labels, len(predictor.classes))
    right, union = confusion.diagonal(), confusion.sum(axis=0) + confusion.sum(axis=1) - confusion.diagonal()
    ious = right[union > 0] / union[union > 0]
    return {"mIoU": 100 * float(ious.mean()), "aAcc": 100 * float(right.sum() / confusion.sum())}


def label_map_pairs(image_root: Path, label_maps: Path) -> list[tuple[Path, Path]]:
    """Images with their label maps, which are PNGs of the same names.

    Raises:
        ExportError: an image has no label map, or there is no image.
    """
    files = sorted(file for file in image_root.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ExportError(f"there is no image in {image_root}")
    pairs = [(file, label_maps / f"{file.stem}.png") for file in files]
    for file, label_map in pairs:
        if not label_map.is_file():
            raise ExportError(f"{file} has no label map {label_map}")
    return pairs


def confusion_of(truth: np.ndarray, found: np.ndarray, number: int) -> np.ndarray:
    """Pixels (number, number) by their true class and the one that was found, of those that are labelled.

    Args:
        truth: indices of classes (H, W); below 0 or from ``number`` on where nothing is labelled.
        found: likewise, all of them indices.
        number: of classes.
    """
    known = (truth >= 0) & (truth < number)
    return np.bincount(truth[known] * number + found[known], minlength=number**2).reshape(number, number)


def compare_figures(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """A table: figures of the two, and the change in percentage points."""
    lines = [f"  {'percent':<10} {'float32':>8} {'int8':>8} {'change':>8}"]
    lines += [
        f"  {name:<10} {value:>8.2f} {after[name]:>8.2f} {after[name] - value:>+8.2f}" for name, value in before.items()
    ]
    return "\n".join(lines)
