"""The digits: all files agree with each other, and their folder is never half-written or overwritten."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from PIL import Image

from demonstration import digits
from demonstration.digits import DIGIT_NAMES, DemoDataset, make_demo_dataset
from resnest_backbones.errors import DatasetError
from tests.demonstration.helpers import file_times

SMALL = {"num_train": 2, "num_val": 1, "image_size": 64, "progress": False}
SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> DemoDataset:
    root = tmp_path_factory.mktemp("demo") / "digits"
    return make_demo_dataset(root, num_train=24, num_val=8, digits_per_image=(3, 6), progress=False)


def load(path: Path):
    return json.loads(path.read_text())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def checksums(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("split", SPLITS)
def test_digits_are_visible_and_polygons_decode_to_what_is_visible(dataset, split):
    coco = pytest.importorskip("pycocotools.coco").COCO(getattr(dataset, f"{split}_json"))
    assert [category["name"] for category in coco.loadCats(range(1, 11))] == list(DIGIT_NAMES)
    assert len(coco.imgs) == {"train": 24, "val": 8}[split]
    assert {len(coco.imgToAnns[number]) for number in coco.imgs} <= {3, 4, 5, 6}
    covered: dict[str, np.ndarray] = {}
    for annotation in coco.anns.values():
        stem = Path(coco.imgs[annotation["image_id"]]["file_name"]).stem
        assert annotation["iscrowd"] == 0
        assert all(len(polygon) >= 6 for polygon in annotation["segmentation"])  # what Detectron2 keeps
        mask = coco.annToMask(annotation).astype(bool)
        labels = pixels(getattr(dataset, f"{split}_label_maps") / f"{stem}.png")
        assert set(labels[mask]) == {annotation["category_id"] + 1}
        covered[stem] = covered.get(stem, 0) + mask
        rows, columns = np.nonzero(mask)
        x, y, width, height = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == [x, y, width, height] and annotation["area"] == mask.sum() >= 20
        luma = pixels(getattr(dataset, f"{split}_images") / f"{stem}.jpg").astype(float) @ [0.299, 0.587, 0.114]
        assert np.ptp(luma[y : y + height, x : x + width]) > 40  # a flat, empty box has no contrast
        assert (annotation["digit_index"] < 1437) == (split == "train")  # of 1797 scans
    for stem, count in covered.items():  # every pixel has one owner: a digit, or the background
        labels = pixels(getattr(dataset, f"{split}_label_maps") / f"{stem}.png")
        assert labels.dtype == np.uint8 and np.array_equal(count == 0, labels == 1) and count.max() == 1


def test_splits_share_no_piece_of_a_photograph():
    columns = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))  # grey value = column
    for n in range(30):
        train, val = (digits._draw_background([columns], split, 64, np.random.default_rng(n)) for split in SPLITS)
        gain = train.max() / val.max(), train.min() / val.min()  # the same seed: the same brightness
        assert max(gain) < 1.0
        assert val.min() / val.max() >= 130 / 199 * 0.98


def test_same_arguments_give_the_same_bytes_whatever_the_number_of_images(tmp_path):
    first, second, other, many = (
        checksums(make_demo_dataset(tmp_path / str(number), **SMALL | options).root)
        for number, options in enumerate(({}, {"seed": 0}, {"seed": 1}, {"num_train": 3}))
    )
    assert first == second
    assert first["images/training/000001.jpg"] != other["images/training/000001.jpg"]
    assert {name: digest for name, digest in first.items() if "images/" in name}.items() <= many.items()


def test_interruption_leaves_nothing_and_reuse_writes_nothing(tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(digits, "_polygons", fail)
        with pytest.raises(KeyboardInterrupt):
            make_demo_dataset(tmp_path / "digits", **SMALL)
    assert list(tmp_path.iterdir()) == []
    first = make_demo_dataset(tmp_path / "digits", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    before = file_times(tmp_path)
    assert make_demo_dataset(tmp_path / "digits", **SMALL) == first
    assert file_times(tmp_path) == before


def test_existing_folders_are_refused_and_kept(tmp_path, monkeypatch):
    make_demo_dataset(tmp_path / "digits", **SMALL)
    before = checksums(tmp_path)
    with pytest.raises(DatasetError, match=r"digits exists and was generated .*'seed': 0.*choose another root"):
        make_demo_dataset(tmp_path / "digits", seed=1, **SMALL)
    with pytest.raises(DatasetError, match="is not a dataset of digits"):
        make_demo_dataset(tmp_path, **SMALL)
    monkeypatch.setattr(digits, "GENERATOR_VERSION", digits.GENERATOR_VERSION + 1)
    with pytest.raises(DatasetError, match="another version"):
        make_demo_dataset(tmp_path / "digits", **SMALL)
    assert checksums(tmp_path) == before
