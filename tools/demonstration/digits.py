"""A small seeded detection, instance, semantic and panoptic segmentation data set, made without any download.

Real handwritten digits (scikit-learn's ``load_digits``: 1797 scans from the UCI set of optical digits) are pasted, at
random size, tilt and colour, on crops of photographs that ship inside the scikit-image and scikit-learn wheels. Train
and validation share neither a scan nor a piece of a photograph.

One root serves the loaders of COCO (Detectron2) and of ADE20K (MMSegmentation)::

    demo_data.json                                 arguments and generator version; decides whether a folder is reused
    classes.txt                                    class names, line n is label n: background, zero .. nine
    images/{training,validation}/000001.jpg        RGB
    annotations/{training,validation}/000001.png   uint8, ADE20K labels: 1 background, 2..11 digits; 0 is unused
    annotations/instances_{train,val}.json         COCO instances: categories 1..10 are zero .. nine
    annotations/panoptic_{train,val}.json          COCO panoptic: the ten things, and the stuff category 11, background
    panoptic_{train,val}/000001.png                RGB, segment id = R + 256 G + 65536 B
    panoptic_stuff_{train,val}/000001.png          uint8, as made by prepare_panoptic_fpn.py: 0 things, 1 background

All of them are views of one map of owners, hence agree to the pixel. COCO polygons know no holes, so a digit owns what
its strokes enclose (the inside of a zero) in every view, although the background shows through there. Polygons decode
to exactly the visible mask: a later digit may cover up to 60% of an earlier one, never cut a hole into it.

Shapes: S side of the square image in pixels, (h, w) digit, tight around its ink. Colours are RGB in 0..255.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

try:
    from PIL import Image, ImageFilter
    from scipy import ndimage
    from skimage import data, measure
    from sklearn.datasets import load_digits, load_sample_images
    from tqdm import tqdm
except ImportError as error:  # raised by make_demo_dataset: a tool may import this module without the extra
    _MISSING: ImportError | None = error
else:
    _MISSING = None

GENERATOR_VERSION = 1  # raise it with every change of the files that one set of arguments gives
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLASS_NAMES = ("background", *DIGIT_NAMES)
BACKGROUND_CATEGORY = 11  # COCO categories: digit d is d + 1; ADE20K labels: background 1, digit d is d + 2
BACKGROUND_SEGMENT = 0xFFFFFF  # the largest panoptic id; those of digits are the ids of their instance annotations

_SPLITS = {"train": "training", "val": "validation"}  # COCO's names and ADE20K's
_NUM_TRAIN_DIGITS = 1437  # 80%, in the order of the file, which keeps what one person wrote in a row on one side
_TRAIN_WIDTH = 0.65  # train crops come from the left 65% of each photograph, validation crops from the rest
_PHOTOS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "rocket")
_MIN_VISIBLE = 0.4
_MAX_BOX_OVERLAP = 0.25  # intersection over the smaller box
_MIN_CONTRAST = 75.0  # in luma (0..255), between the ink and 85% of the pixels under it


@dataclass(frozen=True)
class DemoDataset:
    """Where everything is; see the top of the module for what the files hold."""

    root: Path
    train_images: Path
    val_images: Path
    train_json: Path
    val_json: Path
    train_label_maps: Path
    val_label_maps: Path
    train_panoptic_json: Path
    val_panoptic_json: Path
    train_panoptic_root: Path
    val_panoptic_root: Path
    train_stuff_root: Path
    val_stuff_root: Path

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels 1..11 of the label maps."""
        return CLASS_NAMES

    @property
    def panoptic_metadata(self) -> dict[str, Any]:
        """The ``metadata`` of Detectron2's ``register_coco_panoptic_separated``: contiguous ids and class names."""
        return {
            "thing_classes": list(DIGIT_NAMES),
            "thing_dataset_id_to_contiguous_id": {digit + 1: digit for digit in range(10)},
            "stuff_classes": ["things", "background"],
            "stuff_dataset_id_to_contiguous_id": {0: 0, BACKGROUND_CATEGORY: 1},
        }


@dataclass(frozen=True)
class _Material:
    """What images are made of: digits (1797, 8, 8) in 0..1, their labels (1797,), photographs (H, W, 3) uint8."""

    digits: np.ndarray
    labels: np.ndarray
    photos: tuple[np.ndarray, ...]


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
    """Write the data set to ``root``, or reuse it when the same call has written it before.

    The same arguments give byte-identical files (with the same versions of the libraries), and image n of a split does
    not depend on how many there are. The files are built in a temporary sibling folder that is renamed to ``root`` at
    the end: an interrupted run leaves nothing under that name, and two processes may make the same call at once.

    Args:
        root: the folder to create; its parents are created too.
        num_train: number of training images.
        num_val: number of validation images.
        image_size: side of the square images in pixels; digits are a tenth (14 px at least) to two fifths as high.
        digits_per_image: least and most digits in an image, both included; fewer where no free place is found.
        seed: of all random choices.
        progress: show a progress bar.

    Raises:
        ValueError: an argument is out of its range.
        FileExistsError: ``root`` exists and is not this data set; it is left as it is.
        ImportError: scikit-learn, scikit-image or another package of the extra ``demo`` is missing.
    """
    arguments = _check_arguments(num_train, num_val, image_size, digits_per_image, seed)
    manifest = {
        "generator": "demonstration.digits",
        "generator_version": GENERATOR_VERSION,
        "arguments": arguments,
    }
    root = Path(root).expanduser().absolute()
    if not _is_reusable(root, manifest):
        if _MISSING is not None:
            hint = "pip install 'resnest_backbones[demo]'"
            raise ImportError(f"the demo data set needs a package that is missing ({_MISSING}): {hint}") from _MISSING
        _build(root, manifest, progress)
    return _describe(root)


def digit_split(split: str) -> range:
    """Indices into ``load_digits`` that ``split``, "train" or "val", draws from."""
    if split not in _SPLITS:
        raise ValueError(f'split must be "train" or "val", got {split!r}')
    return range(_NUM_TRAIN_DIGITS) if split == "train" else range(_NUM_TRAIN_DIGITS, 1797)


def _check_arguments(
    num_train: int, num_val: int, image_size: int, digits_per_image: tuple[int, int], seed: int
) -> dict[str, Any]:
    """The arguments by name, as they come back from json."""
    integers = {"num_train": num_train, "num_val": num_val, "image_size": image_size, "seed": seed}
    limits = {"num_train": (1, 100_000), "num_val": (1, 100_000), "image_size": (64, 1024), "seed": (0, 2**63 - 1)}
    for name, value in integers.items():
        low, high = limits[name]
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
            raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")
    counts = list(digits_per_image) if isinstance(digits_per_image, Sequence) else []
    if not (len(counts) == 2 and all(isinstance(n, int) for n in counts) and 1 <= counts[0] <= counts[1] <= 10):
        raise ValueError(f"digits_per_image must be (low, high), 1 <= low <= high <= 10, got {digits_per_image!r}")
    return {name: int(value) for name, value in integers.items()} | {"digits_per_image": counts}


def _describe(root: Path) -> DemoDataset:
    folders: dict[str, Path] = {}
    for split, ade_name in _SPLITS.items():
        folders[f"{split}_images"] = root / "images" / ade_name
        folders[f"{split}_json"] = root / "annotations" / f"instances_{split}.json"
        folders[f"{split}_label_maps"] = root / "annotations" / ade_name
        folders[f"{split}_panoptic_json"] = root / "annotations" / f"panoptic_{split}.json"
        folders[f"{split}_panoptic_root"] = root / f"panoptic_{split}"
        folders[f"{split}_stuff_root"] = root / f"panoptic_stuff_{split}"
    return DemoDataset(root=root, **folders)


def _is_reusable(root: Path, manifest: dict[str, Any]) -> bool:
    """True when ``root`` holds the data set of ``manifest``, False when nothing is there; raises otherwise."""
    if not root.exists() and not root.is_symlink():
        return False
    try:
        found = json.loads((root / "demo_data.json").read_text())
        what = f"holds the demo data set of other arguments or another version: {found['arguments']}"
    except (OSError, ValueError, LookupError, TypeError):
        found, what = None, "is not a demo data set"
    if found != manifest:
        raise FileExistsError(f"{root} exists and {what}; remove it yourself or choose another root")
    return True


def _build(root: Path, manifest: dict[str, Any], progress: bool) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    material = _load_material()
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as temporary:
        folder = Path(temporary) / "data"  # made by mkdir, for the usual permissions; temporary is private to the user
        folder.mkdir()
        for split in _SPLITS:
            _write_split(_describe(folder), split, manifest["arguments"], material, progress)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
        _write_json(folder / "demo_data.json", manifest)
        try:
            folder.rename(root)
        except OSError:
            if not _is_reusable(root, manifest):  # fine when another process has made the same data set meanwhile
                raise


def _load_material() -> _Material:
    digits = load_digits()
    photos = [getattr(data, name)() for name in _PHOTOS] + list(load_sample_images().images)
    return _Material(digits.images / 16.0, digits.target, tuple(photos))


def _draw_background(photos: Sequence[np.ndarray], split: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square crop (S, S, 3) float32 of one photograph's part for ``split``, mirrored, brighter or darker."""
    photo = photos[int(rng.integers(len(photos)))]
    border = int(photo.shape[1] * _TRAIN_WIDTH)
    region = photo[:, :border] if split == "train" else photo[:, border:]
    side = int(min(region.shape[:2]) * rng.uniform(0.5, 1.0))
    top, left = (int(rng.integers(extent - side + 1)) for extent in region.shape[:2])
    crop = Image.fromarray(np.ascontiguousarray(region[top : top + side, left : left + side]))
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return (pixels[:, ::-1] if rng.random() < 0.5 else pixels) * rng.uniform(0.75, 1.2)


def _draw_alpha(scan: np.ndarray, height: int, angle: float) -> np.ndarray:
    """Opacity (h, w) in 0..1 of the ink of an 8 x 8 scan, ``height`` pixels high before a turn by ``angle`` degrees."""
    padded = np.pad(scan.astype(np.float32), 2)  # room for the corners to turn
    side = round(height * padded.shape[0] / scan.shape[0])
    large = Image.fromarray(padded).resize((side, side), Image.Resampling.BICUBIC)
    turned = np.asarray(large.rotate(angle, Image.Resampling.BICUBIC))
    # Enlarging smears the strokes: a steeper ramp about half ink brings their edges back.
    alpha = np.clip((turned - 0.5) * max(2.5, height / 10) + 0.5, 0.0, 1.0)
    rows, columns = (np.flatnonzero(alpha.max(axis=axis) > 0.5) for axis in (1, 0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _draw_colour(under: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random RGB ink (3,) that stands out from most of the pixels (n, 3) under it, or else as well as one can."""
    to_luma = np.array([0.299, 0.587, 0.114])
    inks = np.concatenate([rng.uniform(0, 255, (32, 3)), [[0.0] * 3, [127.0] * 3, [255.0] * 3]])
    contrasts = np.percentile(np.abs((inks @ to_luma)[:, None] - under @ to_luma), 15, axis=1)
    readable = np.flatnonzero(contrasts >= _MIN_CONTRAST)
    return inks[readable[0] if len(readable) else contrasts.argmax()]


def _place(
    owners: np.ndarray, mask: np.ndarray, placed: list[tuple[np.ndarray, int, int]], top: int, left: int
) -> bool:
    """Give the pixels of ``mask`` (h, w) to a new owner, unless an earlier digit would suffer too much.

    ``owners`` (S, S), 0 for the background and k for the k-th digit, changes in place on success. ``placed`` holds the
    box (x0, y0, x1, y1), the area of the whole mask, and the index into ``load_digits`` of each earlier digit.
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
    material: _Material, split: str, size: int, digits_per_image: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One image (S, S, 3) uint8, its owners (S, S), and the index into ``load_digits`` of owner 1, 2, ..."""
    canvas = _draw_background(material.photos, split, size, rng)
    owners = np.zeros((size, size), dtype=np.uint8)
    placed: list[tuple[np.ndarray, int, int]] = []
    wanted = rng.integers(digits_per_image[0], digits_per_image[1] + 1)
    for attempt in range(200):
        if len(placed) == wanted:
            break
        index = int(rng.choice(digit_split(split)))
        smallest, largest = max(14, size // 10), size * 2 // 5
        largest = max(smallest, largest - attempt * size // 200)  # a crowded image still has room for a small digit
        alpha = _draw_alpha(material.digits[index], int(rng.integers(smallest, largest + 1)), rng.uniform(-15, 15))
        height, width = alpha.shape
        top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
        mask = ndimage.binary_fill_holes(alpha > 0.5)
        if not _place(owners, mask, placed, top, left):
            continue
        placed.append((np.array([left, top, left + width, top + height]), int(mask.sum()), index))
        window = canvas[top : top + height, left : left + width]
        window += alpha[..., None] * (_draw_colour(window[alpha > 0.5], rng) - window)
    soft = Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
    noisy = np.asarray(soft) + rng.normal(0, rng.uniform(0, 6), (size, size, 3))
    return noisy.round().clip(0, 255).astype(np.uint8), owners, [index for _, _, index in placed]


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines [x0, y0, x1, y1, ...] of a mask (S, S) without holes, in COCO's coordinates (pixel 0 spans 0..1).

    They run half-way between the centres of the pixels in and out, so rasterising them gives the mask again.
    """
    outlines = measure.find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="low")
    shifted = (measure.approximate_polygon(outline, 0)[:-1, ::-1] - 0.5 for outline in outlines)  # (row, col) to (x, y)
    return [outline.ravel().tolist() for outline in shifted]


def _segments(owners: np.ndarray, labels: Sequence[int], first_id: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Visible mask (S, S) and COCO fields (id, category_id, area, bbox, iscrowd) of each digit, then the background."""
    ids = [*range(first_id, first_id + len(labels)), BACKGROUND_SEGMENT]
    categories = [*(label + 1 for label in labels), BACKGROUND_CATEGORY]
    for owner, segment_id, category in zip([*range(1, len(labels) + 1), 0], ids, categories, strict=True):
        mask = owners == owner
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        (x, right), (y, bottom) = columns[[0, -1]].tolist(), rows[[0, -1]].tolist()
        box = [x, y, right - x + 1, bottom - y + 1]
        fields = {"id": segment_id, "category_id": category, "area": int(mask.sum()), "bbox": box, "iscrowd": 0}
        yield mask, fields


def _write_maps(paths: dict[str, Path], name: str, segments: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> None:
    """Write the label map, the panoptic map and the stuff map of one image."""
    shape = segments[0][0].shape
    labels, stuff = np.zeros(shape, dtype=np.uint8), np.full(shape, 255, dtype=np.uint8)
    ids = np.zeros(shape, dtype=np.uint32)
    for mask, fields in segments:
        is_background = fields["category_id"] == BACKGROUND_CATEGORY
        labels[mask] = 1 if is_background else fields["category_id"] + 1
        stuff[mask] = 1 if is_background else 0
        ids[mask] = fields["id"]
    Image.fromarray(labels).save(paths["label_maps"] / name)
    Image.fromarray(stuff).save(paths["stuff_root"] / name)
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(paths["panoptic_root"] / name)


def _write_split(
    dataset: DemoDataset, split: str, arguments: dict[str, Any], material: _Material, progress: bool
) -> None:
    kinds = ("images", "label_maps", "panoptic_root", "stuff_root", "json", "panoptic_json")
    paths: dict[str, Path] = {kind: getattr(dataset, f"{split}_{kind}") for kind in kinds}
    for kind in kinds[:4]:
        paths[kind].mkdir(parents=True)
    size, count = arguments["image_size"], arguments[f"num_{split}"]
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for image_id in tqdm(range(1, count + 1), desc=f"demo data, {split}", unit="image", disable=not progress):
        rng = np.random.default_rng([arguments["seed"], list(_SPLITS).index(split), image_id])
        pixels, owners, digits = _compose(material, split, size, arguments["digits_per_image"], rng)
        segments = list(_segments(owners, material.labels[digits].tolist(), len(instances) + 1))
        stem = f"{image_id:06d}"
        Image.fromarray(pixels).save(paths["images"] / f"{stem}.jpg", quality=92)
        _write_maps(paths, f"{stem}.png", segments)
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": size, "width": size})
        infos = [fields for _, fields in segments]
        panoptic.append({"image_id": image_id, "file_name": f"{stem}.png", "segments_info": infos})
        for (mask, fields), digit in zip(segments, digits, strict=False):  # the background, last, is no instance
            more = {"image_id": image_id, "segmentation": _polygons(mask), "digit_index": digit}
            instances.append(fields | more)
    things = [{"id": digit + 1, "name": name, "supercategory": "digit"} for digit, name in enumerate(DIGIT_NAMES)]
    stuff = {"id": BACKGROUND_CATEGORY, "name": "background", "supercategory": "background", "isthing": 0}
    _write_json(paths["json"], {"images": images, "annotations": instances, "categories": things})
    categories = [thing | {"isthing": 1} for thing in things] + [stuff]
    _write_json(paths["panoptic_json"], {"images": images, "annotations": panoptic, "categories": categories})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: ``python -m demonstration.digits ROOT``."""
    parser = argparse.ArgumentParser(prog="demonstration.digits", description="Write the demo data set.")
    parser.add_argument("root", type=Path, help="folder to create")
    parser.add_argument("--num-train", type=int, default=400, help="training images (default: %(default)s)")
    parser.add_argument("--num-val", type=int, default=80, help="validation images (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=160, help="side in pixels (default: %(default)s)")
    parser.add_argument("--digits-per-image", type=int, nargs=2, default=(1, 5), metavar=("LOW", "HIGH"))
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = vars(parser.parse_args(arguments))
    quiet = options.pop("quiet")
    try:
        dataset = make_demo_dataset(**options, progress=not quiet)
    except (ValueError, FileExistsError, ImportError) as error:
        parser.error(str(error))
    print(dataset.root)


if __name__ == "__main__":
    main()
