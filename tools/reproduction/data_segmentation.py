"""Checks of ADE20K, PASCAL-Context and Cityscapes in the layout of MMSegmentation's configs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reproduction.data_files import (
    Extent,
    Labels,
    count_problems,
    find_files,
    label_map_problems,
    missing_problems,
    some,
)
from reproduction.pascal_context import ANNOTATIONS_DOWNLOAD, IMAGES_DOWNLOAD

ADE20K = {"training": 20210, "validation": 2000}
PASCAL_CONTEXT = {"train": 4998, "val": 5105}
CITYSCAPES = {"train": 2975, "val": 500}

_MAPS = "SegmentationClassContext"
_ADE20K_SOURCE = "from http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
_VOC_SOURCE = f"from {IMAGES_DOWNLOAD}"
_CONTEXT_SOURCE = (
    f"made by `python tools/prepare_pascal_context.py`, of trainval_merged.json ({ANNOTATIONS_DOWNLOAD}) and the images"
)
_CITYSCAPES_SOURCE = "from https://www.cityscapes-dataset.com/downloads/ (leftImg8bit_trainvaltest.zip)"
_TRAIN_IDS_SOURCE = (
    "from https://www.cityscapes-dataset.com/downloads/ (gtFine_trainvaltest.zip), then "
    "`pip install cityscapesscripts` and `CITYSCAPES_DATASET={} csCreateTrainIdLabelImgs`"
)


def ade20k_problems(data_root: Path, extent: Extent) -> Iterator[str]:
    """What is missing or wrong in ``ade/ADEChallengeData2016``."""
    root = data_root / "ade" / "ADEChallengeData2016"
    for split, number in extent.splits(ADE20K).items():
        folders = root / "images" / split, root / "annotations" / split
        yield from _pair_problems(folders, (".jpg", ".png"), number, (_ADE20K_SOURCE,) * 2, Labels(150), extent)


def cityscapes_problems(data_root: Path, extent: Extent) -> Iterator[str]:
    """What is missing or wrong in ``cityscapes``."""
    root = data_root / "cityscapes"
    suffixes = "_leftImg8bit.png", "_gtFine_labelTrainIds.png"
    for split, number in extent.splits(CITYSCAPES).items():
        folders = root / "leftImg8bit" / split, root / "gtFine" / split
        sources = _CITYSCAPES_SOURCE, _TRAIN_IDS_SOURCE.format(root)
        yield from _pair_problems(folders, suffixes, number, sources, Labels(18), extent)


def _pair_problems(
    folders: tuple[Path, Path],
    suffixes: tuple[str, str],
    number: int,
    sources: tuple[str, str],
    labels: Labels,
    extent: Extent,
) -> Iterator[str]:
    """Of a folder of images and a folder of label maps, which have the same names but for their endings."""
    found = [find_files(folder, suffix) for folder, suffix in zip(folders, suffixes, strict=True)]
    kinds = [f"{what} *{suffix}" for what, suffix in zip(("images", "label maps"), suffixes, strict=True)]
    for folder, files, kind, source in zip(folders, found, kinds, sources, strict=True):
        if files is None:
            yield f"{folder}: no such folder; it must have {number} {kind}; {source}"
        else:
            yield from count_problems(folder, len(files), number, kind, source, extent)
    images, label_maps = found
    if not images or not label_maps:
        return
    for folder, suffix, wanted, there, source in (
        (folders[1], suffixes[1], images, label_maps, sources[1]),
        (folders[0], suffixes[0], label_maps, images, sources[0]),
    ):
        names = [f"{name}{suffix}" for name in wanted]
        kind = "label maps of the images" if folder == folders[1] else "images of the label maps"
        yield from missing_problems(folder, names, [f"{name}{suffix}" for name in there], kind, source)
    yield from label_map_problems(folders[1], label_maps, images, labels, extent)


def pascal_context_problems(data_root: Path, extent: Extent) -> Iterator[str]:
    """What is missing or wrong in ``VOCdevkit/VOC2010``."""
    root = data_root / "VOCdevkit" / "VOC2010"
    images, label_maps = (
        find_files(root / folder, suffix) for folder, suffix in (("JPEGImages", ".jpg"), (_MAPS, ".png"))
    )
    if images is None:
        yield f"{root / 'JPEGImages'}: no such folder; it must have the images of PASCAL VOC 2010; {_VOC_SOURCE}"
    if label_maps is None:
        number = sum(extent.splits(PASCAL_CONTEXT).values())
        yield f"{root / _MAPS}: no such folder; it must have {number} label maps *.png; {_CONTEXT_SOURCE}"
    listed: dict[str, list[str]] = {}
    for split, number in extent.splits(PASCAL_CONTEXT).items():
        file = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        if not file.is_file():
            yield f"{file}: no such file; it must name {number} images; {_CONTEXT_SOURCE}"
            continue
        listed[split] = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        yield from count_problems(file, len(listed[split]), number, "names of images", _CONTEXT_SOURCE, extent)
        for folder, suffix, there, source in (
            (root / "JPEGImages", ".jpg", images, _VOC_SOURCE),
            (root / _MAPS, ".png", label_maps, _CONTEXT_SOURCE),
        ):
            if there is not None:
                wanted = [f"{name}{suffix}" for name in listed[split]]
                known = [f"{name}{suffix}" for name in there]
                yield from missing_problems(folder, wanted, known, f"files that {file.name} names", source)
    if both := sorted(set(listed.get("train", ())) & set(listed.get("val", ()))):
        yield f"{root / 'ImageSets' / 'SegmentationContext'}: {len(both)} images are in both lists: {some(both)}"
    names = {name for split in listed.values() for name in split}
    used = {name: file for name, file in (label_maps or {}).items() if name in names}
    yield from label_map_problems(root / _MAPS, used, images or {}, Labels(59), extent)
