"""Segmentations in COCO's json, polygons and run-length codes: what can be used of them, and their area.

pycocotools trusts what it is given: a NaN or an outline that goes back and forth takes any amount of memory there, and
a code that is too short gives pixels that nobody wrote.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

_MAX_OUTLINE = 1_000_000  # pixels along the polygons of an object, for each of which pycocotools takes about 100 bytes


def is_number(value: Any) -> bool:
    """Return whether a value of a json is a finite number of a usual size, and neither true nor false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e18 < value < 1e18


def usable_mask(given: Any, width: int, height: int) -> tuple[Any, str]:
    """Return a segmentation as COCO writes it, or None; and what could not be used of it."""
    if isinstance(given, dict):
        return _usable_rle(given, width, height)
    if not isinstance(given, list):
        return None, "neither a list of polygons nor a run-length encoding"
    flat = all(isinstance(v, (int, float)) for v in given) or _are_pairs(given)
    parts = [given] if flat else given
    polygons = [[v for pair in part for v in pair] if _are_pairs(part) else part for part in parts]
    reasons = [_wrong_with_polygon(polygon, width, height) for polygon in polygons]
    whole = [polygon for polygon, reason in zip(polygons, reasons, strict=True) if not reason]
    reason = next(filter(None, reasons), "")
    if not whole or reason.startswith("a coordinate"):
        return None, reason
    if _outlines_are_longer(whole, _MAX_OUTLINE, 3 * max(width, height)):
        return None, f"the outline is longer than {_MAX_OUTLINE} pixels"
    unchanged = len(whole) == len(given) and all(one is other for one, other in zip(whole, given, strict=True))
    return (given if unchanged else whole), reason


def _are_pairs(values: Any) -> bool:
    """Return whether a value is ``[[x, y], [x, y], [x, y], ...]``."""
    return (
        isinstance(values, list)
        and len(values) >= 3
        and all(isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)) for pair in values)
    )


def _wrong_with_polygon(polygon: Any, width: int, height: int) -> str:
    # Of each object, so in builtins without a loop: COCO has twenty million coordinates.
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
        return "a polygon is not a list of numbers"
    if math.inf in polygon or -math.inf in polygon or any(map(operator.ne, polygon, polygon)):
        return "a coordinate is NaN or infinite"
    for values, size in ((polygon[::2], width), (polygon[1::2], height)):
        if values and not -size <= min(values) <= max(values) <= 2 * size:
            return "a coordinate is far outside the image"
    if len(polygon) < 6:
        return "a polygon has fewer than three points"
    return "a polygon has an odd number of coordinates" if len(polygon) % 2 else ""


def _outlines_are_longer(polygons: list[list[float]], limit: int, longest_edge: int) -> bool:
    if sum(map(len, polygons)) // 2 * longest_edge <= limit:  # of nearly all objects
        return False
    outlines = (np.array(polygon).reshape(-1, 2) for polygon in polygons)
    return sum(float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()) for points in outlines) > limit


def _usable_rle(given: dict[str, Any], width: int, height: int) -> tuple[Any, str]:
    size, counts = given.get("size"), given.get("counts")
    if not isinstance(counts, (list, str)) or not isinstance(size, list):
        return None, "a run-length encoding lacks size or counts"
    if size != [height, width]:
        return None, "a run-length encoding's size is not [height, width] of its image"
    runs = _decode_counts(counts) if isinstance(counts, str) else counts
    if runs is None:
        return None, "the counts of a run-length encoding are not in COCO's format"
    if not all(isinstance(v, int) and v >= 0 for v in runs):
        return None, "the counts of a run-length encoding are not lengths"
    if sum(runs) != width * height:
        return None, "the counts of a run-length encoding do not add up to the image size"
    return (given if all(type(side) is int for side in size) else {**given, "size": [height, width]}), ""


def _decode_counts(counts: str) -> list[int] | None:
    """Decode COCO's compressed counts, as ``rleFrString`` of pycocotools does; None where they are not COCO's.

    A character holds five bits of a number, lowest first, and a sixth that says whether more follow; from the fourth
    on, a number is the difference to the one before the last.
    """
    codes = np.array([ord(character) - 48 for character in counts], dtype=np.int64)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 6:  # no run is longer than 32 bits
        return None
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((codes & 31) << 5 * place, starts)
    negative = codes[ends] & 16 != 0
    numbers[negative] -= 1 << 5 * (place[ends][negative] + 1)
    for first in (1, 2):
        numbers[first::2] = numbers[first::2].cumsum()
    runs: list[int] = numbers.tolist()
    return runs


def lies_in_box(mask: Any, box: list[float]) -> bool:
    """Return whether some of a usable segmentation can lie in its box: a code has pixels, a polygon meets the box."""
    if isinstance(mask, dict):
        runs = _decode_counts(mask["counts"]) if isinstance(mask["counts"], str) else mask["counts"]
        return any(runs[1::2]) if runs else False
    x, y, width, height = box
    return any(
        max(x, min(polygon[::2])) < min(x + width, max(polygon[::2]))
        and max(y, min(polygon[1::2])) < min(y + height, max(polygon[1::2]))
        for polygon in mask
    )


def area_of(mask: Any, box: list[float], width: int, height: int) -> float:
    """Return the area in pixels of a usable segmentation, or of the box where there is none."""
    from pycocotools import mask as coco_mask

    if not mask:
        return float(box[2] * box[3])
    if not (isinstance(mask, dict) and isinstance(mask["counts"], str)):
        codes = coco_mask.frPyObjects(mask, height, width)
        mask = coco_mask.merge(codes) if isinstance(codes, list) else codes
    return float(coco_mask.area(mask))
