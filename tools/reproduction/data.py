"""``tools/reproduce.py data``: whether a data root has what recipes need, and what exactly is missing.

``LAYOUT`` is the one table of what each dataset must have. Checked are folders, numbers of files, that annotations and
files name each other, the fields of COCO's annotations, and the labels, depth and size of label maps.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.contrib.concurrent import thread_map

from reproduction import panoptic_coco, pascal_context
from reproduction.common import DEFAULT_WORKERS, SPLITS, Item, add_data_root, select_recipes
from resnest_backbones.errors import ConfigError, name_first
from resnest_backbones.model_zoo import Recipe

_QUICK = 100  # label maps of a folder that a quick check reads
_SHOWN_FILES = 5  # wrong label maps that get a message each
_IGNORED = 255  # the label that every loader of the recipes ignores


@dataclass(frozen=True)
class Folder:
    """Files that a split needs, one for each of its images."""

    path: str  # below the data root
    suffix: str  # of the files, behind the name of the image
    source: str  # where they come from
    last_label: int | None = None  # the largest label of label maps; None for other images
    modes: tuple[str, ...] = ("L", "P")  # of PIL, in which the recipes' loaders read label maps
    shared: bool = False  # with another split, so that the number of files says nothing
    classes: int | None = None  # folders that the files must lie in, one for each class; None where any will do


@dataclass(frozen=True)
class Split:
    """A split of a dataset."""

    name: str  # train or val
    count: int  # published number of its images
    folders: tuple[Folder, ...]  # the images first
    index: str  # file below the data root that names the images; "" where the folders do
    index_source: str  # where it comes from


def _splits(
    counts: tuple[int, int], *folders: Folder, index: str = "", source: str = "", names: Sequence[str] = SPLITS
) -> tuple[Split, ...]:
    splits = []
    for split, count, name in zip(SPLITS, counts, names, strict=True):
        named = [[text.replace("{split}", name) for text in (f.path, f.source)] for f in folders]
        filled = tuple(replace(f, path=path, source=text) for f, (path, text) in zip(folders, named, strict=True))
        splits.append(Split(split, count, filled, index.replace("{split}", name), source))
    return tuple(splits)


_COCO, _CITYSCAPES = "from https://cocodataset.org/#download", "from https://www.cityscapes-dataset.com/downloads/"
_PANOPTIC, _STUFF = f"from {panoptic_coco.DOWNLOAD}", "made by `python tools/prepare_panoptic_coco.py`"
_ADE, _ADE_ZIP = "ade/ADEChallengeData2016", "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
_VOC = "VOCdevkit/VOC2010"
_CONTEXT = (
    f"made by `python tools/prepare_pascal_context.py` from {pascal_context.ANNOTATION_FILE} "
    f"({pascal_context.ANNOTATIONS_DOWNLOAD}) and the images"
)
_TRAIN_IDS = (
    f"{_CITYSCAPES} (gtFine_trainvaltest.zip), then `pip install cityscapesscripts` and "
    "`CITYSCAPES_DATASET=DATA_ROOT/cityscapes csCreateTrainIdLabelImgs`"
)
_IMAGENET = "https://image-net.org/challenges/LSVRC/2012"
_TEST_DEV = "coco/annotations/image_info_test-dev2017.json, coco/test2017"
LAYOUT: Mapping[str, tuple[Split, ...]] = {
    "coco": _splits(
        (118287, 5000),
        Folder("coco/{split}2017", ".jpg", _COCO + ", {split}2017.zip"),
        index="coco/annotations/instances_{split}2017.json",
        source=f"{_COCO}, annotations_trainval2017.zip",
    ),
    "coco_panoptic": _splits(
        (118287, 5000),
        Folder("coco/panoptic_{split}2017", ".png", _PANOPTIC),
        # Detectron2 reads these as grey values: it would take the colours of a palette for labels.
        Folder("coco/panoptic_stuff_{split}2017", ".png", _STUFF, 53, ("L",)),
        index="coco/annotations/panoptic_{split}2017.json",
        source=_PANOPTIC,
    ),
    "ade20k": _splits(
        (20210, 2000),
        Folder(f"{_ADE}/images/{{split}}", ".jpg", f"from {_ADE_ZIP}"),
        Folder(f"{_ADE}/annotations/{{split}}", ".png", f"from {_ADE_ZIP}", 150),
        names=("training", "validation"),
    ),
    "pascal_context_59": _splits(
        (4998, 5105),
        Folder(f"{_VOC}/JPEGImages", ".jpg", f"from {pascal_context.IMAGES_DOWNLOAD}", shared=True),
        Folder(f"{_VOC}/SegmentationClassContext", ".png", _CONTEXT, 59, shared=True),
        index=f"{_VOC}/ImageSets/SegmentationContext/{{split}}.txt",
        source=_CONTEXT,
    ),
    "cityscapes": _splits(
        (2975, 500),
        Folder("cityscapes/leftImg8bit/{split}", "_leftImg8bit.png", f"{_CITYSCAPES} (leftImg8bit_trainvaltest.zip)"),
        Folder("cityscapes/gtFine/{split}", "_gtFine_labelTrainIds.png", _TRAIN_IDS, 18),
    ),
    "imagenet": _splits(
        (1281167, 50000),
        Folder("imagenet/{split}", ".JPEG", f"from {_IMAGENET}, in a folder for each of 1000 classes", classes=1000),
    ),
}


@dataclass(frozen=True)
class Extent:
    """How far a check goes."""

    any_count: bool = False  # accept other numbers of images than the published ones
    quick: bool = False  # read only a sample of the label maps, spread over each folder
    training: bool = True  # check the split for training, too
    workers: int = 1  # threads that read label maps
    progress: bool = False


def datasets_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the keys of ``LAYOUT`` that a recipe needs."""
    return ("coco", "coco_panoptic") if recipe.dataset == "coco_panoptic" else (recipe.dataset,)


def needs(recipe: Recipe, *, training: bool = True) -> list[str]:
    """Return what a recipe needs below the data root, a line for each split; for an evaluation alone, the last."""
    lines = []
    for split in (split for dataset in datasets_of(recipe) for split in LAYOUT[dataset][0 if training else 1 :]):
        paths = ", ".join(filter(None, (split.index, *(folder.path for folder in split.folders))))
        lines.append(f"{split.count} images to {'train' if split.name == 'train' else 'evaluate'} on: {paths}")
    if "box_ap_test_dev" in recipe.metrics:
        lines.append(f"20288 images to predict on for COCO's server, which `run` does not: {_TEST_DEV}")
    return lines


def make_check(data_root: Path, extent: Extent) -> Callable[[Recipe], list[str]]:
    """Return a function that checks the data of a recipe, and reads a dataset only once for several of them.

    It returns what is missing or wrong: path, what must be there, what was found, its source.
    """

    @functools.cache
    def problems(dataset: str, masks: bool) -> list[str]:
        return list(_check_dataset(dataset, data_root, extent, masks=masks))

    return lambda recipe: [
        problem for dataset in datasets_of(recipe) for problem in problems(dataset, "mask_ap" in recipe.metrics)
    ]


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
            elif folder.classes and not extent.any_count and (got := _count_parents(files)) != folder.classes:
                yield f"{data_root / folder.path}: must have {folder.classes} folders of files, got {got}"
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
                yield f"{data_root / split.index}: {len(both)} images are in the other split, too: {name_first(both)}"
        else:
            names = sorted({name for files in found.values() for name in files or ()})
        images = found[split.folders[0]] or {}
        for folder, files in found.items():
            if files and (missing := [f"{name}{folder.suffix}" for name in names if name not in files]):
                text = f"{len(missing)} of {len(names)} files are missing: {name_first(missing)}"
                yield f"{data_root / folder.path}: {text}; {folder.source}"
            if files and folder.last_label is not None:
                pairs = [(files[name], images[name]) for name in names if name in files and name in images]
                yield from _label_map_problems(data_root / folder.path, folder, pairs, extent)


def _find(folder: Path, suffix: str) -> dict[str, Path] | None:
    """Return the files below a folder by their path in it without the suffix; None where there is no folder."""
    if not folder.is_dir():
        return None
    files = (file for file in folder.rglob(f"*{suffix}") if not file.name.startswith("."))
    return {str(file.relative_to(folder)).removesuffix(suffix): file for file in sorted(files)}


def _count_parents(names: Iterable[str]) -> int:
    return len({Path(name).parent for name in names})


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
    images, annotations, categories = lists
    panoptic = file.name.startswith("panoptic")
    known = panoptic_coco.coco_categories().items()
    expected = {number: pair for number, pair in known if panoptic or pair[1]}
    if wrong_kinds := panoptic_coco.wrong_categories(categories, expected):
        raise ConfigError(wrong_kinds)
    needed = {"image_id", "file_name", "segments_info"} if panoptic else {"image_id", "category_id", "bbox"}
    masks = masks and not panoptic
    needed |= {"segmentation"} if masks else set()
    wrong = [a for a in annotations if not needed <= a.keys() or (masks and not a["segmentation"])]
    if wrong or not annotations:
        which = f"{len(wrong)} of {len(annotations)} lack some: id {name_first([a.get('id') for a in wrong])}"
        raise ConfigError(f"must have annotations with {', '.join(sorted(needed))}; {which if wrong else 'got none'}")
    unknown = {annotation["image_id"] for annotation in annotations} - {image.get("id") for image in images}
    if unknown and not panoptic:
        raise ConfigError(f"annotates images missing from its 'images' list: {name_first(sorted(unknown))}")
    return [Path(str(item.get("file_name"))).stem for item in (annotations if panoptic else images)]


def _label_map_problems(
    path: Path, folder: Folder, pairs: Sequence[tuple[Path, Path]], extent: Extent
) -> Iterator[str]:
    pairs = spread(pairs, _QUICK) if extent.quick else pairs
    results = thread_map(
        functools.partial(_label_map_problem, folder), pairs, max_workers=extent.workers, desc=f"labels in {path.name}",
        disable=not extent.progress,
    )  # fmt: skip
    wrong = [problem for problem in results if problem]
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
        return f"{file}: labels must be 0 to {folder.last_label} or {_IGNORED}, got {name_first(wrong)}"
    return ""


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` of the items, evenly spread, the first and the last among them.

    >>> spread(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(items) <= count:
        return list(items)
    return [items[number * (len(items) - 1) // (count - 1)] for number in range(count)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``data``."""
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all")
    add_data_root(parser)
    parser.add_argument(
        "--published", action="store_true",
        help="check only what `run --published` needs, which is the validation split, and print it",
    )  # fmt: skip
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
    extent = Extent(args.any_count, args.quick, not args.published, args.workers, sys.stderr.isatty())
    total = 0
    for dataset in LAYOUT:
        users = [recipe for recipe in recipes if dataset in datasets_of(recipe)]
        if not users:
            continue
        print(f"{dataset}, for {users[0].name if len(users) == 1 else f'{len(users)} recipes'}:", flush=True)
        if args.published:
            print(*(f"  {line}" for line in needs(users[0], training=False)), sep="\n")
        masks, before = any("mask_ap" in recipe.metrics for recipe in users), total
        for problem in _check_dataset(dataset, args.data_root, extent, masks=masks):
            print(f"  {problem}", flush=True)
            total += 1
        if total == before:
            print("  complete")
    found = f"{total} problem{'s' if total > 1 else ''}" if total else "has all that these recipes need"
    print(f"{args.data_root}: {found}")
    return 1 if total else 0
