"""``tools/prepare_pascal_context.py``: label maps of PASCAL-Context with 59 classes, from its published annotations.

::

    VOCdevkit/VOC2010/JPEGImages/NAME.jpg                                given: PASCAL VOC 2010, train and val
    VOCdevkit/VOC2010/trainval_merged.json                               given: the annotations ("PASCAL in Detail")
    VOCdevkit/VOC2010/SegmentationClassContext/NAME.png                  made: uint8, 0 none, 1..59 classes
    VOCdevkit/VOC2010/ImageSets/SegmentationContext/{train,val}.txt      made: names of 4998 and 5105 images

It is what MMSegmentation's ``tools/dataset_converters/pascal_context.py`` makes, without the package ``detail`` that it
imports, which is on no package index. The format of the annotations and the order in which they lie over each other are
those of that package (github.com/yucking/detail-api PythonAPI/detail/__init__.py, ``Detail.getMask``), and the ids of
the 59 classes those of the converter, which PyTorch-Encoding's ``ContextSegmentation`` has too::

    {"images": [{"image_id": 2008000002, "file_name": "2008_000002.jpg", "height": H, "width": W, "phase": "train"}],
     "annos_segmentation": [{"id": 1, "image_id": 2008000002, "category_id": 25, "segmentation": RLE}], ...}

An RLE is COCO's, of size (H, W); an annotation covers those before it. Further phases and other keys do not count.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reproduction.common import SPLITS, add_data_root, add_map_options, map_files, save_label_map, write_text
from resnest_backbones.commands import print_next
from resnest_backbones.errors import DatasetError, one_line_errors

ANNOTATION_FILE, _LISTS = "trainval_merged.json", "ImageSets/SegmentationContext"
IMAGES_DOWNLOAD = "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar"
ANNOTATIONS_DOWNLOAD = f"https://codalabuser.blob.core.windows.net/public/{ANNOTATION_FILE}"

# Ids, among the 459 of PASCAL-Context, of the 59 classes that are evaluated. In their order the classes are 1..59,
# which is also the alphabetical order of their names: aeroplane, bag, bed, ... window, wood.
CATEGORY_IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159),
    *(162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368),
    *(397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)

_LABELS = {category: label for label, category in enumerate((0, *CATEGORY_IDS))}


def make_label_map(image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the label map (H, W) uint8 of an image and its annotations in their order: 0 none, 1..59 classes."""
    from pycocotools import mask

    shape = image["height"], image["width"]
    categories, labels = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.uint8)
    for annotation in annotations:
        rle = annotation["segmentation"]
        if not isinstance(rle, Mapping) or tuple(rle.get("size", ())) != shape:
            raise DatasetError(f"segmentation must be an RLE of the size {shape}, got {str(rle)[:60]}")
        if isinstance(rle["counts"], list):  # not compressed
            rle = mask.frPyObjects(dict(rle), *shape)
        categories[mask.decode(rle).astype(bool)] = annotation["category_id"]
    for category in np.unique(categories).tolist():
        if category not in _LABELS:
            raise DatasetError(f"category_id must be one of the 59 classes, got {category}")
        labels[categories == category] = _LABELS[category]
    return labels


def prepare(voc: Path, annotation_file: Path, *, workers: int = 1, progress: bool = False) -> dict[str, int]:
    """Make the label maps that are not there yet, and the lists of both splits; return the images of each split.

    Each file is written whole or not at all. The lists come last: no config finds half of the label maps.
    """
    images, annotations = _read(annotation_file)
    folder, target, lists = (voc / name for name in ("JPEGImages", "SegmentationClassContext", _LISTS))
    there = {file.name for file in folder.glob("*")}
    if missing := [image["file_name"] for image in images if image["file_name"] not in there]:
        raise DatasetError(
            f"{folder} must have the {len(images)} annotated images, {len(missing)} are missing, such as {missing[0]}; "
            f"from {IMAGES_DOWNLOAD}"
        )
    target.mkdir(exist_ok=True)
    done = {file.name for file in target.iterdir()}
    todo = [(image, annotations.get(image["image_id"], [])) for image in images if _label_name(image) not in done]
    map_files(partial(_convert, target), todo, title=target.name, workers=workers, progress=progress)
    lists.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split in SPLITS:
        names = sorted(Path(image["file_name"]).stem for image in images if image["phase"] == split)
        write_text(lists / f"{split}.txt", "".join(f"{name}\n" for name in names))
        counts[split] = len(names)
    return counts


def _read(file: Path) -> tuple[list[dict[str, Any]], dict[int, list[dict[str, Any]]]]:
    """Return the images of both splits, and the annotations of each image in their order."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images = [image for image in content["images"] if image["phase"] in SPLITS]
        annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annos_segmentation"]:
            kept = {key: annotation[key] for key in ("category_id", "segmentation")}
            annotations[annotation["image_id"]].append(kept)
    except FileNotFoundError as error:
        raise DatasetError(f"{file} does not exist; from {ANNOTATIONS_DOWNLOAD}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{file} must be the annotations of PASCAL-Context, got {error!r}") from error
    if not any(image["image_id"] in annotations for image in images):
        got = f"{len(images)} images and annotations of {len(annotations)} others"
        raise DatasetError(f"{file} must have annotated images of train and val, got {got}")
    return images, annotations


def _label_name(image: Mapping[str, Any]) -> str:
    return f"{Path(image['file_name']).stem}.png"


def _convert(target: Path, item: tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]) -> None:
    image, annotations = item
    try:
        labels = make_label_map(image, annotations)
    except (DatasetError, LookupError, TypeError) as error:
        raise DatasetError(f"the annotations of {image['file_name']}: {error}") from error
    save_label_map(labels, target / _label_name(image))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Make the label maps and lists of PASCAL-Context with 59 classes from its published annotations.",
        epilog="example: python tools/prepare_pascal_context.py --data-root datasets. "
        f"The images: {IMAGES_DOWNLOAD}. The annotations: {ANNOTATIONS_DOWNLOAD}; where that server does not "
        "answer, ask the Internet Archive (web.archive.org) for the same address.",
    )
    add_data_root(parser)
    parser.add_argument("--annotations", type=Path, metavar="FILE",
                        help=f"default: {ANNOTATION_FILE} in VOCdevkit/VOC2010")  # fmt: skip
    add_map_options(parser)
    args = parser.parse_args(arguments)
    voc = args.data_root / "VOCdevkit" / "VOC2010"
    with one_line_errors(parser.prog, verbose=args.verbose):
        counts = prepare(voc, args.annotations or voc / ANNOTATION_FILE, workers=args.workers, progress=not args.quiet)
    print(f"{voc}: label maps and lists of {counts['train']} images for training, {counts['val']} for validation")
    print_next("check all data", "tools/reproduce.py", "data", "*pascal*", "--data-root", args.data_root)
