"""A custom dataset in COCO format, put into any config without writing code."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from omegaconf import DictConfig
from PIL import Image

from resnest_backbones.errors import DatasetError

_MAX_NAMED = 3  # in a message, of each problem


@dataclass(frozen=True)
class CocoSource:
    """A COCO instances file that was checked, and the folder of its images.

    Attributes:
        json_file: the annotations.
        image_root: folder that the file names in it are relative to.
        class_names: names of the categories, in the order of their ids.
        num_images: number of images listed.
        num_annotations: number of annotations.
        num_objects: number of annotations of single objects, not crowds.
        has_masks: whether every annotation has a segmentation.
    """

    json_file: Path
    image_root: Path
    class_names: tuple[str, ...]
    num_images: int
    num_annotations: int
    num_objects: int
    has_masks: bool


def check_coco_json(json_file: str | Path, image_root: str | Path) -> CocoSource:
    """Read a COCO instances file and check that it is whole and fits its images.

    Raises:
        DatasetError: it is not a COCO json, images are missing on disk or have another size, annotations name images
            or categories that are missing, or lack what COCO's evaluation needs; the message names the file and the
            first of each.
    """
    json_file, image_root = Path(json_file), Path(image_root)
    content = _read_json(json_file)
    if not image_root.is_dir():
        raise DatasetError(f"{image_root} is not a folder of images (for {json_file})")
    problems = _check_categories(content["categories"]) or [
        *_check_images(content["images"], image_root),
        *_check_annotations(content),
    ]
    if problems:
        raise DatasetError(f"{json_file} cannot be used:\n  " + "\n  ".join(problems))
    annotations = content["annotations"]
    return CocoSource(
        json_file,
        image_root,
        tuple(c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])),
        len(content["images"]),
        len(annotations),
        sum(not a["iscrowd"] for a in annotations),
        all(a.get("segmentation") for a in annotations),
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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


def _check_categories(categories: list[dict[str, Any]]) -> list[str]:
    if not all(isinstance(c.get("id"), int) and isinstance(c.get("name"), str) for c in categories):
        return ["a category lacks an integer id or a name"]
    return ["category ids are not unique"] if _repeated(c["id"] for c in categories) else []


def _check_images(images: list[dict[str, Any]], root: Path) -> list[str]:
    def is_whole(image: dict[str, Any]) -> bool:
        types: dict[str, Any] = {"id": (int, str), "file_name": str, "width": int, "height": int}
        return all(isinstance(image.get(key), kind) for key, kind in types.items())

    if incomplete := [image.get("id", image) for image in images if not is_whole(image)]:
        return _problem("images lack id, file_name, width or height", incomplete)
    problems = _problem("image ids are not unique", _repeated(image["id"] for image in images))
    if absent := [image["file_name"] for image in images if not (root / image["file_name"]).is_file()]:
        return problems + _problem(f"of {len(images)} images are not in {root}", absent)
    resized = [text for image in images if (text := _other_size(image, root))]
    return problems + _problem("images have another size, or cannot be read", resized)


def _other_size(image: dict[str, Any], root: Path) -> str | None:
    try:
        with Image.open(root / image["file_name"]) as opened:
            size = opened.size
    except (OSError, ValueError) as error:
        return f"{image['file_name']} ({error})"
    listed = (image["width"], image["height"])
    # Detectron2 turns an image as its EXIF says; the json may give either size.
    if size == listed or size == listed[::-1]:
        return None
    return f"{image['file_name']} (is {size[0]} x {size[1]}, listed {listed[0]} x {listed[1]})"


def _check_annotations(content: dict[str, Any]) -> list[str]:
    annotations = content["annotations"]
    ids = [annotation.get("id") for annotation in annotations]
    # pycocotools takes the id of a match for a truth value: with an id of 0, a found object counts as missed.
    problems = _problem(
        "annotation ids are not positive integers, which COCO's evaluation needs",
        [key for key in ids if not isinstance(key, int) or key < 1],
    ) or _problem("annotation ids are not unique", _repeated(ids))
    for key, owners in (("image_id", "images"), ("category_id", "categories")):
        known = {item["id"] for item in content[owners] if isinstance(item.get("id"), (int, str))}
        lost = [a for a in annotations if not isinstance(a.get(key), (int, str)) or a[key] not in known]
        which = [f"{a.get('id')} ({key} {a.get(key)})" for a in lost]
        problems += _problem(f"annotations have a {key} that is not in the file", which)
    shapeless = [a.get("id") for a in annotations if not _is_box(a.get("bbox"))]
    problems += _problem("annotations have no bbox of four numbers [x, y, width, height]", shapeless)
    lacking = [a.get("id") for a in annotations if not {"area", "iscrowd"} <= a.keys()]
    return problems + _problem("annotations lack area or iscrowd", lacking)


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        return False
    return all(math.isfinite(v) for v in box) and box[2] >= 0 and box[3] >= 0


def _repeated(ids: Iterable[Any]) -> list[Any]:
    return [key for key, count in Counter(ids).items() if count > 1]


def _problem(what: str, which: Sequence[Any]) -> list[str]:
    """Return a line that counts and names what is wrong, or no line where nothing is."""
    more = f" and {len(which) - _MAX_NAMED} more" if len(which) > _MAX_NAMED else ""
    return [f"{len(which)} {what}: {', '.join(map(str, which[:_MAX_NAMED]))}{more}"] if which else []


def register_custom_coco(
    train_json: str | Path | None, train_images: str | Path | None, val_json: str | Path, val_images: str | Path
) -> tuple[str | None, str, CocoSource]:
    """Check a custom dataset and register it with Detectron2, under names made from its files.

    Args:
        train_json: annotations to train on; None for an evaluation only.
        train_images: folder of their images.
        val_json: annotations to evaluate on.
        val_images: folder of their images.

    Returns:
        Detectron2's name of the training set (None without one), that of the validation set, and the source of the
        classes (the training set where there is one); it has masks where both sets have.

    Raises:
        DatasetError: a file cannot be used (``check_coco_json``), or the categories of the two differ.
    """
    val = check_coco_json(val_json, val_images)
    if train_json is None or train_images is None:
        return None, _register(val), val
    train = check_coco_json(train_json, train_images)
    if train.num_objects == 0:
        raise DatasetError(f"{train.json_file} has no annotations to train on (crowds do not count)")
    if train.class_names != val.class_names:
        one, two = set(train.class_names), set(val.class_names)
        only = [", ".join(sorted(names)) or "none" for names in (one - two, two - one)]
        difference = f"only in the first: {only[0]}; only in the second: {only[1]}"
        if one == two:
            difference = "their order differs"
        raise DatasetError(
            f"{train.json_file} and {val.json_file} must have equal categories in the same order of ids; {difference}"
        )
    return _register(train), _register(val), replace(train, has_masks=train.has_masks and val.has_masks)


def _register(source: CocoSource) -> str:
    paths = f"{source.json_file.resolve()} {source.image_root.resolve()}"
    name = f"custom_{source.json_file.stem}_{zlib.crc32(paths.encode()):08x}"
    if name not in DatasetCatalog:
        register_coco_instances(name, {}, str(source.json_file), str(source.image_root))
    MetadataCatalog.get(name).thing_classes = list(source.class_names)
    return name


def use_custom_dataset(
    cfg: CfgNode | DictConfig, train_json: str | None, train_images: str | None, val_json: str, val_images: str
) -> None:
    """Let a config, in place, train and evaluate on a custom dataset, and give its heads the number of classes.

    Raises:
        DatasetError: the dataset cannot be used, or lacks annotations that the config's model needs.
    """
    names = register_custom_coco(train_json, train_images, val_json, val_images)
    (_use_in_lazy if isinstance(cfg, DictConfig) else _use_in_yaml)(cfg, *names)


def _use_in_yaml(cfg: CfgNode, train: str | None, val: str, source: CocoSource) -> None:
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in ("GeneralizedRCNN", "RetinaNet", "FCOS"):
        raise DatasetError(f"{source.json_file} has boxes and masks, but {architecture} needs other annotations too")
    if cfg.MODEL.KEYPOINT_ON:
        raise DatasetError(f"{source.json_file}: a custom dataset cannot be used with a keypoint model")
    if cfg.MODEL.MASK_ON and source.num_annotations and not source.has_masks:
        raise DatasetError(
            f"{source.json_file} lacks the segmentation of some annotations, which a model with MODEL.MASK_ON needs; "
            "take a detection config, or turn the key off"
        )
    cfg.DATASETS.TRAIN = (train,) if train is not None else ()
    cfg.DATASETS.TEST = (val,)
    for head in ("ROI_HEADS", "RETINANET", "FCOS"):
        if head in cfg.MODEL:
            cfg.MODEL[head].NUM_CLASSES = len(source.class_names)


def _use_in_lazy(cfg: DictConfig, train: str | None, val: str, source: CocoSource) -> None:
    heads = [node for node in (cfg.model.get("roi_heads"), cfg.model) if node is not None and "num_classes" in node]
    if not heads:
        raise DatasetError("the config has neither model.roi_heads.num_classes nor model.num_classes to set")
    heads[0].num_classes = len(source.class_names)
    if "mask_head" in heads[0] and source.num_annotations and not source.has_masks:
        raise DatasetError(f"{source.json_file} lacks the segmentation of some annotations, which a mask head needs")
    if train is not None:
        cfg.dataloader.train.dataset.names = train
    cfg.dataloader.test.dataset.names = val
    cfg.dataloader.evaluator.dataset_name = val
