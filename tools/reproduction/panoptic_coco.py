"""Semantic label maps for panoptic FPN, made of COCO's panoptic annotations.

::

    coco/annotations/panoptic_{train,val}2017.json   given: the segments of each image, and their categories
    coco/panoptic_{train,val}2017/NAME.png           given: RGB, segment id = R + 256 G + 65536 B, 0 for none
    coco/panoptic_stuff_{train,val}2017/NAME.png     made: uint8, 0 things, 1..53 stuff, 255 none

They are what Detectron2's ``datasets/prepare_panoptic_fpn.py`` makes, and what its data set
``coco_2017_{train,val}_panoptic_separated`` reads.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reproduction.coco_categories import STUFF, STUFF_LABELS, THINGS, VOID
from reproduction.parallel import default_workers, map_files
from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.cli import print_next
from resnest_backbones.errors import add_verbose, one_line_errors

SPLITS = ("train", "val")
DOWNLOAD = "https://cocodataset.org/#download, panoptic_annotations_trainval2017.zip and the two zip files inside it"

_LABELS: Mapping[int, int] = {**dict.fromkeys(THINGS, 0), **STUFF_LABELS}


class PanopticError(ValueError):
    """The panoptic annotations are missing, or not COCO's; the message names the file."""


def read_segment_ids(file: Path) -> np.ndarray:
    """Segment ids (H, W) int64 of a panoptic map.

    Raises:
        PanopticError: the file cannot be read, or is no RGB image of 8 bits.
    """
    try:
        with Image.open(file) as image:
            if image.mode != "RGB":
                raise PanopticError(f"{file} must be an RGB image of 8 bits, got the mode {image.mode}")
            red, green, blue = np.moveaxis(np.asarray(image).astype(np.int64), -1, 0)
    except (OSError, SyntaxError) as error:
        raise PanopticError(f"{file} cannot be read as an image: {error}") from error
    return red | green << 8 | blue << 16


def make_stuff_map(segment_ids: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The semantic label map (H, W) uint8 of an image.

    Args:
        segment_ids: as ``read_segment_ids`` gives them.
        segments: ``segments_info`` of the image's annotation: ``id`` and ``category_id`` of each.

    Raises:
        PanopticError: a category is none of COCO's.
    """
    labels = np.full(segment_ids.shape, VOID, dtype=np.uint8)
    for segment in segments:
        if segment["category_id"] not in _LABELS:
            raise PanopticError(f"category_id must be one of COCO's 133, got {segment['category_id']}")
        labels[segment_ids == segment["id"]] = _LABELS[segment["category_id"]]
    return labels


def prepare(coco: Path, split: str, *, workers: int = 1, progress: bool = False) -> int:
    """Make the label maps of a split that are not there yet.

    Each is written whole or not at all, so an interrupted call goes on where it stopped.

    Args:
        coco: folder of the files at the top of this module.
        split: ``train`` or ``val``.
        workers: processes.
        progress: show a progress bar.

    Returns:
        The number of label maps written.

    Raises:
        PanopticError: annotations or panoptic maps are missing, cannot be read, or are not COCO's.
    """
    annotations = _read_annotations(coco / "annotations" / f"panoptic_{split}2017.json")
    source, target = coco / f"panoptic_{split}2017", coco / f"panoptic_stuff_{split}2017"
    there = {file.name for file in source.iterdir()} if source.is_dir() else set()
    missing = [name for annotation in annotations if (name := annotation["file_name"]) not in there]
    if missing:
        raise PanopticError(
            f"{source} must have the panoptic map of each of the {len(annotations)} annotated images, "
            f"{len(missing)} are missing, such as {missing[0]}; from {DOWNLOAD}"
        )
    target.mkdir(exist_ok=True)
    done = {file.name for file in target.iterdir()}
    todo = [annotation for annotation in annotations if annotation["file_name"] not in done]
    convert = partial(_convert, source, target)
    return len(map_files(convert, todo, title=target.name, workers=workers, progress=progress))


def _read_annotations(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = {category["id"]: (category["name"], category["isthing"]) for category in content["categories"]}
        annotations: list[dict[str, Any]] = content["annotations"]
    except FileNotFoundError as error:
        raise PanopticError(f"{file} is not there; from {DOWNLOAD}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PanopticError(f"{file} must be COCO's panoptic annotations, got {error!r}") from error
    expected = {number: (name, 1) for number, name in THINGS.items()}
    expected |= {number: (name, 0) for number, name in STUFF.items()}
    if categories != expected:
        wrong = sorted({*categories.items()} ^ {*expected.items()})[0][0]
        raise PanopticError(
            f"{file} must have COCO's 133 categories; the one of id {wrong} must be {expected.get(wrong)}, "
            f"got {categories.get(wrong)}"
        )
    return annotations


def _convert(source: Path, target: Path, annotation: Mapping[str, Any]) -> None:
    name = annotation["file_name"]
    try:
        labels = make_stuff_map(read_segment_ids(source / name), annotation["segments_info"])
    except (LookupError, TypeError) as error:
        raise PanopticError(f"the annotation of {source / name} is damaged: {error!r}") from error
    content = io.BytesIO()
    Image.fromarray(labels).save(content, format="PNG")
    write_atomically(target / name, lambda stream: stream.write(content.getvalue()))


def build_argument_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/prepare_panoptic_coco.py``."""
    parser = argparse.ArgumentParser(
        description="Make coco/panoptic_stuff_{train,val}2017 of COCO's panoptic annotations, for panoptic FPN.",
        epilog=f"example: python tools/prepare_panoptic_coco.py --data-root datasets. The annotations: {DOWNLOAD}.",
    )
    parser.add_argument("--data-root", type=Path, default=Path("datasets"), metavar="DIR",
                        help="folder that has coco/ (default: %(default)s)")  # fmt: skip
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: both")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_verbose(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    for split in args.splits:
        folder = args.data_root / "coco" / f"panoptic_stuff_{split}2017"
        with one_line_errors(parser.prog, ValueError, verbose=args.verbose):
            written = prepare(args.data_root / "coco", split, workers=args.workers, progress=not args.quiet)
        print(f"{folder}: {written} label maps written, {len(list(folder.glob('*.png')))} there")
    print_next("check all data", "tools/reproduce.py", "data", "panoptic_*", "--data-root", args.data_root)
