"""A custom dataset: what it finds, what it gives, and what it says when something is missing."""

import shutil

import numpy as np
import pytest
from mmseg.registry import DATASETS
from mmseg.utils import get_classes
from PIL import Image

from resnest_backbones.errors import DatasetError
from resnest_backbones.mmseg.datasets import LabelMapDataset
from tests.mmseg.helpers import make_label_map_dataset

FOLDERS = {"img_path": "images/training", "seg_map_path": "annotations/training"}
LOADING = [{"type": f"mmseg.{name}"} for name in ("LoadImageFromFile", "LoadCheckedAnnotations", "PackSegInputs")]


@pytest.fixture
def root(tmp_path):
    return make_label_map_dataset(tmp_path / "own", splits=["training"])


def build(root, **more):
    return DATASETS.build({"type": "LabelMapDataset", "data_root": str(root), "data_prefix": FOLDERS, **more})


def test_it_is_found_by_name_and_gives_images_with_labels_from_zero(root):
    dataset = build(root, pipeline=LOADING, test_mode=True)
    assert isinstance(dataset, LabelMapDataset) and len(dataset) == 4
    assert dataset.metainfo["classes"] == ("red", "green", "blue") and len(dataset.metainfo["palette"]) == 3
    sample = dataset[1]
    in_file = np.asarray(Image.open(root / "annotations" / "training" / "001.png")).astype(int)
    labels = sample["data_samples"].gt_sem_seg.data[0].numpy()
    assert np.array_equal(labels, np.where(in_file == 0, 255, in_file - 1))
    assert sample["inputs"].shape == (3, 96, 128)
    info = dataset.get_data_info(0)
    assert info["num_classes"] == 3 and info["reduce_zero_label"] is True


def test_ade20k_s_own_sample_and_table_of_classes_fit(shared):
    root = shared / "data" / "ade_sample"
    folders = {"img_path": "images/validation", "seg_map_path": "annotations/validation"}
    dataset = build(root, data_prefix=folders, pipeline=LOADING)
    assert len(dataset) == 3 and len(dataset.metainfo["classes"]) == 150
    for i in range(3):
        assert set(dataset[i]["data_samples"].gt_sem_seg.data.unique().tolist()) <= {*range(150), 255}
    own = [name.split(",")[0].split(";")[0] for name in dataset.metainfo["classes"]]
    theirs = get_classes("ade20k")
    assert sum(a.split()[0] == b.split()[0] for a, b in zip(own, theirs, strict=True)) > 140
    assert own[:3] == list(theirs[:3])


def test_images_of_all_suffixes_and_in_folders_are_found_in_order(root):
    images, annotations = root / "images" / "training", root / "annotations" / "training"
    (images / "000.jpg").rename(images / "000.JPEG")
    Image.open(images / "001.jpg").save(images / "001.png")
    (images / "001.jpg").unlink()
    for folder, name in ((images, "003.jpg"), (annotations, "003.png")):
        (folder / "more").mkdir()
        (folder / name).rename(folder / "more" / name)
    (annotations / "002.png").rename(annotations / "002.PNG")
    (images / ".hidden.jpg").touch()
    (images / "notes.txt").touch()
    dataset = build(root, pipeline=LOADING)
    names = [dataset.get_data_info(i)["img_path"].removeprefix(f"{images}/") for i in range(len(dataset))]
    assert names == ["000.JPEG", "001.png", "002.jpg", "more/003.jpg"]
    assert all(dataset[i]["data_samples"].gt_sem_seg is not None for i in range(4))


def empty(*parts):
    return lambda root: [file.unlink() for file in root.joinpath(*parts).iterdir()]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: shutil.rmtree(root), ["{root}", "is not a folder"]),
        (lambda root: shutil.rmtree(root / "annotations"), ["{root}/annotations/training", "does not exist"]),
        (lambda root: (root / "classes.txt").unlink(), ["{root}", "classes.txt or objectInfo150.txt"]),
        (empty("images", "training"), ["{root}/images/training", "has no images", ".jpg"]),
        (
            empty("annotations", "training"),
            ["4 of 4", "{root}/annotations/training", "000.jpg, 001.jpg, 002.jpg and 1"],
        ),
        (
            lambda root: shutil.copy(root / "images/training/000.jpg", root / "images/training/000.jpeg"),
            ["000.jpeg, 000.jpg", "{root}/images/training"],
        ),
    ],
)
def test_what_is_missing_is_named(root, damage, words):
    damage(root)
    with pytest.raises(DatasetError) as raised:
        build(root)
    assert all(word.format(root=root) in str(raised.value) for word in words), raised.value


def test_the_folders_must_be_two(root):
    with pytest.raises(DatasetError, match="data_prefix must be a dict with img_path and seg_map_path"):
        build(root, data_prefix={"img_path": "images"})
