"""``tools/prepare_panoptic_coco.py``: semantic label maps for panoptic FPN, made from COCO's panoptic annotations.

::

    coco/annotations/panoptic_{train,val}2017.json   given: the segments of each image, and their categories
    coco/panoptic_{train,val}2017/NAME.png           given: RGB, segment id = R + 256 G + 65536 B, 0 for none
    coco/panoptic_stuff_{train,val}2017/NAME.png     made: uint8, 0 things, 1..53 stuff, 255 none

They are what Detectron2's ``datasets/prepare_panoptic_fpn.py`` makes, and what its dataset
``coco_2017_{train,val}_panoptic_separated`` reads. Label maps that are already there are left as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reproduction.common import SPLITS, add_data_root, add_map_options, map_files, save_label_map
from resnest_backbones.commands import print_next
from resnest_backbones.errors import DatasetError, one_line_errors

DOWNLOAD = "https://cocodataset.org/#download, panoptic_annotations_trainval2017.zip and the two zip files inside it"
VOID = 255  # label of pixels without a segment


@cache
def coco_categories() -> Mapping[int, tuple[str, int]]:
    """Return COCO's panoptic categories: id -> (name, 1 for a thing and 0 for stuff), 80 and 53 of them."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    return {category["id"]: (category["name"], category["isthing"]) for category in COCO_CATEGORIES}


def wrong_categories(categories: Sequence[Mapping[str, Any]], expected: Mapping[int, tuple[str, int]]) -> str:
    """Return what is wrong with the categories of annotations of COCO; "" where they are the expected ones."""
    found = {category.get("id"): (category.get("name"), category.get("isthing", 1)) for category in categories}
    number = next((n for n in (*expected, *found) if found.get(n) != expected.get(n)), None)
    pair = f"{expected.get(number)} (name, isthing), got {found.get(number)}"
    return f"must have the {len(expected)} categories of COCO; id {number} must be {pair}" if found != expected else ""


@cache
def stuff_labels() -> Mapping[int, int]:
    """Return category id -> label: 0 for every thing, 1 to 53 for the stuff in the order of the ids."""
    stuff = [number for number, (_, is_thing) in coco_categories().items() if not is_thing]
    return dict.fromkeys(coco_categories(), 0) | {number: label for label, number in enumerate(stuff, start=1)}


def make_stuff_map(segment_ids: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the semantic label map (H, W) uint8 of segment ids (H, W) and the ``segments_info`` of their image."""
    labels = np.full(segment_ids.shape, VOID, dtype=np.uint8)
    for segment in segments:
        if segment["category_id"] not in stuff_labels():
            raise DatasetError(f"category_id must be one of COCO's 133, got {segment['category_id']}")
        labels[segment_ids == segment["id"]] = stuff_labels()[segment["category_id"]]
    return labels


def read_segment_ids(file: Path) -> np.ndarray:
    """Read the segment ids (H, W) int64 of a panoptic map."""
    try:
        with Image.open(file) as image:
            if image.mode != "RGB":
                raise DatasetError(f"{file} must be an RGB image of 8 bits, got the mode {image.mode}")
            red, green, blue = np.moveaxis(np.asarray(image).astype(np.int64), -1, 0)
    except (OSError, SyntaxError) as error:
        raise DatasetError(f"{file} cannot be read as an image: {error}") from error
    return red | green << 8 | blue << 16


def prepare(coco: Path, split: str, *, workers: int = 1, progress: bool = False) -> int:
    """Make the label maps of a split that are not there yet, each whole or not at all; return how many were written."""
    annotations = _read_annotations(coco / "annotations" / f"panoptic_{split}2017.json")
    source, target = coco / f"panoptic_{split}2017", coco / f"panoptic_stuff_{split}2017"
    there = {file.name for file in source.glob("*")}
    if missing := [a["file_name"] for a in annotations if a["file_name"] not in there]:
        raise DatasetError(
            f"{source} must have the panoptic map of each of the {len(annotations)} annotated images, "
            f"{len(missing)} are missing, such as {missing[0]}; from {DOWNLOAD}"
        )
    target.mkdir(exist_ok=True)
    done = {file.name for file in target.iterdir()}
    todo = [annotation for annotation in annotations if annotation["file_name"] not in done]
    map_files(partial(_convert, source, target), todo, title=target.name, workers=workers, progress=progress)
    return len(todo)


def _read_annotations(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        annotations: list[dict[str, Any]] = content["annotations"]
        wrong = wrong_categories(content["categories"], coco_categories())
    except FileNotFoundError as error:
        raise DatasetError(f"{file} does not exist; from {DOWNLOAD}") from error
    except (AttributeError, OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{file} must be COCO's panoptic annotations, got {error!r}") from error
    if wrong:
        raise DatasetError(f"{file} {wrong}")
    return annotations


def _convert(source: Path, target: Path, annotation: Mapping[str, Any]) -> None:
    name = annotation["file_name"]
    try:
        labels = make_stuff_map(read_segment_ids(source / name), annotation["segments_info"])
    except (LookupError, TypeError) as error:
        raise DatasetError(f"the annotation of {source / name} is damaged: {error!r}") from error
    save_label_map(labels, target / name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Make coco/panoptic_stuff_{train,val}2017 from COCO's panoptic annotations, for panoptic FPN.",
        epilog=f"example: python tools/prepare_panoptic_coco.py --data-root datasets. The annotations: {DOWNLOAD}.",
    )
    add_data_root(parser)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: both")
    add_map_options(parser)
    args = parser.parse_args(arguments)
    for split in args.splits:
        folder = args.data_root / "coco" / f"panoptic_stuff_{split}2017"
        with one_line_errors(parser.prog, verbose=args.verbose):
            written = prepare(args.data_root / "coco", split, workers=args.workers, progress=not args.quiet)
        print(f"{folder}: {written} label maps written, {len(list(folder.glob('*.png')))} there")
    print_next("check all data", "tools/reproduce.py", "data", "panoptic_*", "--data-root", args.data_root)
