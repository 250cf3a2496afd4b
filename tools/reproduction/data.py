"""``tools/reproduce.py data``: whether a data root has what recipes need, and what exactly is missing.

``LAYOUT`` is the one table of what each dataset must have. Checked are folders, numbers of files, that annotations and
files name each other, the fields of COCO's annotations, and the labels, depth and size of label maps.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from reproduction import pascal_context
from reproduction.common import DEFAULT_WORKERS, add_data_root, select_recipes
from reproduction.panoptic_coco import DOWNLOAD as PANOPTIC_DOWNLOAD
from reproduction.panoptic_coco import coco_categories
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import Recipe

Item = TypeVar("Item")

_QUICK = 100  # label maps of a folder that a quick check reads
_SHOWN = 3  # names in a message
_SHOWN_FILES = 5  # wrong label maps that get a message each
_IGNORED = 255  # the label that every loader of the recipes ignores


@dataclass(frozen=True)
class Folder:
    """Files that a split needs, one for each of its images.

    Attributes:
        path: below the data root.
        suffix: of the files, behind the name of the image.
        source: where they come from.
        last_label: the largest label of label maps; None for other images.
        modes: of PIL, in which the recipes' loaders read label maps.
        shared: with another split, so that the number of files says nothing.
    """

    path: str
    suffix: str
    source: str
    last_label: int | None = None
    modes: tuple[str, ...] = ("L", "P")
    shared: bool = False


@dataclass(frozen=True)
class Split:
    """A split of a dataset.

    Attributes:
        name: ``train`` or ``val``.
        count: published number of its images.
        folders: the images first.
        index: file below the data root that names the images; "" where the folders do.
        index_source: where it comes from.
    """

    name: str
    count: int
    folders: tuple[Folder, ...]
    index: str = ""
    index_source: str = ""


def _coco(split: str, count: int) -> Split:
    page = "from https://cocodataset.org/#download"
    images = Folder(f"coco/{split}2017", ".jpg", f"{page}, {split}2017.zip")
    json_file = f"coco/annotations/instances_{split}2017.json"
    return Split(split, count, (images,), json_file, f"{page}, annotations_trainval2017.zip")


def _panoptic(split: str, count: int) -> Split:
    source, made = f"from {PANOPTIC_DOWNLOAD}", "made by `python tools/prepare_panoptic_coco.py`"
    maps = Folder(f"coco/panoptic_{split}2017", ".png", source)
    # Detectron2 reads these as grey values: it would take the colours of a palette for labels.
    stuff = Folder(f"coco/panoptic_stuff_{split}2017", ".png", made, 53, ("L",))
    return Split(split, count, (maps, stuff), f"coco/annotations/panoptic_{split}2017.json", source)


def _ade20k(split: str, count: int) -> Split:
    root, source = "ade/ADEChallengeData2016", "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
    folder = {"train": "training", "val": "validation"}[split]
    images = Folder(f"{root}/images/{folder}", ".jpg", f"from {source}")
    return Split(split, count, (images, Folder(f"{root}/annotations/{folder}", ".png", f"from {source}", 150)))


def _pascal_context(split: str, count: int) -> Split:
    root = "VOCdevkit/VOC2010"
    made = (
        f"made by `python tools/prepare_pascal_context.py` from {pascal_context.ANNOTATION_FILE} "
        f"({pascal_context.ANNOTATIONS_DOWNLOAD}) and the images"
    )
    images = Folder(f"{root}/JPEGImages", ".jpg", f"from {pascal_context.IMAGES_DOWNLOAD}", shared=True)
    maps = Folder(f"{root}/SegmentationClassContext", ".png", made, 59, shared=True)
    return Split(split, count, (images, maps), f"{root}/ImageSets/SegmentationContext/{split}.txt", made)


def _cityscapes(split: str, count: int) -> Split:
    page = "from https://www.cityscapes-dataset.com/downloads/"
    made = (
        f"{page} (gtFine_trainvaltest.zip), then `pip install cityscapesscripts` and "
        "`CITYSCAPES_DATASET=DATA_ROOT/cityscapes csCreateTrainIdLabelImgs`"
    )
    images = Folder(f"cityscapes/leftImg8bit/{split}", "_leftImg8bit.png", f"{page} (leftImg8bit_trainvaltest.zip)")
    return Split(split, count, (images, Folder(f"cityscapes/gtFine/{split}", "_gtFine_labelTrainIds.png", made, 18)))


LAYOUT: Mapping[str, tuple[Split, Split]] = {
    "coco": (_coco("train", 118287), _coco("val", 5000)),
    "coco_panoptic": (_panoptic("train", 118287), _panoptic("val", 5000)),
    "ade20k": (_ade20k("train", 20210), _ade20k("val", 2000)),
    "pascal_context_59": (_pascal_context("train", 4998), _pascal_context("val", 5105)),
    "cityscapes": (_cityscapes("train", 2975), _cityscapes("val", 500)),
}


@dataclass(frozen=True)
class Extent:
    """How far a check goes.

    Attributes:
        any_count: accept other numbers of images than the published ones.
        quick: read only a sample of the label maps, spread over each folder.
        training: check the split for training, too.
        workers: threads that read label maps.
        progress: show progress bars.
    """

    any_count: bool = False
    quick: bool = False
    training: bool = True
    workers: int = 1
    progress: bool = False


def datasets_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the keys of ``LAYOUT`` that a recipe needs."""
    return ("coco", "coco_panoptic") if recipe.dataset == "coco_panoptic" else (recipe.dataset,)


def needs(recipe: Recipe) -> list[str]:
    """Return what a recipe needs below the data root, a line for each split."""
    lines = []
    for dataset in datasets_of(recipe):
        for split in LAYOUT[dataset]:
            paths = ", ".join(filter(None, (split.index, *(folder.path for folder in split.folders))))
            lines.append(f"{split.count} images to {'train' if split.name == 'train' else 'evaluate'} on: {paths}")
    return lines


def check(recipe: Recipe, data_root: Path, extent: Extent) -> Iterator[str]:
    """Yield what is missing or wrong in the data of a recipe: path, what must be there, what was found, its source."""
    for dataset in datasets_of(recipe):
        yield from _check_dataset(dataset, data_root, extent, masks="mask_ap" in recipe.metrics)


def _check_dataset(dataset: str, data_root: Path, extent: Extent, *, masks: bool) -> Iterator[str]:
    seen: dict[str, str] = {}
    for split in LAYOUT[dataset] if extent.training else LAYOUT[dataset][1:]:
        found = {folder: _find(data_root / folder.path, folder.suffix) for folder in split.folders}
        for folder, files in found.items():
            what = f"{split.count} files *{folder.suffix}"
            if files is None:
                yield f"{data_root / folder.path}: no such folder; it must have {what}; {folder.source}"
            elif not files or not (extent.any_count or folder.shared or len(files) == split.count):
                yield f"{data_root / folder.path}: must have {what}, got {len(files)}; {folder.source}"
        if split.index:
            names = []
            try:
                names = _read_index(data_root / split.index, masks=masks)
                if not names or (len(names) != split.count and not extent.any_count):
                    raise ConfigError(f"must name {split.count} images, got {len(names)}")
            except (ConfigError, OSError) as error:
                yield f"{data_root / split.index}: {error}; {split.index_source}"
            both = [name for name in names if seen.setdefault(name, split.name) != split.name]
            if both and split.folders[0].shared:
                yield f"{data_root / split.index}: {len(both)} images are in the other split, too: {_some(both)}"
        else:
            names = sorted({name for files in found.values() for name in files or ()})
        for folder, files in found.items():
            if files and (missing := [f"{name}{folder.suffix}" for name in names if name not in files]):
                text = f"{len(missing)} of {len(names)} files are missing: {_some(missing)}"
                yield f"{data_root / folder.path}: {text}; {folder.source}"
        images = found[split.folders[0]] or {}
        for folder, files in found.items():
            if folder.last_label is not None:
                pairs = [(files[name], images[name]) for name in names if name in (files or {}) and name in images]
                yield from _label_map_problems(data_root / folder.path, folder, pairs, extent)


def _find(folder: Path, suffix: str) -> dict[str, Path] | None:
    """Return the files below a folder by their path in it without the suffix; None where there is no folder."""
    if not folder.is_dir():
        return None
    files = (file for file in folder.rglob(f"*{suffix}") if not file.name.startswith("."))
    return {str(file.relative_to(folder)).removesuffix(suffix): file for file in sorted(files)}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# The files that name the images of a split


def _read_index(file: Path, *, masks: bool) -> list[str]:
    """Return the names of images in a list or in annotations of COCO, without suffix; raise what is wrong with it."""
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else text.split()
    except FileNotFoundError:
        raise ConfigError("does not exist") from None
    except ValueError as error:
        raise ConfigError(f"cannot be read: {error}") from error
    if isinstance(content, list):
        return content
    lists = [content.get(key) for key in ("images", "annotations", "categories")]
    if not all(isinstance(value, list) and all(isinstance(item, dict) for item in value) for value in lists):
        raise ConfigError("must have lists of images, annotations and categories")
    panoptic = file.name.startswith("panoptic")
    _check_categories(content["categories"], panoptic=panoptic)
    if panoptic:
        _check_fields(content["annotations"], {"image_id", "file_name", "segments_info"})
    else:
        needed = {"image_id", "category_id", "bbox", *(["segmentation"] if masks else [])}
        _check_fields(content["annotations"], needed)
        images = {image.get("id") for image in content["images"]}
        if unknown := {annotation["image_id"] for annotation in content["annotations"]} - images:
            raise ConfigError(f"has annotations of images that it does not list: {_some([*map(str, sorted(unknown))])}")
    return [Path(str(item.get("file_name"))).stem for item in content["annotations" if panoptic else "images"]]


def _check_categories(categories: Sequence[Mapping[str, Any]], *, panoptic: bool) -> None:
    expected = {number: pair for number, pair in coco_categories().items() if panoptic or pair[1]}
    found = {category.get("id"): (category.get("name"), category.get("isthing", 1)) for category in categories}
    if found != expected:
        number = next(number for number in (*expected, *found) if found.get(number) != expected.get(number))
        raise ConfigError(
            f"must have the {len(expected)} categories of COCO; id {number} must be {expected.get(number)} (name, "
            f"isthing), got {found.get(number)}"
        )


def _check_fields(annotations: Sequence[Mapping[str, Any]], needed: set[str]) -> None:
    masks = "segmentation" in needed
    wrong = [a for a in annotations if not needed <= a.keys() or (masks and not a["segmentation"])]
    if wrong or not annotations:
        which = f"{len(wrong)} of {len(annotations)} lack some: id {_some([str(a.get('id')) for a in wrong])}"
        raise ConfigError(f"must have annotations with {', '.join(sorted(needed))}; {which if wrong else 'got none'}")


# Label maps


def _label_map_problems(
    path: Path, folder: Folder, pairs: Sequence[tuple[Path, Path]], extent: Extent
) -> Iterator[str]:
    if extent.quick:
        pairs = spread(pairs, _QUICK)
    with ThreadPoolExecutor(extent.workers) as pool:
        results = pool.map(partial(_label_map_problem, folder), pairs)
        show = tqdm(results, total=len(pairs), desc=f"labels in {path.name}", disable=not extent.progress)
        wrong = [problem for problem in show if problem]
    yield from wrong[:_SHOWN_FILES]
    if len(wrong) > _SHOWN_FILES:
        yield f"{path}: {len(wrong)} of the {len(pairs)} label maps that were read are wrong"


def _label_map_problem(folder: Folder, pair: tuple[Path, Path]) -> str:
    assert folder.last_label is not None
    file, image_file = pair
    try:
        with Image.open(file) as label_map, Image.open(image_file) as image:
            if label_map.mode not in folder.modes:
                modes = " or ".join(folder.modes)
                return f"{file}: must be an image of one channel of 8 bits (mode {modes}), got mode {label_map.mode}"
            if label_map.size != image.size:
                return f"{file}: must be {image.size} (width, height) as {image_file}, got {label_map.size}"
            values = np.unique(np.asarray(label_map))
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises each of them for a broken file
        return f"{file} or {image_file.name}: cannot be read as an image: {error}"
    if wrong := [str(value) for value in values if value > folder.last_label and value != _IGNORED]:
        return f"{file}: labels must be 0 to {folder.last_label} or {_IGNORED}, got {_some(wrong)}"
    return ""


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` of the items, evenly spread, the first and the last among them.

    >>> spread(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(items) <= count:
        return list(items)
    return [items[number * (len(items) - 1) // (count - 1)] for number in range(count)]


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``data``."""
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all")
    add_data_root(parser)
    parser.add_argument("--quick", action="store_true", help=f"read {_QUICK} label maps of each folder, not all")
    parser.add_argument(
        "--any-count", action="store_true", help="accept other numbers of images than the published ones"
    )
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="threads (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Check, and print what is missing; return 1 where something is."""
    if args.workers < 1:
        raise ConfigError(f"--workers must be positive, got {args.workers}")
    recipes = select_recipes(args.recipes)
    extent = Extent(args.any_count, args.quick, workers=args.workers, progress=sys.stderr.isatty())
    total = 0
    for dataset in LAYOUT:
        users = [recipe for recipe in recipes if dataset in datasets_of(recipe)]
        if not users:
            continue
        print(f"{dataset}, for {users[0].name if len(users) == 1 else f'{len(users)} recipes'}:", flush=True)
        masks = any("mask_ap" in recipe.metrics for recipe in users)
        before = total
        for problem in _check_dataset(dataset, args.data_root, extent, masks=masks):
            print(f"  {problem}", flush=True)
            total += 1
        if total == before:
            print("  complete")
    found = f"{total} problem{'s' if total > 1 else ''}" if total else "has all that these recipes need"
    print(f"{args.data_root}: {found}")
    return 1 if total else 0
