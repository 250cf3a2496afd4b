"""Checks of data roots: nothing is said of a good one, and each way to spoil one is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from reproduce import main
from reproduction.data import Extent, check, needs, spread
from resnest_backbones.model_zoo import RECIPES

BOXES = RECIPES["faster_rcnn_resnest50_fpn_1x"]
MASKS = RECIPES["mask_rcnn_resnest50_fpn_1x"]
PANOPTIC = RECIPES["panoptic_fpn_resnest200_3x_tricks"]
ADE20K = RECIPES["fcn_resnest101-d8_4xb4-160k_ade20k-512x512"]
PASCAL = RECIPES["fcn_resnest50-d8_4xb4-paper_pascal_context_59-480x480"]
CITYSCAPES = RECIPES["fcn_resnest101-d8_4xb2-80k_cityscapes-512x1024"]

ADE = "ade/ADEChallengeData2016"
VOC = "VOCdevkit/VOC2010"


@pytest.fixture
def root(smoke_root, tmp_path) -> Path:
    """A data root to spoil."""
    return Path(shutil.copytree(smoke_root, tmp_path / "datasets"))


def problems(recipe, root: Path, **extent) -> list[str]:
    return list(check(recipe, root, Extent(**{"any_count": True, **extent})))


@pytest.mark.parametrize("quick", [False, True])
def test_nothing_is_said_of_a_good_root(smoke_root, quick):
    for recipe in RECIPES.values():
        assert problems(recipe, smoke_root, quick=quick) == []


def test_every_recipe_says_what_it_needs():
    for recipe in RECIPES.values():
        assert all("images to " in line and "\n" not in line for line in needs(recipe))
    assert [line.split()[0] for line in needs(BOXES)] == ["118287", "5000"]
    assert any("panoptic_stuff" in line for line in needs(PANOPTIC))


def test_the_published_counts_are_expected(smoke_root):
    wanted = {
        BOXES: ["118287 files *.jpg, got 8", "118287 images, got 8", "5000 files *.jpg, got 4", "5000 images, got 4"],
        ADE20K: ["20210 files *.jpg, got 8", "20210 files *.png, got 8", "2000 files *.jpg", "2000 files *.png"],
        PASCAL: ["must name 4998 images, got 8", "must name 5105 images, got 4"],
        CITYSCAPES: ["2975 files", "2975 files", "500 files *_leftImg8bit.png, got 4", "500 files"],
    }
    for recipe, texts in wanted.items():
        found = problems(recipe, smoke_root, any_count=False)
        assert len(found) == len(texts)
        assert all(text in line for line, text in zip(found, texts, strict=True)), found
    assert len(problems(PANOPTIC, smoke_root, any_count=False)) == 4 + 6


FOR_TRAINING = (
    *("coco/train2017", "coco/annotations/*_train2017.json", "coco/panoptic_*train2017", f"{ADE}/*/training"),
    *(f"{VOC}/ImageSets/SegmentationContext/train.txt", "cityscapes/*/train"),
)


def test_an_evaluation_needs_no_data_for_training(root):
    for pattern in FOR_TRAINING:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for recipe in (MASKS, PANOPTIC, ADE20K, PASCAL, CITYSCAPES):
        assert problems(recipe, root)
        assert problems(recipe, root, training=False) == []


def test_an_empty_root_needs_everything(tmp_path):
    for recipe in (MASKS, PANOPTIC, ADE20K, PASCAL, CITYSCAPES):
        found = problems(recipe, tmp_path)
        assert len(found) >= 4
        assert all(line.startswith(str(tmp_path)) and ("from http" in line or "made by" in line) for line in found)


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def paint(file: Path, value: int) -> None:
    """Give one pixel of a label map another value."""
    pixels = np.array(Image.open(file))
    pixels[3, 5] = value
    Image.fromarray(pixels).save(file)


INSTANCES = "coco/annotations/instances_val2017.json"
PANOPTIC_JSON = "coco/annotations/panoptic_val2017.json"
STUFF_MAP = "coco/panoptic_stuff_val2017/000000000002.png"
CASES = {
    "no images": (
        BOXES, lambda r: shutil.rmtree(r / "coco/val2017"),
        ["coco/val2017: no such folder; it must have 5000 files *.jpg; from https://cocodataset.org/#download, val"],
    ),
    "an image less": (
        BOXES, lambda r: (r / "coco/val2017/000000000003.jpg").unlink(),
        ["coco/val2017: 1 of 4 files are missing: 000000000003.jpg; from"],
    ),
    "no json": (BOXES, lambda r: (r / INSTANCES).unlink(), ["instances_val2017.json: does not exist; from https"]),
    "half a json": (
        BOXES, lambda r: (r / INSTANCES).write_text((r / INSTANCES).read_text()[:500]),
        ["instances_val2017.json: cannot be read: "],
    ),
    "a json of something else": (
        BOXES, lambda r: (r / INSTANCES).write_text('{"images": [], "annotations": 3}'),
        ["must have lists of images, annotations and categories; from"],
    ),
    "a category of another name": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["categories"][1].update(name="velocipede")),
        ["the 80 categories of COCO; id 2 must be ('bicycle', 1) (name, isthing), got ('velocipede', 1)"],
    ),
    "a category less": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["categories"].pop()),
        ["must have the 80 categories of COCO; id 90 must be ('toothbrush', 1) (name, isthing), got None"],
    ),
    "no annotations": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["annotations"].clear()),
        ["must have annotations with bbox, category_id, image_id; got none"],
    ),
    "annotations of unknown images": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].update(image_id=99)),
        ["has annotations of images that it does not list: 99"],
    ),
    "no box": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].pop("bbox")),
        ["annotations with bbox, category_id, image_id; 1 of "],
    ),
    "no mask, for a recipe without masks": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].pop("segmentation")), [],
    ),
    "an empty mask, for a recipe without masks": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].update(segmentation=[])), [],
    ),
    "no mask": (
        MASKS, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].pop("segmentation")),
        ["annotations with bbox, category_id, image_id, segmentation; 1 of "],
    ),
    "an empty mask": (
        MASKS, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].update(segmentation=[])),
        ["lack some: id 1"],
    ),
    "no stuff maps": (
        PANOPTIC, lambda r: shutil.rmtree(r / "coco/panoptic_stuff_val2017"),
        ["panoptic_stuff_val2017: no such folder; it must have 5000 files *.png; made by `python tools/prepare_pan"],
    ),
    "a panoptic map less": (
        PANOPTIC, lambda r: (r / "coco/panoptic_val2017/000000000002.png").unlink(),
        ["panoptic_val2017: 1 of 4 files are missing: 000000000002.png; from https"],
    ),
    "a stuff map with a label too many": (
        PANOPTIC, lambda r: paint(r / STUFF_MAP, 54), ["000000000002.png: labels must be 0 to 53 or 255, got 54"],
    ),
    "a stuff map with a palette": (
        PANOPTIC, lambda r: Image.open(r / STUFF_MAP).convert("P").save(r / STUFF_MAP),
        ["must be an image of one channel of 8 bits (mode L), got mode P"],
    ),
    "panoptic categories where a thing is stuff": (
        PANOPTIC, lambda r: edit(r / PANOPTIC_JSON, lambda c: c["categories"][0].update(isthing=0)),
        ["the 133 categories of COCO; id 1 must be ('person', 1) (name, isthing), got ('person', 0)"],
    ),
    "a label map less": (
        ADE20K, lambda r: (r / ADE / "annotations/validation/ADE_val_00000002.png").unlink(),
        ["annotations/validation: 1 of 4 files are missing: ADE_val_00000002.png; from"],
    ),
    "an image of ADE20K less": (
        ADE20K, lambda r: (r / ADE / "images/training/ADE_train_00000002.jpg").unlink(),
        ["images/training: 1 of 8 files are missing: ADE_train_00000002.jpg; from"],
    ),
    "an empty folder": (
        ADE20K, lambda r: [file.unlink() for file in list((r / ADE / "annotations/validation").iterdir())],
        ["annotations/validation: must have 2000 files *.png, got 0; from http"],
    ),
    "labels that ADE20K does not have": (
        ADE20K, lambda r: paint(r / ADE / "annotations/training/ADE_train_00000008.png", 151),
        ["ADE_train_00000008.png: labels must be 0 to 150 or 255, got 151"],
    ),
    "a label map of 16 bits": (
        ADE20K,
        lambda r: Image.fromarray(np.zeros((128, 128), np.uint16)).save(
            r / ADE / "annotations/validation/ADE_val_00000001.png"),
        ["ADE_val_00000001.png: must be an image of one channel of 8 bits (mode L or P), got mode I"],
    ),
    "a label map cut short": (
        ADE20K, lambda r: (r / ADE / "annotations/validation/ADE_val_00000001.png").write_bytes(b"\x89PNG"),
        ["ADE_val_00000001.png or ADE_val_00000001.jpg: cannot be read as an image"],
    ),
    "a label map of another size": (
        ADE20K,
        lambda r: Image.new("L", (64, 128)).save(r / ADE / "annotations/validation/ADE_val_00000001.png"),
        ["ADE_val_00000001.png: must be (128, 128) (width, height) as ", ],
    ),
    "no list": (
        PASCAL, lambda r: (r / VOC / "ImageSets/SegmentationContext/val.txt").unlink(),
        ["val.txt: does not exist; made by `python tools/prepare_pascal_context.py`"],
    ),
    "a listed image less": (
        PASCAL, lambda r: (r / VOC / "JPEGImages/2009_000001.jpg").unlink(),
        ["JPEGImages: 1 of 4 files are missing: 2009_000001.jpg; from http://host.robots"],
    ),
    "the same images in both lists": (
        PASCAL,
        lambda r: shutil.copy(r / VOC / "ImageSets/SegmentationContext/train.txt",
                              r / VOC / "ImageSets/SegmentationContext/val.txt"),
        ["8 images are in the other split, too: 2008_000001, 2008_000002, 2008_000003 and 5 more"],
    ),
    "PASCAL-Context's 459 classes": (
        PASCAL, lambda r: paint(r / VOC / "SegmentationClassContext/2008_000001.png", 60),
        ["2008_000001.png: labels must be 0 to 59 or 255, got 60"],
    ),
    "Cityscapes as it is downloaded": (
        CITYSCAPES,
        lambda r: [
            file.rename(str(file).replace("TrainIds", "Ids")) for file in list((r / "cityscapes").rglob("*Ids.png"))
        ],
        ["must have 2975 files *_gtFine_labelTrainIds.png, got 0; from https", "csCreateTrainIdLabelImgs"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named(root, case):
    recipe, spoil, texts = CASES[case]
    spoil(root)
    found = problems(recipe, root)
    assert len(found) == len(texts), found
    assert all(text in line for line, text in zip(found, texts, strict=True)), found
    assert all(line.startswith(str(root)) for line in found)


def test_many_wrong_label_maps_take_few_lines(root):
    for file in (root / ADE / "annotations" / "training").iterdir():
        paint(file, 200)
    found = problems(ADE20K, root)
    assert len(found) == 6
    assert found[-1].endswith("annotations/training: 8 of the 8 label maps that were read are wrong")


def test_a_quick_check_reads_a_sample_from_end_to_end(root, monkeypatch):
    monkeypatch.setattr("reproduction.data._QUICK", 2)
    folder = root / ADE / "annotations" / "training"
    paint(folder / "ADE_train_00000004.png", 200)
    assert problems(ADE20K, root, quick=True) == []
    assert len(problems(ADE20K, root)) == 1
    paint(folder / "ADE_train_00000008.png", 200)
    assert len(problems(ADE20K, root, quick=True)) == 1
    assert spread(range(5), 5) == list(range(5)) and spread(range(1000), 3) == [0, 499, 999]


def test_several_threads_find_the_same(root):
    for name in ("ADE_train_00000001.png", "ADE_train_00000008.png"):
        paint(root / ADE / "annotations" / "training" / name, 200)
    alone = problems(ADE20K, root)
    assert len(alone) == 2 and problems(ADE20K, root, workers=2) == alone


def test_a_palette_is_welcome_where_the_loader_takes_its_index(root):
    file = root / ADE / "annotations" / "training" / "ADE_train_00000001.png"
    Image.open(file).convert("P").save(file)
    assert Image.open(file).mode == "P" and problems(ADE20K, root) == []


def test_the_command(root, capsys):
    assert main(["data", "--data-root", str(root), "--any-count"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("  complete\n") == 5 and "coco, for 21 recipes:" in printed
    (root / "coco/val2017/000000000003.jpg").unlink()
    names = ["faster_rcnn_resnest50_fpn_1x", "ade20k"]
    assert main(["data", *names, "--data-root", str(root), "--any-count", "--quick"]) == 1
    printed = capsys.readouterr().out
    assert "coco, for faster_rcnn_resnest50_fpn_1x:\n  " in printed
    assert "ade20k, for 11 recipes:\n  complete\n" in printed
    assert printed.endswith(f"{root}: 1 problem\n")
    assert main(["data", "ade20k", "--data-root", str(root)]) == 1
    assert "20210" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["yolo"], "got 'yolo'"), (["ade20k", "--workers", "0"], "--workers must be positive, got 0")],
)
def test_a_wrong_command_ends_in_one_line(smoke_root, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["data", *arguments, "--data-root", str(smoke_root), "--any-count"])
    assert stopped.value.code.startswith("reproduce.py data: error: ") and message in stopped.value.code
