"""Whether a COCO instances file can be trained on and evaluated: its values, not only its keys.

What COCO's rules determine is filled in, in memory: ids of annotations, ``iscrowd``, ``area``, and polygons that are
written as one flat list or as pairs. What remains wrong is a problem, or is left out and counted in a line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from resnest_backbones.data.coco_masks import area_of, is_number, lies_in_box, usable_mask
from resnest_backbones.data.images import read_size
from resnest_backbones.errors import DatasetError, name_first

_MARGIN = 1.0  # pixels that a box may reach beyond its image by rounding
_LARGEST_AREA = 1e10  # that COCO's evaluation takes into account

Record = dict[str, Any]


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
    check = _Check()
    check.everything(content, image_root)
    check.end(json_file)
    return content, check.notes, check.changed or not is_utf_8


def read_category_names(json_file: Path) -> list[str]:
    """Return the names of the categories of a json in the order of their ids, whatever else it holds.

    Raises:
        DatasetError: the file cannot be read, or its categories lack ids or names.
    """
    content, _ = _read_json(json_file, ("categories",))
    check = _Check()
    check.categories(content)
    check.end(json_file)
    return [category["name"] for category in sorted(content["categories"], key=lambda category: category["id"])]


def _read_json(file: Path, keys: Sequence[str]) -> tuple[Record, bool]:
    """Return the content, and whether it is UTF-8 without a byte order mark."""
    try:
        text = file.read_bytes()
        content = json.loads(text)  # detects UTF-8, -16 and -32, with a byte order mark or without
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of json, and of the decoding
        raise DatasetError(f"{file} is not json: {error}") from error
    if wrong := [key for key in keys if not _is_list_of_dicts(content, key)]:
        raise DatasetError(
            f"{file} is not a COCO instances file: it has no list of objects {' and '.join(map(repr, wrong))}"
        )
    for key in keys:
        if not content[key] and key != "annotations":
            raise DatasetError(f"{file} has no {key}")
    return content, json.detect_encoding(text) == "utf-8"


def _is_list_of_dicts(content: Any, key: str) -> bool:
    values = content.get(key) if isinstance(content, dict) else None
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


def _as_id(value: Any) -> Any:
    """Return 3 for 3.0, a string or an integer as it is, and None for what is no id."""
    if isinstance(value, str):
        return value
    return int(value) if is_number(value) and value == int(value) else None


class _Check:
    """Goes through a content once, and changes it in place."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.changed = False
        self._unusable_boxes: set[int] = set()

    def end(self, file: Path) -> None:
        """Raise a ``DatasetError`` with the problems, where there are any."""
        if self.problems:
            raise DatasetError(f"{file} cannot be used:\n  " + "\n  ".join(self.problems))

    def everything(self, content: Record, root: Path) -> None:
        self.categories(content)
        self._images(content["images"], root)
        if not self.problems:
            self._ids(content)
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

    def categories(self, content: Record) -> None:
        categories = content["categories"]
        for category in categories:
            self._set(category, "id", _as_id(category.get("id")))
        self._problem(
            "categories lack an integer id or a name",
            [c.get("name") or c["id"] for c in categories if not isinstance(c["id"], int) or not c.get("name")
             or not isinstance(c["name"], str)],
        )  # fmt: skip
        if self.problems:
            return
        self._problem("category ids are not unique", _repeated(c["id"] for c in categories))
        # Roboflow lists its super-category beside the classes, at times under the name of one.
        used = {_as_id(annotation.get("category_id")) for annotation in content.get("annotations", [])}
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
        self._problem(
            "images have no id, which is an integer or a string",
            [i.get("file_name") for i in images if not isinstance(_as_id(i.get("id")), (int, str))],
        )
        self._problem(
            "images have no file_name", [i.get("id") for i in images if not isinstance(i.get("file_name"), str)]
        )
        self._problem(
            "images have a width or height that is no positive integer",
            [f"{i.get('id')} ({i.get('width')!r} x {i.get('height')!r})" for i in images
             if not all(isinstance(i.get(key), int) and i[key] > 0 for key in ("width", "height"))],
        )  # fmt: skip
        if self.problems:
            return
        if len({type(image["id"]) for image in images}) > 1:
            self._problem(
                "image ids are strings, and the others numbers", _where(images, lambda i: isinstance(i["id"], str))
            )
        self._problem("image ids are not unique", _repeated(image["id"] for image in images))
        self._note("image files are listed more than once", _repeated(image["file_name"] for image in images))
        if absent := [image["file_name"] for image in images if not (root / image["file_name"]).is_file()]:
            self._problem(f"of {len(images)} images are not in {root}", absent)
        else:
            resized = [text for image in images if (text := _other_size(image, root))]
            self._problem("images have another size, or cannot be read", resized)

    def _ids(self, content: Record) -> None:
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
            lost = [a for a in annotations if _as_id(a.get(key)) is None or a[key] not in known]
            which = [f"{a['id']} ({key} {a.get(key)!r})" for a in lost]
            self._problem(f"annotations have a {key} that is not in the file", which)

    def _boxes(self, annotations: list[Record], sizes: dict[Any, tuple[int, int]]) -> None:
        self._problem(
            "annotations have no bbox of four numbers [x, y, width, height]",
            _where(annotations, lambda a: not _are_numbers(a.get("bbox")) or len(a["bbox"]) != 4),
        )
        if not self.problems:
            self._problem(
                "boxes have a negative width or height", _where(annotations, lambda a: min(a["bbox"][2:]) < 0)
            )
        if self.problems or not annotations:
            return
        empty, outside, beyond, fractions, corners = [], [], [], [], 0
        for annotation in annotations:
            (x, y, w, h), (width, height) = annotation["bbox"], sizes[annotation["image_id"]]
            if w == 0 or h == 0:
                empty.append(annotation["id"])
            elif x >= width or y >= height or x + w <= 0 or y + h <= 0:
                outside.append(annotation["id"])
            elif x + w > width + _MARGIN or y + h > height + _MARGIN or min(x, y) < -_MARGIN:
                beyond.append(annotation["id"])
            elif max(x, y, w, h) <= 1.01:
                fractions.append(annotation["id"])
            corners += x < w <= width + _MARGIN and y < h <= height + _MARGIN
        self._unusable_boxes = {*empty, *outside}
        as_corners = corners >= 0.95 * len(annotations)
        as_fractions = "lie between 0 and 1, as fractions of the image"
        if len(fractions) + len(empty) >= len(annotations) / 2 and fractions:
            self._problem(f"boxes {as_fractions}: multiply them by width and height", fractions)
        elif as_corners and len(beyond) + len(outside) >= len(annotations) / 4:
            self._problem(
                "boxes reach beyond their images, and would fit as x0, y0, x1, y1: write x, y, width, height",
                beyond + outside,
            )
        elif len(empty) + len(outside) == len(annotations):
            self._problem("boxes have no width or no height", empty)
            self._problem("boxes lie outside their images", outside)
        else:
            likely = ", as x0, y0, x1, y1 would" if as_corners else ""
            self._note(f"boxes {as_fractions} would", fractions)
            self._note("boxes have no width or no height and are not trained on", empty)
            self._note("boxes lie outside their images and are not trained on", outside)
            self._note(f"boxes reach beyond their images{likely}: they are cut off", beyond)

    def _masks(self, annotations: list[Record], sizes: dict[Any, tuple[int, int]]) -> None:
        rewritten: list[int] = []
        dropped: list[int] = []
        apart: list[Record] = []
        first: dict[str, list[Any]] = {}
        for annotation in annotations:
            given = annotation.get("segmentation")
            if not given:
                continue
            mask, reason = usable_mask(given, *sizes[annotation["image_id"]])
            if mask is None:
                first.setdefault(reason, []).append(annotation["id"])
                annotation["segmentation"] = []
                self.changed = True
                continue
            if mask is not given:
                if isinstance(mask, list):
                    (dropped if reason else rewritten).append(annotation["id"])
                annotation["segmentation"] = mask
                self.changed = True
            if annotation["id"] not in self._unusable_boxes and not lies_in_box(mask, annotation["bbox"]):
                apart.append(annotation)
        if apart and len(apart) == sum(bool(a.get("segmentation")) for a in annotations):
            first["none has an area in its box"] = [a["id"] for a in apart]
            for annotation in apart:
                annotation["segmentation"] = []
            self.changed = True
        else:
            self._note("segmentations have no area in their boxes, and give no mask", [a["id"] for a in apart])
        self._note("segmentations are written as one flat list or as pairs: read as polygons", rewritten)
        self._note("segmentations have a polygon that cannot be used beside others: it is left out", dropped)
        for reason, ids in first.items():
            self._note(f"segmentations cannot be used: {reason}", ids)

    def _crowds_and_areas(self, annotations: list[Record], sizes: dict[Any, tuple[int, int]]) -> None:
        for key in ("iscrowd", "ignore"):
            self._problem(
                f"annotations have an {key} that is not 0 or 1",
                [f"{a['id']} ({a[key]!r})" for a in annotations if a.get(key) not in (None, 0, 1)],
            )
        self._problem(
            f"annotations have an area that is not a number from 0 to {_LARGEST_AREA:g}",
            [f"{a['id']} ({a['area']!r})" for a in annotations
             if a.get("area") is not None and not (is_number(a["area"]) and 0 <= a["area"] <= _LARGEST_AREA)],
        )  # fmt: skip
        if self.problems:
            return
        unsound = [a for a in annotations if a.get("keypoints") and not _are_numbers(a["keypoints"])]
        self._note("keypoints are not a list of numbers: left out", [a["id"] for a in unsound])
        for annotation in unsound:
            del annotation["keypoints"]
        self.changed = self.changed or bool(unsound) or any(a.get("ignore", 0) != 0 for a in annotations)
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
                size = sizes[annotation["image_id"]]
                area = area_of(annotation.get("segmentation"), annotation["bbox"], *size)
                self._set(annotation, "area", area)


def _where(records: Iterable[Record], wrong: Callable[[Record], bool]) -> list[Any]:
    return [record["id"] for record in records if wrong(record)]


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
    after = f" after its EXIF turn, {width} x {height} before" if turned != (width, height) else ""
    listed = f"listed {image['width']} x {image['height']}"
    return f"{image['file_name']} (is {turned[0]} x {turned[1]}{after}, {listed})"


def _repeated(ids: Iterable[Any]) -> list[Any]:
    return [key for key, count in Counter(ids).items() if count > 1]


def count_and_name(what: str, which: Sequence[Any]) -> list[str]:
    """Return a line that counts and names what is wrong, or no line where nothing is."""
    return [f"{len(which)} {what}: {name_first(which)}"] if which else []
