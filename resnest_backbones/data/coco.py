"""Whether a COCO instances file can be trained on and evaluated: its values, not only its keys.

What COCO's rules determine is filled in, in memory: ids of annotations, ``iscrowd``, ``area``, and polygons that are
written as one flat list or as pairs. What remains wrong is a problem, or is left out and counted in a line.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pycocotools import mask as coco_mask

from resnest_backbones.errors import DatasetError

_MAX_NAMED = 3  # in a message, of each kind
_ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 swap width and height
_MARGIN = 1.0  # pixels that a box may reach beyond its image by rounding

Record = dict[str, Any]


def read_coco_json(json_file: Path, image_root: Path) -> tuple[Record, list[str], bool]:
    """Read a COCO instances file, check its values, and fill in what follows from them.

    Returns:
        The content as Detectron2 and pycocotools take it; a line for each kind of thing that was filled in, left out
        or looks wrong; whether the content differs from the file's.

    Raises:
        DatasetError: the file cannot be used; the message names it and counts each kind of problem with its first ids.
    """
    content = _read_json(json_file)
    if not image_root.is_dir():
        raise DatasetError(f"{image_root} is not a folder of images (for {json_file})")
    check = _Check(content, image_root)
    if check.problems:
        raise DatasetError(f"{json_file} cannot be used:\n  " + "\n  ".join(check.problems))
    return content, check.notes, check.changed


def _read_json(file: Path) -> Record:
    try:
        content = json.loads(file.read_bytes())  # detects UTF-8, -16 and -32, with a byte order mark or without
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of json, and of the decoding
        raise DatasetError(f"{file} is not json: {error}") from error
    wrong = [key for key in ("images", "annotations", "categories") if not _is_list_of_dicts(content, key)]
    if wrong:
        raise DatasetError(
            f"{file} is not a COCO instances file: it has no list of objects {' and '.join(map(repr, wrong))}"
        )
    for key in ("images", "categories"):
        if not content[key]:
            raise DatasetError(f"{file} has no {key}")
    return content


def _is_list_of_dicts(content: Any, key: str) -> bool:
    values = content.get(key) if isinstance(content, dict) else None
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


def _is_number(value: Any) -> bool:
    """Return whether a value of a json is a finite number, and neither true nor false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _as_id(value: Any) -> Any:
    """Return 3 for 3.0, a string or an integer as it is, and None for what is no id."""
    if isinstance(value, str):
        return value
    return int(value) if _is_number(value) and value == int(value) else None


class _Check:
    """Goes through a content once, and changes it in place."""

    def __init__(self, content: Record, root: Path) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.changed = False
        self._categories(content)
        self._images(content["images"], root)
        if self.problems:
            return
        self._annotation_ids(content)
        if not self.problems:
            sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
            self._boxes(content["annotations"], sizes)
        if not self.problems:
            self._masks(content["annotations"], sizes)
            self._crowds_and_areas(content["annotations"], sizes)

    def _problem(self, what: str, which: Sequence[Any]) -> None:
        self.problems += count_and_name(what, which)

    def _note(self, what: str, which: Sequence[Any]) -> None:
        self.notes += count_and_name(what, which)

    def _set(self, record: Record, key: str, value: Any) -> None:
        if record.get(key) != value or type(record.get(key)) is not type(value):
            record[key] = value
            self.changed = True

    def _categories(self, content: Record) -> None:
        categories = content["categories"]
        for category in categories:
            self._set(category, "id", _as_id(category.get("id")))
        if not all(isinstance(c["id"], int) and isinstance(c.get("name"), str) for c in categories):
            self.problems.append("a category lacks an integer id or a name")
            return
        self._problem("category ids are not unique", _repeated(c["id"] for c in categories))
        # Roboflow lists its super-category beside the classes, at times under the name of one.
        used = {_as_id(annotation.get("category_id")) for annotation in content["annotations"]}
        repeated = set(_repeated(c["name"] for c in categories))
        spare = [c for c in categories if c["name"] in repeated and c["id"] not in used]
        if repeated and len(categories) - len(spare) == len({c["name"] for c in categories}):
            self._note("categories have the name of another and no annotations: left out", [c["id"] for c in spare])
            content["categories"] = [c for c in categories if c not in spare]
            self.changed = True
        else:
            self._problem("category names are not unique", sorted(repeated))

    def _images(self, images: list[Record], root: Path) -> None:
        for image in images:
            for key in ("id", "width", "height"):
                if (value := _as_id(image.get(key))) is not None:
                    self._set(image, key, value)
        types: dict[str, Any] = {"id": (int, str), "file_name": str, "width": int, "height": int}
        incomplete = [
            i.get("id", i) for i in images if not all(isinstance(i.get(k), kind) for k, kind in types.items())
        ]
        if incomplete:
            self._problem("images lack id, file_name, width or height", incomplete)
            return
        if len({type(image["id"]) for image in images}) > 1:
            self._problem(
                "image ids are strings, and the others numbers", _where(images, lambda i: isinstance(i["id"], str))
            )
        self._problem("image ids are not unique", _repeated(image["id"] for image in images))
        if absent := [image["file_name"] for image in images if not (root / image["file_name"]).is_file()]:
            self._problem(f"of {len(images)} images are not in {root}", absent)
        else:
            resized = [text for image in images if (text := _other_size(image, root))]
            self._problem("images have another size, or cannot be read", resized)

    def _annotation_ids(self, content: Record) -> None:
        annotations = content["annotations"]
        ids = [_as_id(annotation.get("id")) for annotation in annotations]
        self._problem("annotation ids are not unique", _repeated(i for i in ids if i is not None))
        # pycocotools takes the id of a match for a truth value: with an id of 0, a found object counts as missed.
        if unfit := [
            a.get("id") for a, key in zip(annotations, ids, strict=True) if not isinstance(key, int) or key < 1
        ]:
            self._note("annotation ids are not positive integers: all were numbered anew", unfit)
            ids = list(range(1, len(annotations) + 1))
        for annotation, key in zip(annotations, ids, strict=True):
            self._set(annotation, "id", key)
        for key, owners in (("image_id", "images"), ("category_id", "categories")):
            known = {item["id"] for item in content[owners]}
            for annotation in annotations:
                if (value := _as_id(annotation.get(key))) is not None:
                    self._set(annotation, key, value)
            lost = [a for a in annotations if not isinstance(a.get(key), (int, str)) or a[key] not in known]
            which = [f"{a['id']} ({key} {a.get(key)})" for a in lost]
            self._problem(f"annotations have a {key} that is not in the file", which)

    def _boxes(self, annotations: list[Record], sizes: dict[Any, tuple[int, int]]) -> None:
        self._problem(
            "annotations have no bbox of four numbers [x, y, width, height]",
            _where(annotations, lambda a: not _is_box(a.get("bbox"))),
        )
        if self.problems or not annotations:
            return
        empty, outside, beyond, corners = [], [], [], True
        for annotation in annotations:
            (x, y, w, h), (width, height) = annotation["bbox"], sizes[annotation["image_id"]]
            if w == 0 or h == 0:
                empty.append(annotation["id"])
            elif x >= width or y >= height or x + w <= 0 or y + h <= 0:
                outside.append(annotation["id"])
            elif x + w > width + _MARGIN or y + h > height + _MARGIN or min(x, y) < -_MARGIN:
                beyond.append(annotation["id"])
            corners = corners and x < w <= width + _MARGIN and y < h <= height + _MARGIN
        unusable = len(empty) + len(outside)
        if all(value <= 1 for a in annotations for value in a["bbox"]):
            self._problem(
                "boxes lie between 0 and 1, as fractions of the image: multiply them by width and height",
                [a["id"] for a in annotations],
            )
        elif corners and len(beyond) + len(outside) >= len(annotations) / 4:
            self._problem(
                "boxes reach beyond their images, and all would fit as x0, y0, x1, y1: write x, y, width, height",
                beyond + outside,
            )
        elif unusable == len(annotations):
            self._problem("boxes have no width or no height", empty)
            self._problem("boxes lie outside their images", outside)
        else:
            likely = ", as x0, y0, x1, y1 would" if corners else ""
            self._note("boxes have no width or no height and are not trained on", empty)
            self._note("boxes lie outside their images and are not trained on", outside)
            self._note(f"boxes reach beyond their images{likely}: they are cut off", beyond)

    def _masks(self, annotations: list[Record], sizes: dict[Any, tuple[int, int]]) -> None:
        rewritten: list[int] = []
        dropped: list[int] = []
        first: dict[str, list[Any]] = {}
        for annotation in annotations:
            given = annotation.get("segmentation")
            if not given:
                continue
            mask, reason = _usable_mask(given, *sizes[annotation["image_id"]])
            if mask is None:
                first.setdefault(reason, []).append(annotation["id"])
                annotation["segmentation"] = []
                self.changed = True
            elif mask is not given:
                (dropped if reason else rewritten).append(annotation["id"])
                annotation["segmentation"] = mask
                self.changed = True
        self._note("segmentations are written as one flat list or as pairs: read as polygons", rewritten)
        self._note("segmentations have a polygon that cannot be used beside others: it is left out", dropped)
        for reason, ids in first.items():
            self._note(f"segmentations cannot be used: {reason}", ids)

    def _crowds_and_areas(self, annotations: list[Record], sizes: dict[Any, tuple[int, int]]) -> None:
        self._problem(
            "annotations have an iscrowd that is not 0 or 1",
            [f"{a['id']} ({a['iscrowd']!r})" for a in annotations if a.get("iscrowd") not in (None, 0, 1)],
        )
        self._problem(
            "annotations have an area that is not a number",
            [
                f"{a['id']} ({a['area']!r})"
                for a in annotations
                if a.get("area") is not None and not _is_number(a["area"])
            ],
        )
        if self.problems:
            return
        self.changed = self.changed or any(a.get("ignore", 0) != 0 for a in annotations)
        ignored = [a["id"] for a in annotations if a.pop("ignore", 0)]
        self._note('annotations are to be ignored ("ignore"): taken as crowds', ignored)
        flags = set(ignored)
        self._note("annotations lack iscrowd: taken as 0", _where(annotations, lambda a: a.get("iscrowd") is None))
        self._note(
            "annotations lack area: computed from the mask or the box",
            _where(annotations, lambda a: a.get("area") is None),
        )
        for annotation in annotations:
            self._set(annotation, "iscrowd", int(annotation["id"] in flags or annotation.get("iscrowd") or 0))
            if annotation.get("area") is None:
                self._set(annotation, "area", _area(annotation, *sizes[annotation["image_id"]]))


def _where(records: Iterable[Record], wrong: Callable[[Record], bool]) -> list[Any]:
    return [record["id"] for record in records if wrong(record)]


def _is_box(box: Any) -> bool:
    """Return whether a value is ``[x, y, width, height]``, of finite numbers and no negative size."""
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and box[2] >= 0 and box[3] >= 0


def _other_size(image: Record, root: Path) -> str | None:
    """Compare with the size after the turn that the image's EXIF asks for, which all readers apply."""
    try:
        with Image.open(root / image["file_name"]) as opened:
            (width, height), turn = opened.size, _orientation(opened)
    except (OSError, ValueError) as error:
        return f"{image['file_name']} ({error})"
    turned = (height, width) if turn in (5, 6, 7, 8) else (width, height)
    listed = (image["width"], image["height"])
    if turned == listed:
        return None
    after = f" after its EXIF turn, {width} x {height} before" if turned != (width, height) else ""
    return f"{image['file_name']} (is {turned[0]} x {turned[1]}{after}, listed {listed[0]} x {listed[1]})"


def _orientation(image: Image.Image) -> int:
    # Pillow decodes a whole PNG to look for EXIF behind the pixels, where no camera writes it.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(_ORIENTATION, 1))


def _usable_mask(given: Any, width: int, height: int) -> tuple[Any, str]:
    """Return a segmentation as COCO writes it, or None; and what could not be used of it."""
    if isinstance(given, dict):
        return _usable_rle(given, width, height)
    if not isinstance(given, list):
        return None, "neither a list of polygons nor a run-length code"
    flat = all(isinstance(v, (int, float)) for v in given) or _are_pairs(given)
    parts = [given] if flat else given
    polygons = [[v for pair in part for v in pair] if _are_pairs(part) else part for part in parts]
    reasons = [_wrong_with_polygon(polygon, width, height) for polygon in polygons]
    whole = [polygon for polygon, reason in zip(polygons, reasons, strict=True) if not reason]
    reason = next(filter(None, reasons), "")
    if not whole or reason.startswith("a coordinate"):
        return None, reason
    unchanged = len(whole) == len(given) and all(one is other for one, other in zip(whole, given, strict=True))
    return (given if unchanged else whole), reason


def _are_pairs(values: Any) -> bool:
    """Return whether a value is ``[[x, y], [x, y], [x, y], ...]``."""
    return (
        isinstance(values, list)
        and len(values) >= 3
        and all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in values)
    )


def _wrong_with_polygon(polygon: Any, width: int, height: int) -> str:
    if not isinstance(polygon, list) or not all(isinstance(v, (int, float)) for v in polygon):
        return "a polygon is not a list of numbers"
    if not all(map(_is_number, polygon)):
        return "a coordinate is NaN or infinite"
    # pycocotools takes memory in proportion to the length of an outline.
    if any(not -size <= v <= 2 * size for v, size in zip(polygon, [width, height] * len(polygon), strict=False)):
        return "a coordinate is far outside the image"
    if len(polygon) < 6:
        return "a polygon has fewer than three points"
    return "a polygon has an odd number of coordinates" if len(polygon) % 2 else ""


def _usable_rle(given: Record, width: int, height: int) -> tuple[Any, str]:
    size, counts = given.get("size"), given.get("counts")
    if not isinstance(counts, (list, str)) or not isinstance(size, list):
        return None, "a run-length code lacks size or counts"
    if size != [height, width]:
        return None, "a run-length code has another size than [height, width] of its image"
    if isinstance(counts, list) and not all(isinstance(v, int) and v >= 0 for v in counts):
        return None, "the counts of a run-length code are not lengths"
    if isinstance(counts, list) and sum(counts) != width * height:
        return None, "the counts of a run-length code do not add up to the image"
    if isinstance(counts, str) and not all(48 <= ord(c) < 112 for c in counts):
        return None, "the counts of a run-length code are not COCO's"
    return given, ""


def _area(annotation: Record, width: int, height: int) -> float:
    mask = annotation.get("segmentation")
    if not mask:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    if isinstance(mask, dict) and isinstance(mask["counts"], str):
        return float(coco_mask.area(mask))
    return float(coco_mask.area(coco_mask.merge(_codes(mask, width, height))))


def _codes(mask: Any, width: int, height: int) -> list[Any]:
    codes = coco_mask.frPyObjects(mask, height, width)
    return codes if isinstance(codes, list) else [codes]


def _repeated(ids: Iterable[Any]) -> list[Any]:
    return [key for key, count in Counter(ids).items() if count > 1]


def count_and_name(what: str, which: Sequence[Any]) -> list[str]:
    """Return a line that counts and names what is wrong, or no line where nothing is."""
    more = f" and {len(which) - _MAX_NAMED} more" if len(which) > _MAX_NAMED else ""
    return [f"{len(which)} {what}: {', '.join(map(str, which[:_MAX_NAMED]))}{more}"] if which else []
