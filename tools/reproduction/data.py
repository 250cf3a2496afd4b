"""The command ``data``: whether a data root has what rows need, and what exactly is missing.

A data set is checked once, however many rows need it. What is looked at: folders, numbers of files, that annotations
and files name each other, categories, the labels, depth and size of label maps; of COCO's images and panoptic maps a
sample.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reproduction.data_coco import COCO, instances_problems, panoptic_problems
from reproduction.data_files import QUICK_SAMPLE, Extent
from reproduction.data_segmentation import (
    ADE20K,
    CITYSCAPES,
    PASCAL_CONTEXT,
    ade20k_problems,
    cityscapes_problems,
    pascal_context_problems,
)
from reproduction.parallel import default_workers
from reproduction.rows import select_rows
from resnest_backbones.model_zoo import Recipe

_SEGMENTATION = {
    "ade20k": ("ADE20K", ade20k_problems),
    "pascal_context_59": ("PASCAL-Context with 59 classes", pascal_context_problems),
    "cityscapes": ("Cityscapes", cityscapes_problems),
}
_SEGMENTATION_NEEDS = {
    "ade20k": f"ade/ADEChallengeData2016: images and annotations of training ({ADE20K['training']}) and validation "
    f"({ADE20K['validation']})",
    "pascal_context_59": f"VOCdevkit/VOC2010: JPEGImages, and SegmentationClassContext and ImageSets/"
    f"SegmentationContext/{{train,val}}.txt ({PASCAL_CONTEXT['train']}, {PASCAL_CONTEXT['val']}), which "
    "tools/prepare_pascal_context.py makes",
    "cityscapes": f"cityscapes: leftImg8bit and gtFine with *_labelTrainIds.png of train ({CITYSCAPES['train']}) and "
    f"val ({CITYSCAPES['val']})",
}
_COCO = ("coco", "coco_panoptic")


@dataclass(frozen=True)
class DataCheck:
    """A check of one data set.

    Attributes:
        name: of the data set, for people.
        rows: names of the rows that need it.
        run: data root and extent -> what is missing or wrong, a line each.
    """

    name: str
    rows: tuple[str, ...]
    run: Callable[[Path, Extent], Iterator[str]]


def needs(recipe: Recipe) -> tuple[str, ...]:
    """What data a row needs, below the data root, a line for each part."""
    if recipe.dataset not in _COCO:
        return (_SEGMENTATION_NEEDS[recipe.dataset],)
    annotated = "boxes and masks" if _needs_masks(recipe) else "boxes"
    lines = [
        f"coco: train2017 ({COCO['train']} images), val2017 ({COCO['val']}), "
        f"annotations/instances_{{train,val}}2017.json with {annotated}"
    ]
    if recipe.dataset == "coco_panoptic":
        lines.append(
            "coco: annotations/panoptic_{train,val}2017.json, panoptic_{train,val}2017, and panoptic_stuff_{train,val}"
            "2017, which tools/prepare_panoptic_coco.py makes"
        )
    if "box_ap_test_dev" in recipe.metrics:
        lines.append("coco: test2017 and annotations/image_info_test-dev2017.json, for its figures on test-dev only")
    return tuple(lines)


def _needs_masks(recipe: Recipe) -> bool:
    return "mask_ap" in recipe.metrics


def find_checks(recipes: Sequence[Recipe]) -> list[DataCheck]:
    """The checks that rows need, each once."""
    checks = []
    if coco := [recipe for recipe in recipes if recipe.dataset in _COCO]:
        masks = any(_needs_masks(recipe) for recipe in coco)
        name = f"COCO 2017 with {'boxes and masks' if masks else 'boxes'}"
        checks.append(DataCheck(name, _names(coco), partial(instances_problems, masks=masks)))
    if panoptic := [recipe for recipe in recipes if recipe.dataset == "coco_panoptic"]:
        checks.append(DataCheck("panoptic COCO 2017", _names(panoptic), panoptic_problems))
    for dataset, (name, run) in _SEGMENTATION.items():
        if rows := [recipe for recipe in recipes if recipe.dataset == dataset]:
            checks.append(DataCheck(name, _names(rows), run))
    return checks


def _names(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    return tuple(recipe.name for recipe in recipes)


def problems(
    recipe: Recipe,
    data_root: Path,
    *,
    expect_full: bool = True,
    quick: bool = False,
    workers: int = 1,
    progress: bool = False,
) -> list[str]:
    """What of the data that a row needs is missing or wrong.

    Args:
        recipe: the row.
        data_root: folder of ``coco``, ``ade``, ``VOCdevkit`` and ``cityscapes``.
        expect_full: the numbers of images must be the published ones.
        quick: read a sample of the label maps only, spread over each folder.
        workers: processes that read label maps.
        progress: show progress bars.

    Returns:
        A line for each problem: the path, what must be there, what was found, and how to get it. Empty where all is
        well.
    """
    extent = Extent(expect_full=expect_full, quick=quick, workers=workers, progress=progress)
    return [line for check in find_checks([recipe]) for line in check.run(data_root, extent)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a row, a pattern or a data set (default: all rows)")
    parser.add_argument(
        "--data-root", type=Path, default=Path("datasets"), metavar="DIR",
        help="folder of coco/, ade/, VOCdevkit/ and cityscapes/ (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help=f"read {QUICK_SAMPLE} label maps of each folder, spread over it, not all"
    )
    parser.add_argument(
        "--any-count", action="store_true", help="let there be other numbers of images than the published ones"
    )
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Check, and print what is missing; 0 where nothing is, 1 where something is, 2 where the command is wrong."""
    try:
        checks = find_checks(select_rows(args.rows))
        if args.workers < 1:
            raise ValueError(f"--workers must be at least 1, got {args.workers}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    extent = Extent(
        expect_full=not args.any_count, quick=args.quick, workers=args.workers, progress=sys.stderr.isatty()
    )
    total = 0
    for check in checks:
        rows = check.rows[0] if len(check.rows) == 1 else f"{len(check.rows)} rows"
        print(f"{check.name}, for {rows}:", flush=True)
        before = total
        for problem in check.run(args.data_root, extent):
            print(f"  {problem}", flush=True)
            total += 1
        if total == before:
            print("  complete")
    found = f"{total} problem{'s' if total > 1 else ''}" if total else "has all that these rows need"
    print(f"{args.data_root}: {found}")
    return 1 if total else 0
