"""Predictions as JSON in COCO's format, and a model's metrics on a labeled dataset: AP by pycocotools, and mIoU."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from resnest_backbones.checkpoint.classes import match_classes
from resnest_backbones.data import check_label_maps, find_class_file, pair_label_maps, read_classes, read_image
from resnest_backbones.data.coco import count_and_name, read_coco_json
from resnest_backbones.data.label_maps import read_labels
from resnest_backbones.errors import DatasetError, ExportError
from resnest_backbones.export.models import DETECTION, SEGMENTATION
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor

logger = logging.getLogger(__name__)
_METRICS = ("AP", "AP50", "AP75")


def describe(found: Detections | LabelMap, classes: Sequence[str]) -> dict[str, Any]:
    """Return predictions as JSON's types: boxes and masks in COCO's format, or the share of each class in the image."""
    if isinstance(found, LabelMap):
        counts = np.bincount(found.labels.ravel(), minlength=len(classes))
        order = np.argsort(-counts, kind="stable")
        return {"shares": {classes[i]: round(counts[i] / found.labels.size, 6) for i in order if counts[i]}}
    things = []
    for number, label in enumerate(found.classes.tolist()):
        thing = {"category": classes[label], "category_index": label, **_coco_result(found, number)}
        things.append({**thing, "score": round(thing["score"], 6), "bbox": [round(x, 3) for x in thing["bbox"]]})
    return {"detections": things}


def coco_results(found: Detections, image: int, categories: Sequence[int]) -> list[dict[str, Any]]:
    """Return detections in COCO's results format, with the id of their image and the ids of the classes, in order."""
    return [
        {"image_id": image, "category_id": categories[label], **_coco_result(found, number)}
        for number, label in enumerate(found.classes.tolist())
    ]


def _coco_result(found: Detections, number: int) -> dict[str, Any]:
    left, top, right, bottom = found.boxes[number].tolist()
    result: dict[str, Any] = {"score": float(found.scores[number]), "bbox": [left, top, right - left, bottom - top]}
    if found.masks is not None:
        from pycocotools import mask as coco_mask

        encoded = coco_mask.encode(np.asfortranarray(found.masks[number], dtype=np.uint8))
        result["segmentation"] = {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}
    return result


def average_precision(predictor: Predictor, json_file: Path, image_root: Path) -> dict[str, float]:
    """Measure COCO's metrics of a detector, in percent.

    Args:
        predictor: a detector; its classes are matched to the file's categories by name, or else in the order of ids.
        json_file: COCO instances.
        image_root: folder of its images.

    Returns:
        ``box AP``, ``box AP50``, ``box AP75``, nan where the file has no objects; and ``mask AP`` and so on if the
        network predicts masks and all annotations have one.

    Raises:
        ExportError: it is not a detector.
        DatasetError: as ``read_coco_json``; or an image cannot be read.
        ImportError: pycocotools is not installed.
    """
    if predictor.task != DETECTION:
        raise ExportError(f"AP is a metric of detectors, got a network for {predictor.task}")
    truth, categories = read_truth(predictor, json_file, image_root)
    with_masks = "masks" in predictor.metadata["outputs"]
    maskless = [one["id"] for one in truth.anns.values() if not one.get("segmentation")]
    for line in count_and_name("annotations have no usable segmentation", maskless) if with_masks else []:
        logger.warning("%s: %s: mask AP is not measured", json_file, line)
    results = []
    for number, entry in tqdm(sorted(truth.imgs.items()), desc="evaluating"):
        found = predictor(read_image(image_root / entry["file_name"]))
        assert isinstance(found, Detections)
        results += coco_results(found, number, categories)
    empty = 0.0 if any(not one.get("iscrowd") for one in truth.anns.values()) else math.nan
    metrics = {f"box {name}": empty for name in _METRICS}
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        if results and (kind == "bbox" or (with_masks and not maskless)):
            measured = summarize(evaluate_coco(truth, results, kind))
            metrics |= {f"{name} {metric}": value for metric, value in measured.items()}
    return metrics


def read_truth(predictor: Predictor, json_file: Path, image_root: Path) -> tuple[Any, list[int]]:
    """Return the ``pycocotools.coco.COCO`` of a file, and its categories' ids in the order of the network's classes.

    Raises:
        DatasetError: as ``read_coco_json``, and ``match_classes`` of the categories and the network's classes.
    """
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset, lines, _ = read_coco_json(json_file, image_root)
    for line in lines:
        logger.warning("%s: %s", json_file, line)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    categories = sorted(truth.getCatIds())
    places = match_classes(predictor.classes, [truth.cats[number]["name"] for number in categories])
    return truth, categories if places is None else [categories[place] for place in places]


def evaluate_coco(truth: Any, results: Sequence[Mapping[str, Any]], kind: str) -> Any:
    """Return the accumulated ``COCOeval`` of a ``COCO`` and results (not empty) for ``bbox`` or ``segm``.

    The last of its ``maxDets`` is 100, as COCO has it, or the most results of an image: a limit below what the model
    gives would count objects as missed.
    """
    from pycocotools.cocoeval import COCOeval

    # COCO takes the area of a result from its box where it has one, so masks are given without.
    other = "segmentation" if kind == "bbox" else "bbox"
    with contextlib.redirect_stdout(io.StringIO()):
        kept = truth.loadRes([{key: value for key, value in result.items() if key != other} for result in results])
        evaluation = COCOeval(truth, kept, kind)
        evaluation.params.maxDets[-1] = limit = max(100, *Counter(result["image_id"] for result in results).values())
        evaluation.evaluate()
        evaluation.accumulate()
    if limit > 100 and kind == "bbox":  # once, of boxes and masks
        logger.warning("AP counts up to %d detections per image, whereas COCO counts 100", limit)
    return evaluation


def summarize(evaluation: Any) -> dict[str, float]:
    """Return AP, AP50 and AP75 of an accumulated ``COCOeval`` in percent; nan where there are no objects."""
    precision = evaluation.eval["precision"][..., 0, -1]  # (IoU, recall, class), of all areas; -1: the class is absent
    wanted = {"AP": precision, "AP50": precision[0], "AP75": precision[5]}
    return {name: 100 * float(p[p > -1].mean()) if (p > -1).any() else math.nan for name, p in wanted.items()}


def mean_iou(predictor: Predictor, image_root: Path, label_maps: Path) -> dict[str, float]:
    """Measure MMSegmentation's metrics of a segmentor, in percent, over all labeled pixels of all images.

    Args:
        predictor: a segmentor.
        image_root: folder of images.
        label_maps: folder of PNGs of the same names, as in ADE20K: label n is the n-th class, 0 is not labeled.

    Returns:
        ``mIoU``, and ``aAcc``, the share of pixels with the right class.

    Raises:
        ExportError: it is not a segmentor.
        DatasetError: there is no image, or an image or a label map is missing or cannot be read.
    """
    if predictor.task != SEGMENTATION:
        raise ExportError(f"mIoU is a metric of segmentors, got a network for {predictor.task}")
    confusion = np.zeros((len(predictor.classes),) * 2, dtype=np.int64)
    pairs, order = label_map_pairs(image_root, label_maps, predictor.classes)
    for file, label_map in tqdm(pairs, desc="evaluating"):
        found = predictor(read_image(file))
        assert isinstance(found, LabelMap)
        truth = order[read_labels(label_map, file, found.labels.shape, len(predictor.classes))]
        confusion += confusion_of(truth, found.labels, len(predictor.classes))
    return metrics_of(confusion)


def label_map_pairs(
    image_root: Path, label_maps: Path, classes: Sequence[str]
) -> tuple[list[tuple[Path, Path]], np.ndarray]:
    """Return images with their label maps, and log what looks wrong in them.

    Where the dataset has a class file (``ROOT/annotations/validation`` beside ``ROOT/classes.txt``), its classes are
    matched to the segmentor's by name.

    Returns:
        The pairs, and an array that has the segmentor's index of each class of the label maps, and last -1, for -1.

    Raises:
        DatasetError: as ``pair_label_maps``, ``check_label_maps`` and ``match_classes``.
    """
    pairs, lines = pair_label_maps(image_root, label_maps)
    of_maps = None
    for root in label_maps.resolve().parents[1::-1]:
        with contextlib.suppress(DatasetError):  # without a class file
            of_maps = read_classes(find_class_file(root))
    places = match_classes(classes, of_maps)
    for line in lines + check_label_maps(pairs, of_maps or classes):
        logger.warning(line)
    return pairs, np.append(range(len(classes)) if places is None else np.argsort(places), -1)


def confusion_of(truth: np.ndarray, found: np.ndarray, number: int) -> np.ndarray:
    """Count labeled pixels by their true class (rows) and the predicted one (columns), of a number of classes.

    Both have indices of classes (H, W); those of ``truth`` are below 0 or from ``number`` on where nothing is labeled.
    """
    known = (truth >= 0) & (truth < number)
    return np.bincount(truth[known] * number + found[known], minlength=number**2).reshape(number, number)


def metrics_of(confusion: np.ndarray) -> dict[str, float]:
    """Return ``mIoU`` and ``aAcc`` in percent of the counts of ``confusion_of``; NaN if no pixel is labeled."""
    right = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    if not union.any():
        return {"mIoU": math.nan, "aAcc": math.nan}
    iou = right[union > 0] / union[union > 0]
    return {"mIoU": 100 * float(iou.mean()), "aAcc": 100 * float(right.sum() / confusion.sum())}
