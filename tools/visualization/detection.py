"""A detector's boxes compared with the ground truth: right, false, missed; precision-recall curves."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from resnest_backbones.data import read_image
from resnest_backbones.predict.draw import draw_detections
from resnest_backbones.predict.evaluate import coco_results, evaluate_coco, read_truth, summarize
from resnest_backbones.predict.predictor import Detections, Predictor
from visualization.panels import Panel, draw_panels, picture_file

_MAX_CURVES = 20  # classes in one drawing

Boxes = Mapping[str, Any]  # an annotation or a result in COCO's format
Section = tuple[str, str, list[tuple[Path, str]]]  # title, text, and pictures with captions


def visualize_detector(
    args: argparse.Namespace, predictor: Predictor, look: Callable[[Path], Any]
) -> tuple[list[Section], dict[str, str]]:
    """Draw what ``look`` finds in each file; return sections of the page, and facts for its table."""
    truth, categories = read_truth(predictor, args.val_json, args.val_images)
    names = {number: truth.cats[number]["name"] for number in sorted(categories)}
    truth.imgs = {number: truth.imgs[number] for number in sorted(truth.imgs)[: args.max_images]}  # others do not count
    entries = [*truth.imgs.values()]
    results: list[dict[str, Any]] = []
    for entry in tqdm(entries, desc="predicting"):
        results += coco_results(look(args.val_images / entry["file_name"]), entry["id"], categories)
    likely = [one for one in results if one["score"] >= args.min_score]
    right, false, missed = match(truth, likely, args.min_iou)

    pictures = []
    for entry in entries[: args.pictures]:
        image = read_image(args.val_images / entry["file_name"])
        shown = {"ground truth": truth.anns.values(), "predictions": likely, "false positives": false, "misses": missed}
        panels: list[Panel] = []
        for title, boxes in shown.items():
            here = [one for one in boxes if one["image_id"] == entry["id"]]
            panels.append((draw_annotations(image, here, names), f"{title}: {len(here)}"))
        file = args.val_images / entry["file_name"]
        pictures.append((picture_file(args.output_dir / "pictures", file, args.val_images), entry["file_name"]))
        draw_panels([panels], pictures[-1][0])
    text = (
        f"Boxes with a score of at least {args.min_score:g}. A false positive overlaps no object of its class with an "
        f"IoU of {args.min_iou:g}, or only one already matched by a higher-scoring box."
    )
    sections: list[Section] = [("Ground truth, predictions, false positives, misses", text, pictures)]
    facts = {
        "images": str(len(entries)),
        f"correct boxes (score {args.min_score:g}, IoU {args.min_iou:g})": str(len(right)),
        "false positives": str(len(false)),
        "missed objects": str(len(missed)),
    }
    if results:
        evaluation = evaluate_coco(truth, results, "bbox")
        facts |= {name: f"{value:.1f}" for name, value in summarize(evaluation).items()}
        file = args.output_dir / "precision.png"
        draw_precision(evaluation, [*names.values()], file)
        text = "As defined by COCO, for boxes of any score."
        sections.append(("Precision and recall", text, [(file, "precision-recall curves")]))
    return sections, facts


def match(truth: Any, results: Sequence[Boxes], min_iou: float) -> tuple[list[Boxes], list[Boxes], list[Boxes]]:
    """Match results to objects as COCO's evaluation does; a crowd takes any number of results and is never missed.

    Return results that found an object of their class, results that found none (or one that was already taken), and
    objects that none found. ``truth`` is a ``pycocotools.coco.COCO``.
    """
    from pycocotools.cocoeval import COCOeval

    if not results:
        objects = [one for one in truth.anns.values() if one["image_id"] in truth.imgs and not one.get("iscrowd")]
        return [], [], objects
    with contextlib.redirect_stdout(io.StringIO()):
        boxes = [{key: value for key, value in one.items() if key != "segmentation"} for one in results]
        evaluation = COCOeval(truth, truth.loadRes(boxes), "bbox")
        evaluation.params.iouThrs = np.array([min_iou])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [len(results)]
        evaluation.evaluate()
    right, false, missed = [], [], []
    for one in filter(None, evaluation.evalImgs):  # of an image and a class
        for number, found, ignored in zip(one["dtIds"], one["dtMatches"][0], one["dtIgnore"][0], strict=True):
            if not ignored:
                (right if found else false).append(evaluation.cocoDt.anns[number])
        for number, found, ignored in zip(one["gtIds"], one["gtMatches"][0], one["gtIgnore"], strict=True):
            if not found and not ignored:
                missed.append(truth.anns[number])
    return right, false, missed


def draw_annotations(image: np.ndarray, annotations: Sequence[Boxes], names: Mapping[int, str]) -> np.ndarray:
    """Draw annotations or results in COCO's format on an image (H, W, 3), uint8 RGB; ``names`` has their categories."""
    ordered = sorted(annotations, key=lambda one: -one.get("score", 1.0))
    boxes = np.array([one["bbox"] for one in ordered], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([list(names).index(one["category_id"]) for one in ordered], dtype=np.int64)
    scores = np.array([one.get("score", 1.0) for one in ordered])
    found = Detections(boxes, labels, scores, None)
    show_scores = any("score" in one for one in ordered)
    return np.asarray(draw_detections(image, found, [*names.values()], show_scores=show_scores))


def draw_precision(evaluation: Any, names: Sequence[str], file: Path) -> None:
    """Draw precision-recall curves: of each class at the first IoU, and the mean of the classes at several.

    Of more than 20 classes, the ten best and the ten worst. ``evaluation`` is an accumulated ``COCOeval``.
    """
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class) for all areas; -1: class is absent
    recalls, thresholds = evaluation.params.recThrs, evaluation.params.iouThrs
    means = precision[0].mean(axis=0)
    present = [index for index in np.argsort(-means, kind="stable") if means[index] > -1]
    half = _MAX_CURVES // 2
    shown = present if len(present) <= _MAX_CURVES else [*present[:half], *present[-half:]]
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index in shown:
        left.plot(recalls, precision[0, :, index], label=f"{names[index]} {means[index]:.0%}")
    for number in range(0, len(thresholds) if present else 0, 2):
        mean = precision[number][:, present].mean(axis=1)
        right.plot(recalls, mean, label=f"IoU {thresholds[number]:.2f}: {mean.mean():.0%}")
    rest = f", {len(shown)} of {len(present)}" if len(shown) < len(present) else ""
    left.set_title(f"per class at an IoU of {thresholds[0]:.2f}, with its AP{rest}")
    right.set_title("mean of the classes, with its AP")
    for axes in (left, right):
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(file, dpi=110)
