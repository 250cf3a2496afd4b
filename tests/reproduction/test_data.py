"""Checks of data roots: nothing is said of a good one, and each way to spoil one is named."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from reproduction import data
from reproduction.data import find_checks, needs, problems
from reproduction.data_files import Labels, label_map_problems, spread
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


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.main(parser.parse_args(["--workers", "1", *map(str, arguments)]))


@pytest.mark.parametrize("quick", [False, True])
def test_nothing_is_said_of_a_good_root(smoke_root, quick):
    for recipe in RECIPES.values():
        assert problems(recipe, smoke_root, expect_full=False, quick=quick) == []


def test_every_row_says_what_it_needs():
    for recipe in RECIPES.values():
        assert needs(recipe) and all(":" in line and "\n" not in line for line in needs(recipe))
    assert "masks" not in needs(BOXES)[0] and "masks" in needs(MASKS)[0]
    assert any("panoptic_stuff" in line for line in needs(PANOPTIC))
    assert any(
        "test-dev" in line for line in needs(next(r for r in RECIPES.values() if "box_ap_test_dev" in r.metrics))
    )


def test_the_published_counts_are_expected(smoke_root):
    wanted = {
        BOXES: ["118287 images *.jpg, got 8", "118287 images, got 8", "5000 images *.jpg, got 4", "5000 images, got 4"],
        ADE20K: ["20210 images *.jpg, got 8", "20210 label maps *.png, got 8", "2000 images", "2000 label maps"],
        PASCAL: ["4998 names of images, got 8", "5105 names of images, got 4"],
        CITYSCAPES: ["2975 images", "2975 label maps", "500 images *_leftImg8bit.png, got 4", "500 label maps"],
    }
    for recipe, texts in wanted.items():
        found = problems(recipe, smoke_root)
        assert len(found) == len(texts)
        assert all(text in line for line, text in zip(found, texts, strict=True)), found
    assert len(problems(PANOPTIC, smoke_root)) == 4 + 6


FOR_TRAINING = (
    *("coco/train2017", "coco/annotations/*_train2017.json", "coco/panoptic_*train2017", f"{ADE}/*/training"),
    *(f"{VOC}/ImageSets/SegmentationContext/train.txt", "cityscapes/*/train"),
)


def test_an_evaluation_needs_no_data_for_training(root):
    for pattern in FOR_TRAINING:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for recipe in RECIPES.values():
        for check in find_checks([recipe]):
            assert list(check.run(root, data.Extent(expect_full=False)))
            assert list(check.run(root, data.Extent(expect_full=False, training=False))) == []


def test_an_empty_root_needs_everything(tmp_path):
    for recipe in RECIPES.values():
        found = problems(recipe, tmp_path, expect_full=False)
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
        ["coco/val2017: no such folder; it must have 5000 images *.jpg; from https://cocodataset.org/#download, val"],
    ),
    "an image less": (
        BOXES, lambda r: (r / "coco/val2017/000000000003.jpg").unlink(),
        ["coco/val2017: 1 of 4 images that instances_val2017.json names are missing: 000000000003.jpg; from"],
    ),
    "no json": (BOXES, lambda r: (r / INSTANCES).unlink(), ["instances_val2017.json: no such file; from https"]),
    "half a json": (
        BOXES, lambda r: (r / INSTANCES).write_text((r / INSTANCES).read_text()[:500]),
        ["instances_val2017.json: cannot be read as json: "],
    ),
    "a json of something else": (
        BOXES, lambda r: (r / INSTANCES).write_text('{"images": [], "annotations": 3}'),
        ["must have lists of images, annotations, categories, got images; from"],
    ),
    "a category of another name": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["categories"][1].update(name="velocipede")),
        ["COCO's 80 categories, got 80; the first to differ is that of id 2: must be bicycle, got velocipede"],
    ),
    "a category less": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["categories"].pop()),
        ["must have COCO's 80 categories, got 79; the first to differ is that of id 90: must be toothbrush, got none"],
    ),
    "no annotations": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["annotations"].clear()),
        ["instances_val2017.json: must have annotations, got none"],
    ),
    "annotations of unknown images and categories": (
        BOXES,
        lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].update(id=7, image_id=99, category_id=12)),
        ["annotations are of an image that is not in the file: id 7", "are of a category that COCO has not: id 7"],
    ),
    "no box": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].pop("bbox")),
        ["annotations do not have all of bbox, category_id, image_id: id 1"],
    ),
    "no mask, for a row without masks": (
        BOXES, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].pop("segmentation")), [],
    ),
    "no mask": (
        MASKS, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].pop("segmentation")),
        ["annotations do not have all of bbox, category_id, image_id, segmentation: id 1"],
    ),
    "an empty mask": (
        MASKS, lambda r: edit(r / INSTANCES, lambda c: c["annotations"][0].update(segmentation=[])),
        ["annotations have no mask: id 1"],
    ),
    "an image of another size": (
        BOXES, lambda r: Image.new("RGB", (64, 128)).save(r / "coco/val2017/000000000003.jpg"),
        ["000000000003.jpg: must be (128, 128) (width, height) as its annotation says, got (64, 128)"],
    ),
    "an image that is a web page": (
        BOXES, lambda r: (r / "coco/val2017/000000000003.jpg").write_text("<html>"),
        ["000000000003.jpg: cannot be read as an image"],
    ),
    "no stuff maps": (
        PANOPTIC, lambda r: shutil.rmtree(r / "coco/panoptic_stuff_val2017"),
        ["panoptic_stuff_val2017: no such folder; it must have 5000 maps *.png; made by `python tools/prepare_pan"],
    ),
    "a stuff map less": (
        PANOPTIC, lambda r: (r / STUFF_MAP).unlink(),
        ["panoptic_stuff_val2017: 1 of 4 annotated maps are missing: 000000000002.png; made by"],
    ),
    "a panoptic map less": (
        PANOPTIC, lambda r: (r / "coco/panoptic_val2017/000000000002.png").unlink(),
        ["panoptic_val2017: 1 of 4 annotated maps are missing: 000000000002.png; from https"],
    ),
    "a stuff map of another image": (
        PANOPTIC, lambda r: shutil.copy(r / "coco/panoptic_stuff_val2017/000000000001.png", r / STUFF_MAP),
        ["panoptic_stuff_val2017/000000000002.png: must show the stuff of "],
    ),
    "a stuff map with a label too many": (
        PANOPTIC, lambda r: paint(r / STUFF_MAP, 54),
        ["must show the stuff of", "000000000002.png: labels must be 0 to 53 or 255, got 54"],
    ),
    "a stuff map with a palette": (
        PANOPTIC, lambda r: Image.open(r / STUFF_MAP).convert("P").save(r / STUFF_MAP),
        ["must be an image of one channel of 8 bits (mode L), got mode P"],
    ),
    "a panoptic map of another image": (
        PANOPTIC,
        lambda r: shutil.copy(r / "coco/panoptic_train2017/000000000007.png",
                              r / "coco/panoptic_val2017/000000000002.png"),
        ["must show the stuff of"],
    ),
    "a panoptic map of other segments": (
        PANOPTIC, lambda r: Image.new("RGB", (128, 128), (9, 9, 9)).save(r / "coco/panoptic_val2017/000000000002.png"),
        ["panoptic_val2017/000000000002.png: must show the segments of its annotation, got none of them; from"],
    ),
    "a panoptic map of one channel": (
        PANOPTIC, lambda r: shutil.copy(r / STUFF_MAP, r / "coco/panoptic_val2017/000000000002.png"),
        ["panoptic_val2017/000000000002.png must be an RGB image of 8 bits, got the mode L"],
    ),
    "panoptic categories where a thing is stuff": (
        PANOPTIC, lambda r: edit(r / PANOPTIC_JSON, lambda c: c["categories"][0].update(isthing=0)),
        ["133 categories, got 133; the first to differ is that of id 1: must be person, 1, got person, 0"],
    ),
    "no panoptic annotations": (
        PANOPTIC, lambda r: edit(r / PANOPTIC_JSON, lambda c: c["annotations"].clear()),
        ["panoptic_val2017.json: must have 5000 annotations, got 0"],
    ),
    "a label map less": (
        ADE20K, lambda r: (r / ADE / "annotations/validation/ADE_val_00000002.png").unlink(),
        ["annotations/validation: 1 of 4 label maps of the images are missing: ADE_val_00000002.png; from"],
    ),
    "an image of ADE20K less": (
        ADE20K, lambda r: (r / ADE / "images/training/ADE_train_00000002.jpg").unlink(),
        ["images/training: 1 of 8 images of the label maps are missing: ADE_train_00000002.jpg; from"],
    ),
    "a folder of ADE20K less": (
        ADE20K, lambda r: shutil.rmtree(r / ADE / "annotations/validation"),
        ["annotations/validation: no such folder; it must have 2000 label maps *.png; from http"],
    ),
    "labels that ADE20K has not": (
        ADE20K, lambda r: paint(r / ADE / "annotations/training/ADE_train_00000008.png", 151),
        ["ADE_train_00000008.png: labels must be 0 to 150 or 255, got 151"],
    ),
    "a label map of 16 bits": (
        ADE20K,
        lambda r: Image.fromarray(np.zeros((128, 128), np.uint16)).save(
            r / ADE / "annotations/validation/ADE_val_00000001.png"),
        ["ADE_val_00000001.png: must be an image of one channel of 8 bits (mode L or P), got mode I"],
    ),
    "a label map in colours": (
        ADE20K,
        lambda r: Image.new("RGB", (128, 128)).save(r / ADE / "annotations/validation/ADE_val_00000001.png"),
        ["of one channel of 8 bits (mode L or P), got mode RGB"],
    ),
    "a label map cut short": (
        ADE20K, lambda r: (r / ADE / "annotations/validation/ADE_val_00000001.png").write_bytes(b"\x89PNG"),
        ["ADE_val_00000001.png: cannot be read as an image"],
    ),
    "a label map of another size": (
        ADE20K,
        lambda r: Image.new("L", (64, 128)).save(r / ADE / "annotations/validation/ADE_val_00000001.png"),
        ["ADE_val_00000001.png: must be as large as ", ],
    ),
    "no list": (
        PASCAL, lambda r: (r / VOC / "ImageSets/SegmentationContext/val.txt").unlink(),
        ["val.txt: no such file; it must name 5105 images; made by `python tools/prepare_pascal_context.py`"],
    ),
    "a listed image less": (
        PASCAL, lambda r: (r / VOC / "JPEGImages/2009_000001.jpg").unlink(),
        ["JPEGImages: 1 of 4 files that val.txt names are missing: 2009_000001.jpg; from http://host.robots"],
    ),
    "a listed label map less": (
        PASCAL, lambda r: (r / VOC / "SegmentationClassContext/2009_000001.png").unlink(),
        ["SegmentationClassContext: 1 of 4 files that val.txt names are missing: 2009_000001.png; made by"],
    ),
    "the same images in both lists": (
        PASCAL,
        lambda r: shutil.copy(r / VOC / "ImageSets/SegmentationContext/train.txt",
                              r / VOC / "ImageSets/SegmentationContext/val.txt"),
        ["8 images are in both lists: 2008_000001, 2008_000002, 2008_000003 and 5 more"],
    ),
    "PASCAL-Context's 459 classes": (
        PASCAL, lambda r: paint(r / VOC / "SegmentationClassContext/2008_000001.png", 60),
        ["2008_000001.png: labels must be 0 to 59 or 255, got 60"],
    ),
    "Cityscapes' own ids": (
        CITYSCAPES,
        lambda r: paint(r / "cityscapes/gtFine/val/smoke/smoke_000001_000019_gtFine_labelTrainIds.png", 33),
        ["labelTrainIds.png: labels must be 0 to 18 or 255, got 33"],
    ),
    "Cityscapes as it is downloaded": (
        CITYSCAPES,
        lambda r: [
            file.rename(str(file).replace("TrainIds", "Ids")) for file in list((r / "cityscapes").rglob("*Ids.png"))
        ],
        ["must have 2975 label maps *_gtFine_labelTrainIds.png, got 0; from https", "csCreateTrainIdLabelImgs"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named(root, case):
    recipe, spoil, texts = CASES[case]
    spoil(root)
    found = problems(recipe, root, expect_full=False)
    assert len(found) == len(texts), found
    assert all(text in line for line, text in zip(found, texts, strict=True)), found
    assert all(line.startswith(str(root)) for line in found)


def test_many_wrong_label_maps_take_few_lines(root):
    for file in (root / ADE / "annotations" / "training").iterdir():
        paint(file, 200)
    found = problems(ADE20K, root, expect_full=False)
    assert len(found) == 6
    assert found[-1].endswith("annotations/training: 8 of 8 label maps that were read are wrong in such a way")


def test_a_quick_check_reads_a_sample_from_end_to_end(root, monkeypatch):
    monkeypatch.setattr("reproduction.data_files.QUICK_SAMPLE", 2)
    folder = root / ADE / "annotations" / "training"
    paint(folder / "ADE_train_00000004.png", 200)
    assert problems(ADE20K, root, expect_full=False, quick=True) == []
    assert len(problems(ADE20K, root, expect_full=False)) == 1
    paint(folder / "ADE_train_00000008.png", 200)
    assert len(problems(ADE20K, root, expect_full=False, quick=True)) == 1
    assert spread(range(5), 5) == list(range(5)) and spread(range(1000), 3) == [0, 499, 999]


def test_several_processes_find_the_same(root, monkeypatch):
    monkeypatch.setattr("reproduction.parallel._CHUNK", 1)
    for name in ("ADE_train_00000001.png", "ADE_train_00000008.png"):
        paint(root / ADE / "annotations" / "training" / name, 200)
    alone = problems(ADE20K, root, expect_full=False)
    assert len(alone) == 2 and problems(ADE20K, root, expect_full=False, workers=2) == alone


def test_a_palette_is_welcome_where_the_loader_takes_its_index(tmp_path):
    file = tmp_path / "labels.png"
    label_map = Image.new("P", (4, 4), 7)
    label_map.putpalette([255, 0, 0] * 256)
    label_map.save(file)
    Image.new("RGB", (4, 4)).save(tmp_path / "image.jpg")
    pairs = ({"a": file}, {"a": tmp_path / "image.jpg"})
    assert list(label_map_problems(tmp_path, *pairs, Labels(7), data.Extent())) == []
    assert len(list(label_map_problems(tmp_path, *pairs, Labels(6), data.Extent()))) == 1


def test_each_data_set_is_checked_once():
    checks = find_checks(list(RECIPES.values()))
    assert [check.name for check in checks] == [
        "COCO 2017 with boxes and masks", "panoptic COCO 2017", "ADE20K", "PASCAL-Context with 59 classes",
        "Cityscapes",
    ]  # fmt: skip
    assert [len(check.rows) for check in checks] == [21, 1, 11, 5, 5]
    assert [check.name for check in find_checks([BOXES])] == ["COCO 2017 with boxes"]


def test_the_command(root, capsys):
    assert run("--data-root", root, "--any-count") == 0
    printed = capsys.readouterr().out
    assert printed.count("  complete\n") == 5 and "COCO 2017 with boxes and masks, for 21 rows:" in printed
    (root / "coco/val2017/000000000003.jpg").unlink()
    assert run("faster_rcnn_resnest50_fpn_1x", "ade20k", "--data-root", root, "--any-count", "--quick") == 1
    printed = capsys.readouterr().out
    assert "for faster_rcnn_resnest50_fpn_1x:\n  " in printed and "ADE20K, for 11 rows:\n  complete\n" in printed
    assert printed.endswith(f"{root}: 1 problem\n")
    assert run("ade20k", "--data-root", root) == 1
    assert "20210" in capsys.readouterr().out


def test_the_command_names_an_unknown_row(tmp_path, capsys):
    assert run("yolo", "--data-root", tmp_path) == 2
    assert "got 'yolo'" in capsys.readouterr().err


def test_the_command_needs_a_process(smoke_root, capsys):
    assert run("ade20k", "--data-root", smoke_root, "--any-count", "--workers", 0) == 2
    assert capsys.readouterr().err == "error: --workers must be at least 1, got 0\n"
