"""PASCAL-Context's label maps: from annotations as published to what the recipes' configs load."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")

from pycocotools import mask

from reproduction.pascal_context import CATEGORY_IDS, main, make_label_map, prepare
from resnest_backbones import model_zoo
from tests.helpers import error_of

RECIPE = "fcn_resnest50-d8_4xb4-paper_pascal_context_59-480x480"
NAMES = {"2008_000002": "train", "2008_000003": "val", "2010_000001": "train", "2009_000007": "test"}
SIZE, ANNOTATIONS = (90, 120), "trainval_merged.json"


def number(name: str) -> int:
    return int(name.replace("_", ""))


def rle(pixels: np.ndarray) -> dict:
    encoded = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    pixels = np.zeros(SIZE, dtype=bool)
    pixels[top:bottom, left:right] = True
    return pixels


# (category, mask) of each annotation of an image: sky everywhere but the lowest rows, a bird and a person over it.
SHAPES = {
    "2008_000002": [(360, rectangle(0, 0, 80, 120)), (25, rectangle(10, 10, 30, 40)), (284, rectangle(20, 20, 70, 50))],
    "2008_000003": [(2, rectangle(0, 0, 90, 60)), (458, rectangle(0, 60, 90, 120))],
    "2010_000001": [(187, rectangle(40, 0, 90, 120))],
    "2009_000007": [(12, rectangle(0, 0, 90, 120))],
}


@pytest.fixture
def voc(tmp_path) -> Path:
    """VOC 2010 and the annotations as one downloads them."""
    folder = tmp_path / "root" / "VOCdevkit" / "VOC2010"
    (folder / "JPEGImages").mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", SIZE[::-1]).save(folder / "JPEGImages" / f"{name}.jpg")
    images = [
        {"image_id": number(name), "file_name": f"{name}.jpg", "height": 90, "width": 120, "phase": phase}
        for name, phase in NAMES.items()
    ]
    annotations = [
        {"id": 1, "image_id": number(name), "category_id": category, "segmentation": rle(pixels), "parts": []}
        for name, shapes in SHAPES.items()
        for category, pixels in shapes
    ]
    content = {"images": images, "annos_segmentation": annotations, "annos_boundary": []}
    (folder / ANNOTATIONS).write_text(json.dumps(content))
    return folder


def painted(name: str) -> np.ndarray:
    """The expected label map, from the names of the classes in MMSegmentation."""
    classes = pytest.importorskip("mmseg.datasets").PascalContextDataset59.METAINFO["classes"]
    names = {2: "aeroplane", 25: "bird", 187: "grass", 284: "person", 360: "sky", 458: "wood"}
    labels = np.zeros(SIZE, dtype=np.uint8)
    for category, pixels in SHAPES[name]:
        labels[pixels] = 1 + classes.index(names[category])
    return labels


def test_label_maps_and_lists_are_made_and_an_interrupted_preparation_goes_on(voc, monkeypatch):
    monkeypatch.setattr("reproduction.common._CHUNK", 1)
    lists, maps = voc / "ImageSets" / "SegmentationContext", voc / "SegmentationClassContext"
    times = set()
    for _ in range(2):
        assert prepare(voc, voc / ANNOTATIONS, workers=2) == {"train": 2, "val": 1}
        assert (lists / "train.txt").read_text() == "2008_000002\n2010_000001\n"
        assert (lists / "val.txt").read_text() == "2008_000003\n"
        found = {file.stem: np.asarray(Image.open(file)) for file in maps.iterdir()}
        assert found.keys() == {"2008_000002", "2008_000003", "2010_000001"}
        for name, labels in found.items():
            assert labels.dtype == np.uint8 and np.array_equal(labels, painted(name)), name
        (maps / "2010_000001.png").unlink()
        (lists / "val.txt").unlink()
        times.add((maps / "2008_000002.png").stat().st_mtime_ns)
    assert len(times) == 1


def test_the_tool_prepares_what_the_recipes_config_loads(voc, capsys):
    main(["--data-root", str(voc.parents[1]), "--workers", "1", "--quiet"])
    assert "of 2 images for training, 1 for validation" in capsys.readouterr().out
    pytest.importorskip("mmseg")
    from mmseg.registry import DATASETS

    import resnest_backbones.mmseg  # noqa: F401  # registers the transforms
    from tests.mmseg.helpers import as_in_a_new_process

    with as_in_a_new_process():
        settings = model_zoo.get_config(RECIPE).val_dataloader.dataset
        dataset = DATASETS.build({**settings, "data_root": str(voc), "_scope_": "mmseg"})
        sample = dataset[0]
    labels = sample["data_samples"].gt_sem_seg.data[0].numpy()
    assert labels.shape == SIZE  # at the image's own size, with the classes from 0
    assert np.array_equal(labels, painted("2008_000003") - 1)


def test_classes_are_in_mmsegmentations_order():
    classes = pytest.importorskip("mmseg.datasets").PascalContextDataset59.METAINFO["classes"]
    assert len(CATEGORY_IDS) == len(set(CATEGORY_IDS)) == len(classes) == 59
    assert list(CATEGORY_IDS) == sorted(CATEGORY_IDS) and list(classes) == sorted(classes)


def test_masks_that_are_not_compressed_and_annotations_that_cover_those_before_them():
    image = {"height": 2, "width": 3}
    counts = {"size": [2, 3], "counts": [1, 2, 3]}  # down the columns: one off, two on, three off
    assert make_label_map(image, [{"category_id": 9, "segmentation": counts}]).tolist() == [[0, 2, 0], [2, 0, 0]]
    covered = [{"category_id": category, "segmentation": rle(np.ones(SIZE))} for category in (12, 458)]
    assert np.unique(make_label_map({"height": 90, "width": 120}, covered)).tolist() == [59]
    assert not make_label_map({"height": 90, "width": 120}, []).any()


def change(voc: Path, spoil) -> None:
    content = json.loads((voc / ANNOTATIONS).read_text())
    spoil(content)
    (voc / ANNOTATIONS).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda voc: (voc / ANNOTATIONS).unlink(), r"trainval_merged\.json does not exist; from https://"),
        (lambda voc: (voc / ANNOTATIONS).write_text("[]"), r"must be the annotations of PASCAL-Context, got"),
        (lambda voc: change(voc, lambda c: c["images"].clear()), r"got 0 images and annotations of 4 others"),
        (lambda voc: change(voc, lambda c: c["annos_segmentation"].clear()), r"got 3 images and annotations of 0"),
        (lambda voc: (voc / "JPEGImages" / "2008_000003.jpg").unlink(),
         r"the 3 annotated images, 1 are missing, such as 2008_000003\.jpg; from http://host\.robots"),
        (lambda voc: change(voc, lambda c: c["annos_segmentation"][1].update(category_id=3)),
         r"2008_000002\.jpg: category_id must be one of the 59 classes, got 3"),
        (lambda voc: change(voc, lambda c: c["annos_segmentation"][1]["segmentation"].update(size=[9, 12])),
         r"2008_000002\.jpg: segmentation must be an RLE of the size \(90, 120\), got"),
        (lambda voc: change(voc, lambda c: c["annos_segmentation"][1].update(segmentation=[[0, 0, 5, 0, 5, 5]])),
         r"2008_000002\.jpg: segmentation must be an RLE"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(voc, spoil, message):
    spoil(voc)
    assert re.search(message, error_of(main, "--data-root", voc.parents[1], "--quiet", "--workers", "1"))
    assert not (voc / "ImageSets").exists()  # the lists come last: no config finds half of the label maps
