"""A small seeded dataset for detection and for instance and semantic segmentation, made without a download.

Handwritten digits (scikit-learn's ``load_digits``: 1797 scans of 8 x 8 pixels) are pasted, at random size, tilt and
color, on crops of the photographs that ship with scikit-image and scikit-learn. Training and validation share neither
a scan nor a part of a photograph.

One root serves the loaders of COCO (Detectron2) and of ADE20K (MMSegmentation)::

    demo_data.json                                 arguments and generator version, which decide on reuse
    classes.txt                                    class names, line n is label n: background, zero .. nine
    images/{training,validation}/000001.jpg        RGB
    annotations/{training,validation}/000001.png   uint8, ADE20K labels: 1 background, 2..11 digits; 0 is unused
    annotations/instances_{train,val}.json         COCO instances: categories 1..10 are zero .. nine

All files agree to the pixel. COCO polygons have no holes, so a digit owns what its strokes enclose, such as the inside
of a zero. A later digit may cover up to 60% of an earlier one, but never cuts a hole into it.

Shapes: S side of the square image in pixels, (h, w) digit, tight around its ink. Colors are RGB in 0..255.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage
from skimage import data, measure
from sklearn.datasets import load_digits, load_sample_images
from tqdm import tqdm

from resnest_backbones.errors import DatasetError

GENERATOR_VERSION = 1  # raise it when the same arguments give other files
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLASS_NAMES = ("background", *DIGIT_NAMES)

_SPLITS = {"train": "training", "val": "validation"}  # COCO's names and ADE20K's
# 80% for training, in the order of the file, which keeps the scans of one writer together.
_SCANS = {"train": range(1437), "val": range(1437, 1797)}
_TRAIN_WIDTH = 0.65  # training crops come from the left 65% of each photograph, validation crops from the rest
_PHOTOS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "rocket")
_LIMITS = {"num_train": (1, 100_000), "num_val": (1, 100_000), "image_size": (64, 1024), "seed": (0, 2**63 - 1)}
_MIN_VISIBLE = 0.4
_MAX_BOX_OVERLAP = 0.25  # intersection over the smaller box
_MIN_CONTRAST = 75.0  # in luma (0..255), between the ink and 85% of the pixels under it


@dataclass(frozen=True)
class DemoDataset:
    """The paths of the dataset."""

    root: Path
    train_images: Path
    val_images: Path
    train_json: Path
    val_json: Path
    train_label_maps: Path
    val_label_maps: Path


def make_demo_dataset(
    root: str | Path,
    *,
    num_train: int = 400,
    num_val: int = 80,
    image_size: int = 160,
    digits_per_image: tuple[int, int] = (1, 5),
    seed: int = 0,
    progress: bool = True,
) -> DemoDataset:
    """Write the dataset to ``root``, or reuse it if the same call has written it before.

    The same arguments give byte-identical files (with the same versions of the libraries), and image n of a split does
    not depend on the number of images. An interrupted call leaves nothing behind, and a ``root`` that holds something
    else is refused. Images are squares of ``image_size`` pixels, with digits a tenth (at least 14 px) to two fifths as
    high; ``digits_per_image`` are the fewest and the most, fewer where there is no room.
    """
    arguments: dict[str, Any] = {"num_train": num_train, "num_val": num_val, "image_size": image_size, "seed": seed}
    for name, value in arguments.items():
        low, high = _LIMITS[name]
        if not low <= value <= high:
            raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")
    counts = list(digits_per_image)
    if not (len(counts) == 2 and 1 <= counts[0] <= counts[1] <= 10):
        raise ValueError(f"digits_per_image must be (low, high), 1 <= low <= high <= 10, got {digits_per_image!r}")
    arguments["digits_per_image"] = counts
    manifest = {"generator": "demonstration.digits", "generator_version": GENERATOR_VERSION, "arguments": arguments}
    root = Path(root).expanduser().absolute()
    if not _is_reusable(root, manifest):
        _build(root, manifest, progress)
    return _paths(root)


def _paths(root: Path) -> DemoDataset:
    paths: dict[str, Path] = {}
    for split, ade_name in _SPLITS.items():
        paths[f"{split}_images"] = root / "images" / ade_name
        paths[f"{split}_json"] = root / "annotations" / f"instances_{split}.json"
        paths[f"{split}_label_maps"] = root / "annotations" / ade_name
    return DemoDataset(root=root, **paths)


def _is_reusable(root: Path, manifest: dict[str, Any]) -> bool:
    if not root.exists() and not root.is_symlink():
        return False
    try:
        found = json.loads((root / "demo_data.json").read_text())
        what = f"was generated with other arguments or by another version: {found['arguments']}"
    except (OSError, ValueError, LookupError, TypeError):
        found, what = None, "is not a dataset of digits"
    if found != manifest:
        raise DatasetError(f"{root} exists and {what}; remove it or choose another root")
    return True


def _build(root: Path, manifest: dict[str, Any], progress: bool) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as temporary:
        folder = Path(temporary) / "data"  # mkdir gives the usual permissions; temporary is private to the user
        folder.mkdir()
        for split in _SPLITS:
            _write_split(_paths(folder), split, manifest["arguments"], progress)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
        (folder / "demo_data.json").write_text(json.dumps(manifest) + "\n")
        folder.rename(root)


@functools.cache
def _load_material() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return scans (1797, 8, 8) in 0..1, their digits (1797,), and photographs (H, W, 3), uint8 RGB."""
    digits = load_digits()
    photos = [getattr(data, name)() for name in _PHOTOS] + list(load_sample_images().images)
    return digits.images / 16, digits.target, photos


def _draw_background(photos: Sequence[np.ndarray], split: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Crop a square (S, S, 3) float32 from one photograph's part for ``split``, mirror it and change its brightness."""
    photo = photos[int(rng.integers(len(photos)))]
    border = int(photo.shape[1] * _TRAIN_WIDTH)
    region = photo[:, :border] if split == "train" else photo[:, border:]
    side = int(min(region.shape[:2]) * rng.uniform(0.5, 1.0))
    top, left = (int(rng.integers(extent - side + 1)) for extent in region.shape[:2])
    crop = Image.fromarray(np.ascontiguousarray(region[top : top + side, left : left + side]))
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return (pixels[:, ::-1] if rng.random() < 0.5 else pixels) * rng.uniform(0.75, 1.2)


def _draw_alpha(scan: np.ndarray, height: int, angle: float) -> np.ndarray:
    """Return the opacity (h, w) in 0..1 of a scan's ink, ``height`` pixels high before a turn by ``angle`` degrees."""
    padded = np.pad(scan.astype(np.float32), 2)  # room for the corners to turn
    side = round(height * padded.shape[0] / scan.shape[0])
    large = Image.fromarray(padded).resize((side, side), Image.Resampling.BICUBIC)
    turned = np.asarray(large.rotate(angle, Image.Resampling.BICUBIC))
    # Enlarging smears the strokes: a steeper ramp about half ink brings their edges back.
    alpha = np.clip((turned - 0.5) * max(2.5, height / 10) + 0.5, 0.0, 1.0)
    rows, columns = (np.flatnonzero(alpha.max(axis=axis) > 0.5) for axis in (1, 0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _draw_color(under: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random RGB ink (3,) that stands out from most of the pixels (n, 3) under it, or the best of 35."""
    to_luma = np.array([0.299, 0.587, 0.114])
    inks = np.concatenate([rng.uniform(0, 255, (32, 3)), [[0.0] * 3, [127.0] * 3, [255.0] * 3]])
    contrasts = np.percentile(np.abs((inks @ to_luma)[:, None] - under @ to_luma), 15, axis=1)
    readable = np.flatnonzero(contrasts >= _MIN_CONTRAST)
    return inks[readable[0] if len(readable) else contrasts.argmax()]


def _place(
    owners: np.ndarray, mask: np.ndarray, placed: list[tuple[np.ndarray, int, int]], top: int, left: int
) -> bool:
    """Give the pixels of ``mask`` (h, w) in ``owners`` (S, S) to a new owner, unless an earlier one loses too many.

    ``placed`` holds the box (x0, y0, x1, y1), the area of the whole mask, and the scan's index of each earlier digit.
    """
    height, width = mask.shape
    box = np.array([left, top, left + width, top + height])
    for other, _, _ in placed:
        sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        if sides.min() > 0 and sides.prod() > _MAX_BOX_OVERLAP * min(height * width, np.prod(other[2:] - other[:2])):
            return False
    changed = owners.copy()
    changed[top : top + height, left : left + width][mask] = len(placed) + 1
    for owner, (_, area, _) in enumerate(placed, start=1):
        visible = changed == owner
        if visible.sum() < _MIN_VISIBLE * area or not np.array_equal(ndimage.binary_fill_holes(visible), visible):
            return False
    owners[:] = changed
    return True


def _compose(
    split: str, size: int, digits_per_image: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return one image (S, S, 3) uint8, its owners (S, S), and the scan's index of owner 1, 2, ..."""
    scans, _, photos = _load_material()
    canvas = _draw_background(photos, split, size, rng)
    owners = np.zeros((size, size), dtype=np.uint8)
    placed: list[tuple[np.ndarray, int, int]] = []
    wanted = rng.integers(digits_per_image[0], digits_per_image[1] + 1)
    for attempt in range(200):
        if len(placed) == wanted:
            break
        index = int(rng.choice(_SCANS[split]))
        smallest, largest = max(14, size // 10), size * 2 // 5
        largest = max(smallest, largest - attempt * size // 200)  # a crowded image still has room for a small digit
        alpha = _draw_alpha(scans[index], int(rng.integers(smallest, largest + 1)), rng.uniform(-15, 15))
        height, width = alpha.shape
        top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
        mask = ndimage.binary_fill_holes(alpha > 0.5)
        if _place(owners, mask, placed, top, left):
            placed.append((np.array([left, top, left + width, top + height]), int(mask.sum()), index))
            window = canvas[top : top + height, left : left + width]
            window += alpha[..., None] * (_draw_color(window[alpha > 0.5], rng) - window)
    soft = Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
    noisy = np.asarray(soft) + rng.normal(0, rng.uniform(0, 6), (size, size, 3))
    return noisy.round().clip(0, 255).astype(np.uint8), owners, [index for _, _, index in placed]


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Return outlines [x0, y0, x1, y1, ...] of a mask (S, S) without holes, half-way between pixels in and outside."""
    outlines = measure.find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="low")
    shifted = (measure.approximate_polygon(outline, 0)[:-1, ::-1] - 0.5 for outline in outlines)  # (row, col) to (x, y)
    return [outline.ravel().tolist() for outline in shifted]


def _write_split(dataset: DemoDataset, split: str, arguments: dict[str, Any], progress: bool) -> None:
    images_root, label_maps = (getattr(dataset, f"{split}_{kind}") for kind in ("images", "label_maps"))
    for folder in (images_root, label_maps):
        folder.mkdir(parents=True)
    size = arguments["image_size"]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    numbers = range(1, arguments[f"num_{split}"] + 1)
    for image_id in tqdm(numbers, desc=f"digits, {split}", unit="image", disable=not progress):
        rng = np.random.default_rng([arguments["seed"], list(_SPLITS).index(split), image_id])
        pixels, owners, indices = _compose(split, size, arguments["digits_per_image"], rng)
        categories = _load_material()[1][indices] + 1
        for owner, (index, category) in enumerate(zip(indices, categories.tolist(), strict=True), start=1):
            mask = owners == owner
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            (x, right), (y, bottom) = columns[[0, -1]].tolist(), rows[[0, -1]].tolist()
            annotations.append({
                "id": len(annotations) + 1,
                "category_id": category,
                "area": int(mask.sum()),
                "bbox": [x, y, right - x + 1, bottom - y + 1],
                "iscrowd": 0,
                "image_id": image_id,
                "segmentation": _polygons(mask),
                "digit_index": index,
            })  # fmt: skip
        stem = f"{image_id:06d}"
        Image.fromarray(pixels).save(images_root / f"{stem}.jpg", quality=92)
        labels = np.array([1, *(categories + 1)], dtype=np.uint8)[owners]
        Image.fromarray(labels).save(label_maps / f"{stem}.png")
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": size, "width": size})
    things = [{"id": digit + 1, "name": name, "supercategory": "digit"} for digit, name in enumerate(DIGIT_NAMES)]
    content = {"images": images, "annotations": annotations, "categories": things}
    getattr(dataset, f"{split}_json").write_text(json.dumps(content) + "\n")
