"""Checks of data roots: nothing is said of a good one, and each way to spoil one is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from reproduce import main
from reproduction import data
from reproduction.common import ALL, NETWORKS
from reproduction.data import LAYOUT, Extent, make_check, needs, spread
from resnest_backbones.model_zoo import RECIPES

BOXES = RECIPES["faster_rcnn_resnest50_fpn_1x"]
MASKS = RECIPES["mask_rcnn_resnest50_fpn_1x"]
PANOPTIC = RECIPES["panoptic_fpn_resnest200_3x_tricks"]
ADE20K = RECIPES["fcn_resnest101-d8_4xb4-160k_ade20k-512x512"]
PASCAL = RECIPES["fcn_resnest50-d8_4xb4-paper_pascal_context_59-480x480"]
CITYSCAPES = RECIPES["fcn_resnest101-d8_4xb2-80k_cityscapes-512x1024"]

ADE, VOC = "ade/ADEChallengeData2016", "VOCdevkit/VOC2010"
ADE_TRAIN, ADE_VAL, LISTS = (
    f"{ADE}/annotations/training",
    f"{ADE}/annotations/validation",
    "ImageSets/SegmentationContext",
)
INSTANCES, PANOPTIC_JSON = (f"coco/annotations/{kind}_val2017.json" for kind in ("instances", "panoptic"))
STUFF_MAP = "coco/panoptic_stuff_val2017/000000000002.png"


@pytest.fixture
def root(smoke_root, tmp_path) -> Path:
    """A data root to spoil."""
    return Path(shutil.copytree(smoke_root, tmp_path / "datasets"))


def problems(recipe, root: Path, **extent) -> list[str]:
    return make_check(root, Extent(**{"any_count": True, **extent}))(recipe)


def test_nothing_is_said_of_a_good_root(smoke_root):
    for recipe in ALL.values():
        assert problems(recipe, smoke_root) == problems(recipe, smoke_root, quick=True) == []
        assert all("images to " in line and "\n" not in line for line in needs(recipe))
    assert [line.split()[0] for line in needs(BOXES)] == ["118287", "5000"]
    assert any("panoptic_stuff" in line for line in needs(PANOPTIC))
    of_test_dev = RECIPES["mask_cascade_rcnn_resnest200_dcnv2_fpn_3x_all_tricks"]
    assert [line.endswith("coco/test2017") for line in needs(of_test_dev)] == [False, False, True]


def test_the_published_counts_are_expected(smoke_root):
    wanted = {
        BOXES: ["118287 files *.jpg, got 8", "118287 images, got 8", "5000 files *.jpg, got 4", "5000 images, got 4"],
        ADE20K: ["20210 files *.jpg, got 8", "20210 files *.png, got 8", "2000 files *.jpg", "2000 files *.png"],
        PASCAL: ["must name 4998 images, got 8", "must name 5105 images, got 4"],
        NETWORKS["resnest50"]: ["1281167 files *.JPEG, got 8", "50000 files *.JPEG, got 4"],
        CITYSCAPES: ["2975 files", "2975 files", "500 files *_leftImg8bit.png, got 4", "500 files"],
    }
    for recipe, texts in wanted.items():
        found = problems(recipe, smoke_root, any_count=False)
        assert len(found) == len(texts)
        assert all(text in line for line, text in zip(found, texts, strict=True)), found
    assert len(problems(PANOPTIC, smoke_root, any_count=False)) == 4 + 6


def test_imagenet_has_a_folder_for_each_class(root, monkeypatch):
    train, val = (replace(split, count=count) for split, count in zip(LAYOUT["imagenet"], (8, 4), strict=True))
    monkeypatch.setattr(data, "LAYOUT", {"imagenet": (train, val)})
    (problem, _) = problems(NETWORKS["resnest14"], root, any_count=False)
    assert problem == f"{root / 'imagenet/train'}: must have 1000 folders of files, got 2"


def test_a_dataset_of_several_recipes_is_read_once(root):
    check = make_check(root, Extent(any_count=True))
    assert check(BOXES) == []
    (root / INSTANCES).unlink()
    assert check(RECIPES["faster_rcnn_resnest101_fpn_1x"]) == [] and len(problems(BOXES, root)) == 1


def test_an_evaluation_needs_no_data_for_training_and_an_empty_root_everything(root, tmp_path):
    for_training = ["coco/train2017", "coco/annotations/*_train2017.json", "coco/panoptic_*train2017"]
    for_training += [f"{ADE}/*/training", f"{VOC}/{LISTS}/train.txt", "cityscapes/*/train"]
    for path in [path for pattern in for_training for path in root.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for recipe in (MASKS, PANOPTIC, ADE20K, PASCAL, CITYSCAPES):
        assert problems(recipe, root)
        assert problems(recipe, root, training=False) == []
        found = problems(recipe, tmp_path / "empty")
        assert len(found) >= 4
        assert all(line.startswith(str(tmp_path)) and ("from http" in line or "made by" in line) for line in found)


def without(path: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def edited(path: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    def edit(root: Path) -> None:
        content = json.loads((root / path).read_text())
        change(content)
        (root / path).write_text(json.dumps(content))

    return edit


def painted(path: str, value: int) -> Callable[[Path], object]:
    """Give one pixel of a label map another value."""

    def paint(root: Path) -> None:
        pixels = np.array(Image.open(root / path))
        pixels[3, 5] = value
        Image.fromarray(pixels).save(root / path)

    return paint


def as_downloaded(root: Path) -> None:
    for file in list((root / "cityscapes").rglob("*TrainIds.png")):
        file.rename(str(file).replace("TrainIds", "Ids"))


def same_lists(root: Path) -> None:
    shutil.copy(root / VOC / LISTS / "train.txt", root / VOC / LISTS / "val.txt")


CASES = [
    (BOXES, without("coco/val2017"),
     "coco/val2017: no such folder; it must have 5000 files *.jpg; from https://cocodataset.org/#download, val"),
    (BOXES, without("coco/val2017/000000000003.jpg"), "coco/val2017: 1 of 4 files are missing: 000000000003.jpg; from"),
    (BOXES, lambda r: (r / INSTANCES).write_text('{"images'), "instances_val2017.json: cannot be read: "),
    (BOXES, lambda r: (r / INSTANCES).write_text('{"images": [], "annotations": 3}'),
     "must have lists of images, annotations and categories; from"),
    (BOXES, edited(INSTANCES, lambda c: c["categories"].pop()), "the 80 categories of COCO; id 90 must be ('tooth"),
    (BOXES, edited(INSTANCES, lambda c: c["annotations"].clear()),
     "must have annotations with bbox, category_id, image_id; got none"),
    (BOXES, edited(INSTANCES, lambda c: c["annotations"][0].update(image_id=99)),
     "annotates images missing from its 'images' list: 99"),
    (BOXES, edited(INSTANCES, lambda c: c["annotations"][0].pop("segmentation")), None),
    (MASKS, edited(INSTANCES, lambda c: c["annotations"][0].pop("segmentation")),
     "annotations with bbox, category_id, image_id, segmentation; 1 of "),
    (MASKS, edited(INSTANCES, lambda c: c["annotations"][0].update(segmentation=[])), "lack some: id 1"),
    (PANOPTIC, without("coco/panoptic_stuff_val2017"),
     "panoptic_stuff_val2017: no such folder; it must have 5000 files *.png; made by `python tools/prepare_pan"),
    (PANOPTIC, lambda r: Image.open(r / STUFF_MAP).convert("P").save(r / STUFF_MAP),
     "must be an image of one channel of 8 bits (mode L), got mode P"),
    (ADE20K, lambda r: Image.open(r / ADE_VAL / "ADE_val_00000001.png").convert("P").save(
        r / ADE_VAL / "ADE_val_00000001.png"), None),  # the loader takes the index of a palette
    (PANOPTIC, edited(PANOPTIC_JSON, lambda c: c["categories"][0].update(isthing=0)),
     "the 133 categories of COCO; id 1 must be ('person', 1) (name, isthing), got ('person', 0)"),
    (ADE20K, without(f"{ADE}/images/training/ADE_train_00000002.jpg"), "images/training: 1 of 8 files are missing: AD"),
    (ADE20K, lambda r: [file.unlink() for file in list((r / ADE_VAL).iterdir())],
     "annotations/validation: must have 2000 files *.png, got 0; from http"),
    (ADE20K, painted(f"{ADE_TRAIN}/ADE_train_00000008.png", 151), "labels must be 0 to 150 or 255, got 151"),
    (ADE20K, lambda r: (r / ADE_VAL / "ADE_val_00000001.png").write_bytes(b"\x89PNG"),
     "ADE_val_00000001.png or ADE_val_00000001.jpg: cannot be read as an image"),
    (ADE20K, lambda r: Image.new("L", (64, 128)).save(r / ADE_VAL / "ADE_val_00000001.png"),
     "ADE_val_00000001.png: must be (128, 128) (width, height) as "),
    (PASCAL, without(f"{VOC}/{LISTS}/val.txt"), "val.txt: does not exist; made by `python tools/prepare_pascal_con"),
    (PASCAL, same_lists, "8 images are in the other split, too: 2008_000001, 2008_000002, 2008_000003 and 5 more"),
    (CITYSCAPES, as_downloaded, "files *_gtFine_labelTrainIds.png, got 0; from https"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "spoil", "text"), CASES)
def test_what_is_wrong_is_named(root, recipe, spoil, text):
    spoil(root)
    found = problems(recipe, root)
    assert len(found) == (0 if text is None else 2 if recipe is CITYSCAPES else 1), found  # there, of both splits
    assert all(text in line and line.startswith(str(root)) for line in found), found


def test_many_wrong_label_maps_take_few_lines_whatever_the_threads(root):
    for file in (root / ADE_TRAIN).iterdir():
        painted(f"{ADE_TRAIN}/{file.name}", 200)(root)
    found = problems(ADE20K, root)
    assert len(found) == 6
    assert found[-1].endswith("annotations/training: 8 of the 8 label maps that were read are wrong")
    assert problems(ADE20K, root, workers=2) == found


def test_a_quick_check_reads_a_sample_from_end_to_end(root, monkeypatch):
    monkeypatch.setattr("reproduction.data._QUICK", 2)
    painted(f"{ADE_TRAIN}/ADE_train_00000004.png", 200)(root)
    assert problems(ADE20K, root, quick=True) == []
    assert len(problems(ADE20K, root)) == 1
    painted(f"{ADE_TRAIN}/ADE_train_00000008.png", 200)(root)
    assert len(problems(ADE20K, root, quick=True)) == 1
    assert spread(range(5), 5) == list(range(5)) and spread(range(1000), 3) == [0, 499, 999]


def test_the_command(root, capsys):
    assert main(["data", "--data-root", str(root), "--any-count"]) == 0
    printed = capsys.readouterr().out
    users = sum(recipe.dataset.startswith("coco") for recipe in RECIPES.values())
    assert printed.count("  complete\n") == 6 and f"coco, for {users} recipes:" in printed
    (root / "coco/val2017/000000000003.jpg").unlink()
    names = ["faster_rcnn_resnest50_fpn_1x", "ade20k"]
    assert main(["data", *names, "--data-root", str(root), "--any-count", "--quick"]) == 1
    printed = capsys.readouterr().out
    assert "coco, for faster_rcnn_resnest50_fpn_1x:\n  " in printed
    assert "ade20k, for 11 recipes:\n  complete\n" in printed
    assert printed.endswith(f"{root}: 1 problem\n")
    with pytest.raises(SystemExit, match=r"^reproduce.py data: error: --workers must be positive, got 0$"):
        main(["data", "ade20k", "--workers", "0", "--data-root", str(root)])
