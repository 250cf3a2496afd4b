"""Detections held against ground truth: which are right, which are false, and what was missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from resnest_backbones.predict.pictures import draw_boxes, side_by_side

TITLES = ("ground truth", "predictions", "false positives", "misses")


@dataclass
class Matches:
    """Annotations of one image in COCO's format, by what became of them.

    Attributes:
        right: predictions that found an object of their class.
        false: predictions that found none, or one that a surer prediction had found already.
        missed: objects that no prediction found.
    """

    right: list[Mapping[str, Any]] = field(default_factory=list)
    false: list[Mapping[str, Any]] = field(default_factory=list)
    missed: list[Mapping[str, Any]] = field(default_factory=list)


def match(truth: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]], min_iou: float) -> Matches:
    """Match as COCO does: the surest prediction first, each to the object of its class that it overlaps most.

    Args:
        truth: annotations of an image; crowds take any number of predictions, and cannot be missed.
        predictions: results of the same image, with ``score``.
        min_iou: overlap of boxes, from which on an object counts as found.
    """
    from pycocotools import mask

    found = Matches()
    free = {id(one) for one in truth if not one.get("iscrowd")}
    for prediction in sorted(predictions, key=lambda one: -one["score"]):
        objects = [one for one in truth if one["category_id"] == prediction["category_id"]]
        crowds = [int(one.get("iscrowd", 0)) for one in objects]
        overlaps = mask.iou([prediction["bbox"]], [one["bbox"] for one in objects], crowds)[0] if objects else []
        ranked = sorted(zip(overlaps, range(len(objects)), strict=True), reverse=True)
        near = [objects[number] for overlap, number in ranked if overlap >= min_iou]
        taken = next((one for one in near if id(one) in free), None)
        if taken is not None:
            free.remove(id(taken))
            found.right.append(prediction)
        elif not any(one.get("iscrowd") for one in near):
            found.false.append(prediction)
    found.missed = [one for one in truth if id(one) in free]
    return found


def draw(
    image: Image.Image,
    truth: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    matches: Matches,
    names: Mapping[int, str],
    colours: Mapping[int, tuple[int, int, int]],
) -> Image.Image:
    """Four panels: ground truth, predictions, false positives, misses.

    Args:
        image: RGB.
        truth: annotations.
        predictions: results.
        matches: what ``match`` found of them.
        names: of the categories, by their ids.
        colours: likewise.
    """
    panels = (truth, predictions, matches.false, matches.missed)
    counts = (len(truth), len(predictions), len(matches.false), len(matches.missed))
    titles = [f"{title}: {count}" for title, count in zip(TITLES, counts, strict=True)]
    return side_by_side(
        [draw_boxes(image, title, shown, names, colours) for title, shown in zip(titles, panels, strict=True)]
    )


def precisions(evaluation: Any) -> np.ndarray:
    """Precision (thresholds, 101 recalls, classes) of a ``COCOeval``, all areas; NaN for a class that is nowhere."""
    found = evaluation.eval["precision"][:, :, :, 0, -1]
    return np.where(found > -1, found, np.nan)
