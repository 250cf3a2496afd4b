"""A tiny data root in the layout that the recipes read: rectangles on noise, each under the name of some class.

COCO with its panoptic annotations, ADE20K, PASCAL-Context, Cityscapes and ImageNet show the same images. Ids and
numbers of classes are the real ones, but of ImageNet, so a recipe's own config reads it; its metrics mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reproduction.panoptic_coco import VOID, coco_categories, stuff_labels

NUM_IMAGES = {"train": 8, "val": 4}
IMAGE_SIZE = 128
_VOID_ROWS = 6  # the lowest of an image, which have no class where no rectangle lies
_KINDS = 10


def make_smoke_data(root: Path) -> Path:
    """Write the data root, which must not exist, and return it."""
    for split in NUM_IMAGES:
        images = list(_images(split))
        _write_coco(root / "coco", split, images)
        names = {"train": "training", "val": "validation"}
        for number, (pixels, labels, _) in enumerate(images, start=1):
            ade, stem = root / "ade" / "ADEChallengeData2016", f"ADE_{split}_{number:08d}"
            _save(pixels, ade / "images" / names[split] / f"{stem}.jpg")
            _save(_classes(150)[labels], ade / "annotations" / names[split] / f"{stem}.png")
            voc, stem = root / "VOCdevkit" / "VOC2010", f"{2008 if split == 'train' else 2009}_{number:06d}"
            _save(pixels, voc / "JPEGImages" / f"{stem}.jpg")
            _save(_classes(59)[labels], voc / "SegmentationClassContext" / f"{stem}.png")
            _write(voc / "ImageSets" / "SegmentationContext" / f"{split}.txt", f"{stem}\n", "a")
            _save(pixels, root / "imagenet" / split / f"n{number % 2:08d}" / f"{split}_{number}.JPEG")
            # Twice as wide as high, as the real images.
            stem, half = f"{split}/smoke/smoke_{number:06d}_000019", IMAGE_SIZE // 2
            _save(pixels[half:], root / "cityscapes" / "leftImg8bit" / f"{stem}_leftImg8bit.png")
            trained = np.where(labels == 0, VOID, _classes(19)[labels] - 1)
            _save(trained[half:], root / "cityscapes" / "gtFine" / f"{stem}_gtFine_labelTrainIds.png")
    return root


def _images(split: str) -> Iterator[tuple[np.ndarray, np.ndarray, list[tuple[int, list[int]]]]]:
    """Yield image (H, W, 3), labels (H, W) (0 none, 1 background, 2 + kind), and (kind, box XYWH) of its rectangles."""
    random = np.random.default_rng(list(NUM_IMAGES).index(split))
    for number in range(NUM_IMAGES[split]):
        pixels = random.integers(0, 100, (IMAGE_SIZE, IMAGE_SIZE, 3))
        labels = np.ones((IMAGE_SIZE, IMAGE_SIZE), dtype=np.int64)
        labels[-_VOID_ROWS:] = 0
        rectangles = []
        for place in range(3):  # one in each of three quarters: none covers another
            width, height = random.integers(24, 56, 2).tolist()
            left, top = 64 * (place % 2) + 4, 64 * (place // 2) + 4
            kind = (3 * number + place) % _KINDS
            labels[top : top + height, left : left + width] = 2 + kind
            pixels[top : top + height, left : left + width] += [15 * kind, 150 - 15 * kind, 100]
            rectangles.append((kind, [left, top, width, height]))
        yield pixels, labels, rectangles


def _classes(number: int) -> np.ndarray:
    """Return the class, 0 for none or 1 to ``number``, of each label, spread over the whole range."""
    return np.array([0, *(1 + kind * (number - 1) // _KINDS for kind in range(_KINDS + 1))])


def _write_coco(folder: Path, split: str, images: list[tuple[np.ndarray, np.ndarray, list]]) -> None:
    """Write images, both kinds of annotations, panoptic maps, and the stuff maps of panoptic FPN."""
    kinds = {kind: [n for n, (_, isthing) in coco_categories().items() if isthing == kind] for kind in (0, 1)}
    categories = [{"id": n, "name": coco_categories()[n][0], "isthing": kind} for kind in (1, 0) for n in kinds[kind]]
    things, panoptic, infos = [], [], []
    for number, (pixels, labels, rectangles) in enumerate(images, start=1):
        stem = f"{number:012d}"
        infos.append({"id": number, "file_name": f"{stem}.jpg", "width": IMAGE_SIZE, "height": IMAGE_SIZE})
        for name in [f"{split}2017"] + ["test2017"] * (split == "val"):
            _save(pixels, folder / name / f"{stem}.jpg")
        ids, stuff_map, segments = np.zeros_like(labels), np.where(labels == 0, VOID, 0), []
        for kind, box in rectangles:
            left, top, width, height = box
            corners = [left, top, left + width, top, left + width, top + height, left, top + height]
            category = kinds[1][kind * 79 // (_KINDS - 1)]
            shared = {"category_id": category, "area": width * height, "bbox": box, "iscrowd": 0}
            things.append({"id": len(things) + 1, "image_id": number, "segmentation": [corners], **shared})
            segments.append({"id": 70_000 + kind, **shared})
            ids[labels == 2 + kind] = 70_000 + kind
        for side in (0, 1):  # the halves of the background are two kinds of stuff, others in each image
            mask = (labels == 1) & (np.arange(IMAGE_SIZE) // (IMAGE_SIZE // 2) == side)
            category = kinds[0][(2 * number + side) % 53]
            ids[mask], stuff_map[mask] = 1 + side, stuff_labels()[category]
            box = [side * IMAGE_SIZE // 2, 0, IMAGE_SIZE // 2, IMAGE_SIZE - _VOID_ROWS]
            segment = {"id": 1 + side, "category_id": category, "area": int(mask.sum()), "bbox": box, "iscrowd": 0}
            segments.append(segment)
        colors = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1)
        _save(colors, folder / f"panoptic_{split}2017" / f"{stem}.png")
        _save(stuff_map, folder / f"panoptic_stuff_{split}2017" / f"{stem}.png")
        panoptic.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})
    contents: dict[str, dict[str, Any]] = {
        f"instances_{split}2017": {"annotations": things, "categories": categories[:80]},
        f"panoptic_{split}2017": {"annotations": panoptic, "categories": categories},
        **({"image_info_test-dev2017": {"categories": categories[:80]}} if split == "val" else {}),
    }
    for name, content in contents.items():
        _write(folder / "annotations" / f"{name}.json", json.dumps({"images": infos, **content}))


def _save(pixels: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


def _write(file: Path, text: str, mode: str = "w") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, mode) as stream:
        stream.write(text)
