"""A tiny data root in the layout that the recipes read, made from the digits of the demonstration.

COCO with its panoptic annotations, ADE20K, PASCAL-Context and Cityscapes show the same images: digits on photographs,
each digit under the name of some class. Ids and numbers of classes are the real ones, so a recipe's own config reads
it; its metrics mean nothing. Everywhere, the lowest pixels of an image have no class where no digit lies.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from demonstration.digits import BACKGROUND_CATEGORY, BACKGROUND_SEGMENT, DemoDataset, make_demo_dataset
from reproduction.panoptic_coco import VOID, coco_categories, stuff_labels

NUM_IMAGES = {"train": 8, "val": 4}
IMAGE_SIZE = 128

_VOID_ROWS = 6
_DIGITS = 10


def make_smoke_data(root: Path) -> Path:
    """Write the data root, which must not exist, and return it."""
    with tempfile.TemporaryDirectory() as temporary:
        demo = make_demo_dataset(
            Path(temporary) / "demo",
            num_train=NUM_IMAGES["train"],
            num_val=NUM_IMAGES["val"],
            image_size=IMAGE_SIZE,
            progress=False,
        )
        for split in NUM_IMAGES:
            _write_coco(root / "coco", demo, split)
            _write_ade(root / "ade" / "ADEChallengeData2016", demo, split)
            _write_pascal(root / "VOCdevkit" / "VOC2010", demo, split)
            _write_cityscapes(root / "cityscapes", demo, split)
    return root


def _categories_of(is_thing: int) -> dict[int, str]:
    return {number: name for number, (name, kind) in coco_categories().items() if kind == is_thing}


def _images(demo: DemoDataset, split: str) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Yield image file, label map (H, W) uint8 (1 background, 2..11 digits), and mask (H, W) of what has no class."""
    for file in sorted((demo.train_images if split == "train" else demo.val_images).iterdir()):
        labels = np.asarray(Image.open(_label_folder(demo, split) / f"{file.stem}.png"))
        nothing = labels == 1
        nothing[:-_VOID_ROWS] = False
        yield file, labels, nothing


def _label_folder(demo: DemoDataset, split: str) -> Path:
    return demo.train_label_maps if split == "train" else demo.val_label_maps


def _classes(number: int) -> np.ndarray:
    """Return the class, 1 to ``number``, of each label of the demo, spread over the whole range."""
    labels = np.arange(_DIGITS + 1)
    return np.concatenate([[0], 1 + labels * (number - 1) // _DIGITS]).astype(np.uint8)


def _write_ade(folder: Path, demo: DemoDataset, split: str) -> None:
    name = {"train": "training", "val": "validation"}[split]
    images, annotations = _make(folder / "images" / name, folder / "annotations" / name)
    for number, (file, labels, nothing) in enumerate(_images(demo, split), start=1):
        stem = f"ADE_{split}_{number:08d}"
        (images / f"{stem}.jpg").write_bytes(file.read_bytes())
        _save(np.where(nothing, 0, _classes(150)[labels]), annotations / f"{stem}.png")


def _write_pascal(folder: Path, demo: DemoDataset, split: str) -> None:
    images, annotations, lists = _make(
        folder / "JPEGImages", folder / "SegmentationClassContext", folder / "ImageSets" / "SegmentationContext"
    )
    stems = []
    for number, (file, labels, nothing) in enumerate(_images(demo, split), start=1):
        stems.append(f"{2008 if split == 'train' else 2009}_{number:06d}")
        (images / f"{stems[-1]}.jpg").write_bytes(file.read_bytes())
        _save(np.where(nothing, 0, _classes(59)[labels]), annotations / f"{stems[-1]}.png")
    (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def _write_cityscapes(folder: Path, demo: DemoDataset, split: str) -> None:
    """Write the lower halves, which are twice as wide as high as the real images."""
    images, annotations = _make(folder / "leftImg8bit" / split / "smoke", folder / "gtFine" / split / "smoke")
    for number, (file, labels, nothing) in enumerate(_images(demo, split)):
        stem, top = f"smoke_{number:06d}_000019", labels.shape[0] // 2
        _save(np.asarray(Image.open(file))[top:], images / f"{stem}_leftImg8bit.png")
        trained = np.where(nothing, VOID, _classes(19)[labels] - 1)
        _save(trained[top:], annotations / f"{stem}_gtFine_labelTrainIds.png")


def _write_coco(folder: Path, demo: DemoDataset, split: str) -> None:
    annotations, images = _make(folder / "annotations", folder / f"{split}2017")
    content = json.loads((demo.train_json if split == "train" else demo.val_json).read_text())
    for image in content["images"]:
        name = f"{image['id']:012d}.jpg"
        source = (demo.train_images if split == "train" else demo.val_images) / image["file_name"]
        (images / name).write_bytes(source.read_bytes())
        image["file_name"] = name
    for annotation in content["annotations"]:
        annotation["category_id"] = _thing(annotation["category_id"])
    content["categories"] = _categories(isthing=1)
    _write_json(annotations / f"instances_{split}2017.json", content)
    _write_panoptic(folder, demo, split, content["images"])
    if split == "val":
        (test,) = _make(folder / "test2017")
        for image in content["images"]:
            (test / image["file_name"]).write_bytes((images / image["file_name"]).read_bytes())
        _write_json(
            annotations / "image_info_test-dev2017.json", {key: content[key] for key in ("images", "categories")}
        )


def _thing(demo_category: int) -> int:
    """Return the id of COCO that a digit goes under: the ten are spread over the eighty."""
    return list(_categories_of(1))[(demo_category - 1) * 79 // (_DIGITS - 1)]


def _categories(isthing: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": name, "isthing": isthing} for number, name in _categories_of(isthing).items()]


def _write_panoptic(folder: Path, demo: DemoDataset, split: str, images: list[dict[str, Any]]) -> None:
    """Write panoptic annotations, and the stuff maps of panoptic FPN."""
    maps, stuff_maps = _make(folder / f"panoptic_{split}2017", folder / f"panoptic_stuff_{split}2017")
    content = json.loads((demo.train_panoptic_json if split == "train" else demo.val_panoptic_json).read_text())
    source = demo.train_panoptic_root if split == "train" else demo.val_panoptic_root
    for annotation, (file, labels, nothing) in zip(content["annotations"], _images(demo, split), strict=True):
        name = f"{annotation['image_id']:012d}.png"
        things = [s for s in annotation["segments_info"] if s["category_id"] != BACKGROUND_CATEGORY]
        for segment in things:
            segment["category_id"] = _thing(segment["category_id"])
        pixels = np.array(Image.open(source / f"{file.stem}.png"))
        pixels[nothing] = 0
        stuff_map = np.where(nothing, VOID, 0)
        stuff = list(_stuff_segments((labels == 1) & ~nothing, annotation["image_id"]))
        for mask, segment in stuff:
            pixels[mask] = [segment["id"] >> shift & 255 for shift in (0, 8, 16)]
            stuff_map[mask] = stuff_labels()[segment["category_id"]]
        _save(pixels, maps / name)
        _save(stuff_map, stuff_maps / name)
        annotation.update(file_name=name, segments_info=things + [segment for _, segment in stuff])
    content.update(images=images, categories=_categories(isthing=1) + _categories(isthing=0))
    _write_json(folder / "annotations" / f"panoptic_{split}2017.json", content)


def _stuff_segments(background: np.ndarray, image_id: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield the left and the right half of the background as two kinds of stuff, others in each image."""
    is_left = np.arange(background.shape[1]) < background.shape[1] // 2
    for side, half in enumerate((is_left, ~is_left)):
        mask = background & half
        rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        category = list(_categories_of(0))[(2 * image_id + side) % 53]
        fields = {"id": BACKGROUND_SEGMENT - side, "category_id": category, "area": int(mask.sum()), "bbox": box}
        yield mask, fields | {"iscrowd": 0}


def _make(*folders: Path) -> tuple[Path, ...]:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def _save(pixels: np.ndarray, file: Path) -> None:
    Image.fromarray(pixels.astype(np.uint8)).save(file)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content) + "\n")
