"""A custom dataset in COCO format, put into any config without writing code."""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from omegaconf import DictConfig

from resnest_backbones.data import palette_of
from resnest_backbones.data.coco import count_and_name, read_coco_json
from resnest_backbones.detectron2.checkpoint import private_folder
from resnest_backbones.errors import DatasetError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoSource:
    """A COCO instances file that was checked, and the folder of its images.

    Attributes:
        json_file: the annotations.
        image_root: folder that the file names in it are relative to.
        images: their files.
        class_names: names of the categories, in the order of their ids.
        num_annotations: crowds included.
        num_objects: of single objects, not crowds.
        most_objects: number of them in the image with the most; of two files, in the one to evaluate on.
        has_rle: whether an object's segmentation is a run-length code, which ``INPUT.MASK_FORMAT`` polygon cannot take.
        without_mask: a line that counts and names the annotations without a usable segmentation; "" where all have one.
    """

    json_file: Path
    image_root: Path
    images: frozenset[Path]
    class_names: tuple[str, ...]
    num_annotations: int
    num_objects: int
    most_objects: int
    has_rle: bool
    without_mask: str

    @property
    def num_images(self) -> int:
        """Number of image files."""
        return len(self.images)

    @property
    def has_masks(self) -> bool:
        """Whether every annotation has a segmentation that can be used."""
        return not self.without_mask


def check_coco_json(json_file: str | Path, image_root: str | Path) -> CocoSource:
    """Read a COCO instances file and check that its values can be trained on and evaluated.

    What COCO's rules determine is filled in, in memory, and a line of the log counts it: ids of annotations, missing
    ``iscrowd`` and ``area``, ``ignore``, polygons written as one flat list or as pairs.

    Raises:
        DatasetError: it is not a COCO json; images are missing or have another size after the turn of their EXIF;
            annotations name images or categories that are missing, or have boxes or values that cannot be meant; the
            message names the file and counts each kind of problem with its first ids.
    """
    return _read(Path(json_file), Path(image_root))[0]


def _read(json_file: Path, image_root: Path) -> tuple[CocoSource, dict[str, Any] | None]:
    """Return what a file holds, and its content where that differs from the file."""
    content, notes, changed = read_coco_json(json_file, image_root)
    for note in notes:
        logger.warning("%s: %s", json_file, note)
    annotations = content["annotations"]
    objects = [a for a in annotations if not a["iscrowd"]]
    crowds = f"; {len(annotations) - len(objects)} crowds, not trained on" if len(objects) < len(annotations) else ""
    empty = len({image["id"] for image in content["images"]} - {a["image_id"] for a in objects})
    num_images, num_classes = len(content["images"]), len(content["categories"])
    logger.info("%s: %d images, %d of them without objects; %d objects of %d classes%s", json_file, num_images, empty,
                len(objects), num_classes, crowds)  # fmt: skip
    maskless = [a["id"] for a in annotations if not a.get("segmentation")]
    lacking = count_and_name(f"annotations of {json_file} have no usable segmentation", maskless)
    source = CocoSource(
        json_file,
        image_root,
        frozenset((image_root / image["file_name"]).resolve() for image in content["images"]),
        tuple(c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])),
        len(annotations),
        len(objects),
        max(Counter(a["image_id"] for a in objects).values(), default=0),
        any(isinstance(a.get("segmentation"), dict) for a in objects),
        "; ".join([*lacking, *(note for note in notes if "segmentations cannot be used" in note)]),
    )
    return source, content if changed else None


def register_custom_coco(
    train_json: str | Path | None, train_images: str | Path | None, val_json: str | Path, val_images: str | Path
) -> tuple[str | None, str, CocoSource]:
    """Check a custom dataset and register it with Detectron2, under names made from its files.

    Returns:
        Detectron2's name of the training set (None without ``train_json``, for an evaluation only), that of the
        validation set, and the source of the classes (the training set where there is one); it has masks where both
        sets have.

    Raises:
        DatasetError: a file cannot be used (``check_coco_json``), or the categories of the two differ.
    """
    val, val_content = _read(Path(val_json), Path(val_images))
    if train_json is None or train_images is None:
        return None, _register(val, val_content), val
    train, train_content = _read(Path(train_json), Path(train_images))
    if shared := train.images & val.images:
        logger.warning("%d images are in both the training and validation sets, first %s: the metrics will not reflect "
                       "unseen images", len(shared), min(shared))  # fmt: skip
    if train.num_objects == 0:
        raise DatasetError(f"{train.json_file} has no annotations to train on (crowds do not count)")
    if train.class_names != val.class_names:
        one, two = set(train.class_names), set(val.class_names)
        only = [", ".join(sorted(names)) or "none" for names in (one - two, two - one)]
        difference = f"only in the first: {only[0]}; only in the second: {only[1]}"
        if one == two:
            difference = "their order differs"
        raise DatasetError(
            f"{train.json_file} and {val.json_file} must have the same categories in the same order of ids; "
            f"{difference}"
        )
    without_mask = "; ".join(filter(None, (train.without_mask, val.without_mask)))
    both = replace(train, without_mask=without_mask, most_objects=val.most_objects)
    return _register(train, train_content), _register(val, val_content), both


def _register(source: CocoSource, content: dict[str, Any] | None) -> str:
    text = "" if content is None else json.dumps(content)
    made_of = f"{source.json_file.resolve()} {source.image_root.resolve()} {text}"
    name = f"custom_{source.json_file.stem}_{zlib.crc32(made_of.encode()):08x}"
    if name not in DatasetCatalog:
        json_file = source.json_file
        if text:  # Detectron2 and pycocotools read files only
            json_file = Path(private_folder().name) / f"{name}.json"
            json_file.write_text(text)
        register_coco_instances(name, {}, str(json_file), str(source.image_root))
    metadata = MetadataCatalog.get(name)
    metadata.thing_classes = list(source.class_names)
    metadata.thing_colors = palette_of(source.class_names)
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


def _check_masks(source: CocoSource, what: str, remedy: str) -> None:
    if source.num_annotations and not source.has_masks:
        raise DatasetError(f"{what} needs masks, but {source.without_mask}; {remedy}")


def _use_in_yaml(cfg: CfgNode, train: str | None, val: str, source: CocoSource) -> None:
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in ("GeneralizedRCNN", "RetinaNet", "FCOS"):
        raise DatasetError(f"{source.json_file} has boxes and masks, but {architecture} needs other annotations too")
    if cfg.MODEL.KEYPOINT_ON:
        raise DatasetError(f"{source.json_file}: a custom dataset cannot be used with a keypoint model")
    if cfg.MODEL.MASK_ON:
        _check_masks(source, "a model with MODEL.MASK_ON", "use a detection config, or turn the key off")
        if source.has_rle and cfg.INPUT.MASK_FORMAT == "polygon":
            logger.warning("%s has run-length encodings: INPUT.MASK_FORMAT is set to bitmask", source.json_file)
            cfg.INPUT.MASK_FORMAT = "bitmask"
    if source.most_objects > cfg.TEST.DETECTIONS_PER_IMAGE:
        logger.warning("a validation image has %d objects, but the model outputs at most %d detections: raise "
                       "TEST.DETECTIONS_PER_IMAGE", source.most_objects, cfg.TEST.DETECTIONS_PER_IMAGE)  # fmt: skip
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
    if "mask_head" in heads[0]:
        _check_masks(source, "a mask head", "use a config without one")
        if source.has_rle and train is not None:
            logger.warning("%s has run-length encodings: instance_mask_format is set to bitmask", source.json_file)
            cfg.dataloader.train.mapper.instance_mask_format = "bitmask"
    if train is not None:
        cfg.dataloader.train.dataset.names = train
    cfg.dataloader.test.dataset.names = val
    cfg.dataloader.evaluator.dataset_name = val
