"""Checks of COCO and of its panoptic annotations in the layout of Detectron2's own data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reproduction.coco_categories import STUFF, THINGS
from reproduction.data_files import (
    Extent,
    Labels,
    count_problems,
    find_files,
    label_map_problems,
    missing_problems,
    read_size,
    some,
    spread,
)
from reproduction.panoptic_coco import DOWNLOAD, PanopticError, make_stuff_map, read_segment_ids

COCO = {"train": 118287, "val": 5000}

_SAMPLE = 50  # images and panoptic maps that are compared with what their annotations say
_PAGE = "https://cocodataset.org/#download"
_ANNOTATIONS_SOURCE = f"from {_PAGE}, annotations_trainval2017.zip"
_PANOPTIC_SOURCE = f"from {DOWNLOAD}"
_STUFF_SOURCE = "made by `python tools/prepare_panoptic_coco.py`"


def instances_problems(data_root: Path, extent: Extent, *, masks: bool) -> Iterator[str]:
    """What is missing or wrong in ``coco``: images, boxes, and masks where they are needed."""
    for split, number in extent.splits(COCO).items():
        folder, file = (
            data_root / "coco" / name for name in (f"{split}2017", f"annotations/instances_{split}2017.json")
        )
        source = f"from {_PAGE}, {split}2017.zip"
        images = find_files(folder, ".jpg")
        if images is None:
            yield f"{folder}: no such folder; it must have {number} images *.jpg; {source}"
        else:
            yield from count_problems(folder, len(images), number, "images *.jpg", source, extent)
        content = _read(file, ("images", "annotations", "categories"))
        if isinstance(content, str):
            yield f"{content}; {_ANNOTATIONS_SOURCE}"
            continue
        yield from _content_problems(file, content, masks=masks)
        yield from count_problems(file, len(content["images"]), number, "images", _ANNOTATIONS_SOURCE, extent)
        if images:
            names = [str(image.get("file_name")) for image in content["images"]]
            there = [f"{name}.jpg" for name in images]
            yield from missing_problems(folder, names, there, f"images that {file.name} names", source)
            yield from _size_problems(folder, content["images"])


def _read(file: Path, keys: tuple[str, ...]) -> dict[str, Any] | str:
    """The content of a json of COCO's, or what is wrong with it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{file}: no such file"
    except (OSError, ValueError) as error:
        return f"{file}: cannot be read as json: {error}"
    lists = [key for key in keys if isinstance(content, dict) and _is_list_of_dicts(content.get(key))]
    if len(lists) < len(keys):
        return f"{file}: must have lists of {', '.join(keys)}, got {', '.join(lists) or 'none of them'}"
    return dict(content)


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _content_problems(file: Path, content: Mapping[str, Any], *, masks: bool) -> Iterator[str]:
    """Categories, and what each annotation must have."""
    yield from _category_problems(file, content, {number: (name,) for number, name in THINGS.items()}, ("name",))
    annotations = content["annotations"]
    if not annotations:
        yield f"{file}: must have annotations, got none"
    images = {image.get("id") for image in content["images"]}
    needed = {"image_id", "category_id", "bbox", *(["segmentation"] if masks else [])}
    for reason, wrong in (
        (f"do not have all of {', '.join(sorted(needed))}", [a for a in annotations if not needed <= a.keys()]),
        ("are of an image that is not in the file", [a for a in annotations if a.get("image_id") not in images]),
        ("are of a category that COCO has not", [a for a in annotations if a.get("category_id") not in THINGS]),
        ("have no mask", [a for a in annotations if masks and not a.get("segmentation", True)]),
    ):
        if wrong:
            which = some([str(annotation.get("id")) for annotation in wrong])
            yield f"{file}: {len(wrong)} of {len(annotations)} annotations {reason}: id {which}"


def _category_problems(
    file: Path, content: Mapping[str, Any], wanted: Mapping[int, tuple[Any, ...]], keys: tuple[str, ...]
) -> Iterator[str]:
    found = {category.get("id"): tuple(category.get(key) for key in keys) for category in content["categories"]}
    if found != wanted:
        number = next(n for n in (*wanted, *found) if found.get(n) != wanted.get(n))
        yield (
            f"{file}: must have COCO's {len(wanted)} categories, got {len(found)}; the first to differ is that of id "
            f"{number}: must be {_shown(wanted, number)}, got {_shown(found, number)}"
        )


def _shown(categories: Mapping[int, tuple[Any, ...]], number: int) -> str:
    return ", ".join(map(str, categories[number])) if number in categories else "none"


def _size_problems(folder: Path, images: list[dict[str, Any]]) -> Iterator[str]:
    """Of a sample, which images cannot be read, or are not as large as the annotations say."""
    for image in spread(images, _SAMPLE):
        file = folder / str(image.get("file_name"))
        if file.is_file():
            size, wanted = read_size(file), (image.get("width"), image.get("height"))
            if isinstance(size, str):
                yield size
            elif size != wanted:
                yield f"{file}: must be {wanted} (width, height) as its annotation says, got {size}"


def panoptic_problems(data_root: Path, extent: Extent) -> Iterator[str]:
    """What is missing or wrong in the panoptic part of ``coco``; ``instances_problems`` says the rest."""
    categories: dict[int, tuple[Any, ...]] = {number: (name, 1) for number, name in THINGS.items()}
    categories |= {number: (name, 0) for number, name in STUFF.items()}
    coco = data_root / "coco"
    for split, number in extent.splits(COCO).items():
        file = coco / "annotations" / f"panoptic_{split}2017.json"
        content = _read(file, ("images", "annotations", "categories"))
        annotations: list[dict[str, Any]] = []
        if isinstance(content, str):
            yield f"{content}; {_PANOPTIC_SOURCE}"
        else:
            annotations = content["annotations"]
            yield from _category_problems(file, content, categories, ("name", "isthing"))
            yield from count_problems(file, len(annotations), number, "annotations", _PANOPTIC_SOURCE, extent)
        panoptic, stuff = coco / f"panoptic_{split}2017", coco / f"panoptic_stuff_{split}2017"
        yield from _folder_problems(panoptic, annotations, number, _PANOPTIC_SOURCE, extent)
        yield from _folder_problems(stuff, annotations, number, _STUFF_SOURCE, extent)
        yield from _map_problems(panoptic, stuff, annotations)
        stuff_maps, images = find_files(stuff, ".png") or {}, find_files(coco / f"{split}2017", ".jpg") or {}
        # Detectron2 reads these as grey values: it would take a palette's colours for labels.
        yield from label_map_problems(stuff, stuff_maps, images, Labels(53, modes=("L",)), extent)


def _folder_problems(
    folder: Path, annotations: list[dict[str, Any]], number: int, source: str, extent: Extent
) -> Iterator[str]:
    files = find_files(folder, ".png")
    if files is None:
        yield f"{folder}: no such folder; it must have {number} maps *.png; {source}"
        return
    yield from count_problems(folder, len(files), number, "maps *.png", source, extent)
    if files:
        names = [str(annotation.get("file_name")) for annotation in annotations]
        yield from missing_problems(folder, names, [f"{name}.png" for name in files], "annotated maps", source)


def _map_problems(panoptic: Path, stuff: Path, annotations: list[dict[str, Any]]) -> Iterator[str]:
    """Of a sample, which panoptic maps and which semantic ones made of them are not as annotated."""
    for annotation in spread(annotations, _SAMPLE):
        given, made = (folder / str(annotation.get("file_name")) for folder in (panoptic, stuff))
        if not given.is_file():
            continue
        try:
            ids = read_segment_ids(given)
            expected = make_stuff_map(ids, annotation["segments_info"])
            annotated = {segment["id"] for segment in annotation["segments_info"]}
        except (PanopticError, LookupError, TypeError) as error:
            yield f"{given}: {error}" if str(given) not in str(error) else str(error)
            continue
        if annotated and not annotated & set(np.unique(ids).tolist()):
            yield f"{given}: must show the segments of its annotation, got none of them; {_PANOPTIC_SOURCE}"
        elif (found := _read_labels(made)) is not None and not np.array_equal(found, expected):
            yield f"{made}: must show the stuff of {given}, got something else; remove it, it is {_STUFF_SOURCE}"


def _read_labels(file: Path) -> np.ndarray | None:
    """The pixels of a label map; None where it is missing or broken, which is told elsewhere."""
    try:
        return np.asarray(Image.open(file))
    except (OSError, SyntaxError, ValueError):
        return None
