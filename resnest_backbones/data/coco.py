"""Whether a COCO instances file can be trained on and evaluated: its values, not only its keys.

What COCO's rules determine is filled in, in memory: ids of annotations, ``iscrowd``, ``area``, and polygons that are
written as one flat list or as pairs. What remains wrong is a problem, or is left out and counted in a line.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnest_backbones.data.coco_masks import area_of, is_number, lies_in_box, usable_mask
from resnest_backbones.data.images import read_size
from resnest_backbones.errors import DatasetError, name_first

_MARGIN = 1.0  # pixels that a box may reach beyond its image by rounding
_LARGEST_AREA = 1e10  # that COCO's evaluation takes into account

Record = dict[str, Any]
Sizes = dict[Any, tuple[int, int]]  # id of an image -> its width and height


def read_coco_json(json_file: Path, image_root: Path) -> tuple[Record, list[str], bool]:
    """Read a COCO instances file, check its values, and fill in what follows from them.

    Returns:
        The content as Detectron2 and pycocotools take it; a line for each kind of thing that was filled in, left out
        or looks wrong; whether they would read something else from the file, or could not read it.

    Raises:
        DatasetError: the file cannot be used; the message names it and counts each kind of problem with its first ids.
    """
    content, is_utf_8 = _read_json(json_file, ("images", "annotations", "categories"))
    if not image_root.is_dir():
        raise DatasetError(f"{image_root} is not a folder of images (for {json_file})")
    check = _Check(json_file)
    check.categories(content)
    check.images(content["images"], image_root)
    check.end()
    check.ids(content)
    check.end()
    annotations = content["annotations"]
    sizes: Sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    if annotations:
        unusable = check.boxes(annotations, sizes)
        check.masks(annotations, sizes, unusable)
        check.crowds_and_areas(annotations, sizes)
    return content, check.notes, check.changed or not is_utf_8


def read_category_names(json_file: Path) -> list[str]:
    """Return the names of the categories of a json in the order of their ids, whatever else it holds.

    Raises:
        DatasetError: the file cannot be read, or its categories lack ids or names.
    """
    content, _ = _read_json(json_file, ("categories",))
    check = _Check(json_file)
    check.categories(content)
    check.end()
    return [category["name"] for category in sorted(content["categories"], key=lambda category: category["id"])]


def _read_json(file: Path, keys: Sequence[str]) -> tuple[Record, bool]:
    """Return the content, and whether it is UTF-8 without a byte order mark."""
    try:
        text = file.read_bytes()
        content = json.loads(text)  # detects UTF-8, -16 and -32, with a byte order mark or without
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of json, and of the decoding
        raise DatasetError(f"{file} is not JSON: {error}") from error
    lists = content if isinstance(content, dict) else {}
    if wrong := [
        repr(key)
        for key in keys
        if not isinstance(lists.get(key), list) or not all(isinstance(value, dict) for value in lists[key])
    ]:
        raise DatasetError(f"{file} is not a COCO instances file: it has no list of objects {' and '.join(wrong)}")
    if empty := [key for key in keys if not content[key] and key != "annotations"]:
        raise DatasetError(f"{file} has no {empty[0]}")
    return content, json.detect_encoding(text) == "utf-8"


def _as_id(value: Any) -> Any:
    """Return 3 for 3.0, a string or an integer as it is, and None for what is no id."""
    if isinstance(value, str):
        return value
    return int(value) if is_number(value) and value == int(value) else None


class _Check:
    """The checks of a file's parts, which change its content in place: each may rely on those before it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.changed = False

    def end(self) -> None:
        """Raise a ``DatasetError`` with the problems, where there are any."""
        if self.problems:
            raise DatasetError(f"{self.file} cannot be used:\n  " + "\n  ".join(self.problems))

    def problem(self, what: str, which: Sequence[Any]) -> None:
        self.problems += count_and_name(what, which)

    def note(self, what: str, which: Sequence[Any]) -> None:
        self.notes += count_and_name(what, which)

    def put(self, record: Record, key: str, value: Any) -> None:
        if record.get(key) != value or type(record.get(key)) is not type(value):
            record[key] = value
            self.changed = True

    def tidy_ids(self, records: Iterable[Record], *keys: str) -> None:
        """Write 3 for 3.0."""
        for record in records:
            for key in keys:
                if (value := _as_id(record.get(key))) is not None:
                    self.put(record, key, value)

    def categories(self, content: Record) -> None:
        categories = content["categories"]
        self.tidy_ids(categories, "id")
        named = [isinstance(c.get("name"), str) and c["name"] != "" for c in categories]
        self.problem(
            "categories lack an integer id or a name",
            [c.get("name") or c.get("id") for c, has_name in zip(categories, named, strict=True)
             if not has_name or not isinstance(_as_id(c.get("id")), int)],
        )  # fmt: skip
        if self.problems:
            return
        self.problem("category ids are not unique", _repeated(c["id"] for c in categories))
        # Roboflow lists its super-category beside the classes, at times under the name of one.
        used = {_as_id(annotation.get("category_id")) for annotation in content.get("annotations", [])}
        repeated = set(_repeated(c["name"] for c in categories))
        spare = [c for c in categories if c["name"] in repeated and c["id"] not in used]
        if repeated and len(categories) - len(spare) == len({c["name"] for c in categories}):
            self.note("categories duplicate another's name and have no annotations: left out", [c["id"] for c in spare])
            content["categories"] = [c for c in categories if c not in spare]
            self.changed = True
        else:
            self.problem("category names are not unique", sorted(repeated))

    def images(self, images: list[Record], root: Path) -> None:
        self.tidy_ids(images, "id", "width", "height")
        nameless = [i.get("file_name") for i in images if _as_id(i.get("id")) is None]
        self.problem("images have no id (an integer or a string)", nameless)
        self.problem(
            "images have no file_name", [i.get("id") for i in images if not isinstance(i.get("file_name"), str)]
        )
        self.problem(
            "images have a width or height that is not a positive integer",
            [f"{i.get('id')} ({i.get('width')!r} x {i.get('height')!r})" for i in images
             if not all(isinstance(i.get(key), int) and i[key] > 0 for key in ("width", "height"))],
        )  # fmt: skip
        self.end()
        if len({type(image["id"]) for image in images}) > 1:
            strings = [image["id"] for image in images if isinstance(image["id"], str)]
            self.problem("image ids are strings, while others are numbers", strings)
        self.problem("image ids are not unique", _repeated(image["id"] for image in images))
        self.note("image files are listed more than once", _repeated(image["file_name"] for image in images))
        if absent := [image["file_name"] for image in images if not (root / image["file_name"]).is_file()]:
            self.problem(f"of {len(images)} images are not in {root}", absent)
        else:
            resized = [text for image in images if (text := _other_size(image, root))]
            self.problem("images have a different size, or cannot be read", resized)

    def ids(self, content: Record) -> None:
        annotations = content["annotations"]
        ids = [_as_id(annotation.get("id")) for annotation in annotations]
        self.problem("annotation ids are not unique", _repeated(i for i in ids if i is not None))
        # pycocotools takes the id of a match for a truth value: with an id of 0, a found object counts as missed.
        if any(not isinstance(key, int) or key < 1 for key in ids):
            unfit = [a.get("id") for a, i in zip(annotations, ids, strict=True) if not isinstance(i, int) or i < 1]
            self.note("annotation ids are not positive integers: all were renumbered", unfit)
            ids = list(range(1, len(annotations) + 1))
        for annotation, key in zip(annotations, ids, strict=True):
            self.put(annotation, "id", key)
        self.tidy_ids(annotations, "image_id", "category_id")
        for key, owners in (("image_id", "images"), ("category_id", "categories")):
            known = {item["id"] for item in content[owners]}
            lost = [a for a in annotations if _as_id(a.get(key)) is None or a[key] not in known]
            which = [f"{a['id']} ({key} {a.get(key)!r})" for a in lost]
            self.problem(f"annotations have a {key} that is not in the file", which)

    def boxes(self, annotations: list[Record], sizes: Sizes) -> set[int]:
        """Return the ids of annotations whose boxes cannot be trained on."""
        ids = np.array([annotation["id"] for annotation in annotations], dtype=object)
        unsound = [a["id"] for a in annotations if not _are_numbers(a.get("bbox")) or len(a["bbox"]) != 4]
        self.problem("annotations have no bbox of four numbers [x, y, width, height]", unsound)
        self.end()
        x, y, w, h = np.array([a["bbox"] for a in annotations], dtype=np.float64).T
        width, height = np.array([sizes[a["image_id"]] for a in annotations], dtype=np.float64).T
        self.problem("boxes have a negative width or height", ids[(w < 0) | (h < 0)])
        self.end()
        is_empty = (w == 0) | (h == 0)
        is_outside = ~is_empty & ((x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0))
        overlaps = (x + w > width + _MARGIN) | (y + h > height + _MARGIN) | (np.minimum(x, y) < -_MARGIN)
        is_beyond = ~is_empty & ~is_outside & overlaps
        is_fraction = ~is_empty & ~is_outside & ~is_beyond & (np.maximum.reduce([x, y, w, h]) <= 1.01)
        empty, outside, beyond, fractions = (ids[mask] for mask in (is_empty, is_outside, is_beyond, is_fraction))
        corners = (x < w) & (w <= width + _MARGIN) & (y < h) & (h <= height + _MARGIN)
        as_corners = corners.mean() >= 0.95
        as_fractions = "lie between 0 and 1, like fractions of the image"
        if len(fractions) + len(empty) >= len(ids) / 2 and len(fractions):
            self.problem(f"boxes {as_fractions}: multiply them by width and height", fractions)
        elif as_corners and len(beyond) + len(outside) >= len(ids) / 4:
            text = "boxes extend beyond their images but would fit as x0, y0, x1, y1: write x, y, width, height"
            self.problem(text, [*beyond, *outside])
        elif len(empty) + len(outside) == len(ids):
            self.problem("boxes have no width or no height", empty)
            self.problem("boxes lie outside their images", outside)
        self.end()
        likely = ", as x0, y0, x1, y1 would" if as_corners else ""
        self.note(f"boxes {as_fractions} would", fractions)
        self.note("boxes have no width or no height and are not used for training", empty)
        self.note("boxes lie outside their images and are not used for training", outside)
        self.note(f"boxes extend beyond their images{likely}: they are clipped", beyond)
        return {*empty, *outside}

    def masks(self, annotations: list[Record], sizes: Sizes, unusable_boxes: set[int]) -> None:
        rewritten: list[int] = []
        dropped: list[int] = []
        apart: list[Record] = []
        unusable: defaultdict[str, list[Any]] = defaultdict(list)
        masked = [annotation for annotation in annotations if annotation.get("segmentation")]
        for annotation in masked:
            given = annotation["segmentation"]
            mask, reason = usable_mask(given, *sizes[annotation["image_id"]])
            if mask is None:
                unusable[reason].append(annotation["id"])
                annotation["segmentation"] = []
            elif annotation["id"] not in unusable_boxes and not lies_in_box(mask, annotation["bbox"]):
                apart.append(annotation)
            if mask is not None and mask is not given:
                annotation["segmentation"] = mask
                if isinstance(mask, list):
                    (dropped if reason else rewritten).append(annotation["id"])
            self.changed = self.changed or mask is not given
        if apart and len(apart) == sum(bool(annotation["segmentation"]) for annotation in masked):
            unusable["none has an area in its box"] = [annotation["id"] for annotation in apart]
            for annotation in apart:
                annotation["segmentation"] = []
            self.changed = True
        else:
            self.note("segmentations have no area in their boxes, and give no mask", [a["id"] for a in apart])
        self.note("segmentations are one flat list or pairs of coordinates: read as polygons", rewritten)
        self.note("segmentations have an unusable polygon next to valid ones: it is left out", dropped)
        for reason, ids in unusable.items():
            self.note(f"segmentations cannot be used: {reason}", ids)

    def crowds_and_areas(self, annotations: list[Record], sizes: Sizes) -> None:
        for key in ("iscrowd", "ignore"):
            wrong = [f"{a['id']} ({a[key]!r})" for a in annotations if a.get(key) not in (None, 0, 1)]
            self.problem(f"annotations have an {key} that is not 0 or 1", wrong)
        self.problem(
            f"annotations have an area that is not a number from 0 to {_LARGEST_AREA:g}",
            [f"{a['id']} ({a['area']!r})" for a in annotations
             if a.get("area") is not None and not (is_number(a["area"]) and 0 <= a["area"] <= _LARGEST_AREA)],
        )  # fmt: skip
        self.end()
        unsound = [a for a in annotations if a.get("keypoints") and not _are_numbers(a["keypoints"])]
        self.note("keypoints are not a list of numbers: left out", [a["id"] for a in unsound])
        for annotation in unsound:
            del annotation["keypoints"]
        self.changed = self.changed or bool(unsound) or any(a.get("ignore", 0) != 0 for a in annotations)
        ignored = [a["id"] for a in annotations if a.pop("ignore", 0)]
        self.note('annotations are marked "ignore": treated as crowds', ignored)
        flags = set(ignored)
        lacking = {key: [a["id"] for a in annotations if a.get(key) is None] for key in ("iscrowd", "area")}
        self.note("annotations lack iscrowd: assumed to be 0", lacking["iscrowd"])
        self.note("annotations lack area: computed from the mask or the box", lacking["area"])
        for annotation in annotations:
            self.put(annotation, "iscrowd", int(annotation["id"] in flags or annotation.get("iscrowd") or 0))
            if annotation.get("area") is None:
                size = sizes[annotation["image_id"]]
                self.put(annotation, "area", area_of(annotation.get("segmentation"), annotation["bbox"], *size))


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(map(is_number, values))


def _other_size(image: Record, root: Path) -> str | None:
    """Compare with the size after the turn that the image's EXIF asks for, which all readers apply."""
    file = root / image["file_name"]
    try:
        turned, (width, height) = read_size(file)
    except DatasetError as error:
        return f"{image['file_name']} ({str(error).removeprefix(f'{file} ')})"
    if turned == (image["width"], image["height"]):
        return None
    after = f" after EXIF rotation, {width} x {height} before" if turned != (width, height) else ""
    listed = f"listed {image['width']} x {image['height']}"
    return f"{image['file_name']} (is {turned[0]} x {turned[1]}{after}, {listed})"


def _repeated(ids: Iterable[Any]) -> list[Any]:
    return [key for key, count in Counter(ids).items() if count > 1]


def count_and_name(what: str, which: Sequence[Any]) -> list[str]:
    """Return a line that counts and names what is wrong, or no line where nothing is."""
    return [f"{len(which)} {what}: {name_first(which)}"] if len(which) else []
