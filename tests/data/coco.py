"""A small COCO file, and changes to it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

POLYGON = [10, 8, 34, 8, 34, 28, 10, 28]
RLE = coco_mask.encode(np.asfortranarray(np.eye(64, 96, dtype=np.uint8)))
RLE["counts"] = RLE["counts"].decode()


def write_images(folder: Path) -> Path:
    for name in ("a", "b"):
        Image.new("RGB", (96, 64)).save(folder / f"{name}.jpg")
    return folder


def write(folder: Path, change=lambda content: None, name: str = "train.json") -> Path:
    """Two images with two annotations each, changed."""
    images = [{"id": i, "file_name": f"{n}.jpg", "width": 96, "height": 64} for i, n in ((1, "a"), (2, "b"))]
    one = {"category_id": 1, "bbox": [10, 8, 24, 20], "area": 480, "iscrowd": 0, "segmentation": [POLYGON]}
    other = {**one, "category_id": 2, "bbox": [50, 30, 30, 24], "area": 720}
    other["segmentation"] = [[50, 30, 80, 30, 80, 54, 50, 54]]
    annotations = [{"id": n + 1, "image_id": 1 + n // 2, **(other if n % 2 else one)} for n in range(4)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
    }
    change(content)
    file = folder / name
    file.write_text(json.dumps(content))
    return file


def every(**values):
    return lambda content: [annotation.update(values) for annotation in content["annotations"]]


def first(**values):
    return lambda content: content["annotations"][0].update(values)
