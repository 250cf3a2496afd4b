"""A data set of one's own in COCO format, put into any config without writing code."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

_MOST = 3


class DatasetError(ValueError):
    """A data set cannot be used; the message names the file and what is missing or wrong in it."""


@dataclass(frozen=True)
class CocoSource:
    """A COCO instances file that was checked, and the folder of its images.

    Attributes:
        json_file: the annotations.
        image_root: folder that the file names in it are relative to.
        class_names: names of the categories, in the order of their ids.
        num_images: number of images listed.
        num_annotations: number of annotations.
        has_masks: whether every annotation has a segmentation.
    """

    json_file: Path
    image_root: Path
    class_names: tuple[str, ...]
    num_images: int
    num_annotations: int
    has_masks: bool


def check_coco_json(json_file: str | Path, image_root: str | Path) -> CocoSource:
    """Read a COCO instances file and check that it is whole and fits its images.

    Raises:
        DatasetError: it is no COCO json, images are missing on disk, annotations name images or categories that are not
            there, or boxes are malformed; the message names the file and the first of each.
    """
    json_file, image_root = Path(json_file), Path(image_root)
    content = _read_json(json_file)
    if not image_root.is_dir():
        raise DatasetError(f"{image_root} is no folder of images (for {json_file})")
    problems = [*_check_images(content["images"], image_root), *_check_annotations(content)]
    if problems:
        raise DatasetError(f"{json_file} cannot be used:\n  " + "\n  ".join(problems))
    annotations = content["annotations"]
    return CocoSource(
        json_file,
        image_root,
        tuple(c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])),
        len(content["images"]),
        len(annotations),
        bool(annotations) and all(a.get("segmentation") for a in annotations),
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} is no json: {error}") from error
    wrong = [key for key in ("images", "annotations", "categories") if not isinstance(_get(content, key), list)]
    if wrong:
        raise DatasetError(f"{file} is no COCO instances file: it has no list {' and no list '.join(map(repr, wrong))}")
    if not content["images"] or not content["categories"]:
        empty = "images" if not content["images"] else "categories"
        raise DatasetError(f"{file} has no {empty}")
    return content


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None


def _check_images(images: list[dict[str, Any]], root: Path) -> list[str]:
    incomplete = [str(i.get("id", i)) for i in images if not {"id", "file_name", "width", "height"} <= i.keys()]
    if incomplete:
        return [_problem("images lack id, file_name, width or height", incomplete)]
    problems = []
    if absent := [i["file_name"] for i in images if not (root / i["file_name"]).is_file()]:
        problems.append(_problem(f"of {len(images)} images are not in {root}", absent))
    if twice := [str(key) for key, count in Counter(i["id"] for i in images).items() if count > 1]:
        problems.append(_problem("image ids are there more than once", twice))
    return problems


def _check_annotations(content: dict[str, Any]) -> list[str]:
    if any(not {"id", "name"} <= c.keys() for c in content["categories"]):
        return ["a category lacks id or name"]
    image_ids, category_ids = ({item["id"] for item in content[k] if "id" in item} for k in ("images", "categories"))
    problems = []
    if len(category_ids) < len(content["categories"]):
        problems.append("category ids are there more than once")
    annotations = content["annotations"]
    for key, known in (("image_id", image_ids), ("category_id", category_ids)):
        if lost := [f"{a.get('id')} ({key} {a.get(key)})" for a in annotations if a.get(key) not in known]:
            problems.append(_problem(f"annotations have a {key} that is not in the file", lost))
    if shapeless := [str(a.get("id")) for a in annotations if not _is_box(a.get("bbox"))]:
        problems.append(_problem("annotations have no bbox of four numbers [x, y, width, height]", shapeless))
    return problems


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)


def _problem(what: str, which: list[str]) -> str:
    more = f" and {len(which) - _MOST} more" if len(which) > _MOST else ""
    return f"{len(which)} {what}: {', '.join(which[:_MOST])}{more}"


def register_custom_coco(
    train_json: str | Path | None, train_images: str | Path | None, val_json: str | Path, val_images: str | Path
) -> tuple[str | None, str, CocoSource]:
    """Check and register a data set of one's own with Detectron2, under names made from its files.

    Args:
        train_json: annotations to train on; None where only an evaluation is wanted.
        train_images: folder of their images.
        val_json: annotations to evaluate on.
        val_images: folder of their images.

    Returns:
        Detectron2's name of the training set (None without one), that of the validation set, and what is known of the
        set that gives the classes (the training set where there is one).

    Raises:
        DatasetError: a file does not hold up (``check_coco_json``), or the two have other categories.
    """
    val = check_coco_json(val_json, val_images)
    if train_json is None or train_images is None:
        return None, _register(val), val
    train = check_coco_json(train_json, train_images)
    if train.num_annotations == 0:
        raise DatasetError(f"{train.json_file} has no annotations to train on")
    if train.class_names != val.class_names:
        only_train = sorted(set(train.class_names) - set(val.class_names))
        only_val = sorted(set(val.class_names) - set(train.class_names))
        raise DatasetError(
            f"{train.json_file} and {val.json_file} must have the same categories in the same order of ids; "
            f"only in the first: {', '.join(only_train) or 'none'}; only in the second: {', '.join(only_val) or 'none'}"
        )
    return _register(train), _register(val), train


def _register(source: CocoSource) -> str:
    paths = f"{source.json_file.resolve()} {source.image_root.resolve()}"
    name = f"custom_{source.json_file.stem}_{zlib.crc32(paths.encode()):08x}"
    if name not in DatasetCatalog:
        register_coco_instances(name, {}, str(source.json_file), str(source.image_root))
    MetadataCatalog.get(name).thing_classes = list(source.class_names)
    return name
