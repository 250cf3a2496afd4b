"""Custom datasets: real COCO json files, whole and spoiled."""

import json
import logging
import math
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from resnest_backbones.detectron2 import add_resnest_config
from resnest_backbones.detectron2.custom_coco import check_coco_json, register_custom_coco, use_custom_dataset
from resnest_backbones.detectron2.engine.data import build_evaluator
from resnest_backbones.errors import DatasetError
from resnest_backbones.predict.evaluate import evaluate_coco, summarize
from tests.data.coco import RLE, first, write, write_images
from tests.helpers import subset_of_coco


@pytest.fixture
def bccd(shared, tmp_path) -> tuple[Path, Path]:
    """Four images of the blood-cell set, and their folder."""
    root = shared / "data" / "bccd"
    return subset_of_coco(root / "annotations" / "instances_train.json", tmp_path / "train.json", 4), root / "images"


def spoil(file: Path, change) -> Path:
    content = json.loads(file.read_text())
    change(content)
    spoiled = file.with_name("spoiled.json")
    spoiled.write_text(json.dumps(content))
    return spoiled


def test_a_whole_file_tells_its_classes_and_counts(bccd):
    source = check_coco_json(*bccd)
    assert source.class_names == ("RBC", "WBC", "Platelets")
    assert source.num_images == 4 and source.num_annotations > 8 and not source.has_masks


def test_a_registered_set_is_read_by_detectron2_with_contiguous_classes(shared, tmp_path):
    root = shared / "data" / "coco_mini"
    train = subset_of_coco(root / "annotations" / "instances_train2017.json", tmp_path / "train.json", 3)
    val = subset_of_coco(root / "annotations" / "instances_val2017.json", tmp_path / "val.json", 2)
    names = register_custom_coco(train, root / "train2017", val, root / "val2017")
    assert register_custom_coco(train, root / "train2017", val, root / "val2017") == names
    train_name, val_name, source = names
    dicts = DatasetCatalog.get(train_name)
    assert len(dicts) == 3 and len(DatasetCatalog.get(val_name)) == 2
    assert MetadataCatalog.get(train_name).thing_classes == list(source.class_names) and len(source.class_names) == 80
    assert all(0 <= a["category_id"] < 80 for d in dicts for a in d["annotations"])
    assert MetadataCatalog.get(val_name).evaluator_type == "coco"


def test_missing_files_and_folders_are_named(bccd, tmp_path):
    with pytest.raises(DatasetError, match=r"none\.json cannot be read: No such file"):
        check_coco_json(tmp_path / "none.json", tmp_path)
    with pytest.raises(DatasetError, match="nowhere is not a folder of images"):
        check_coco_json(bccd[0], tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["red", "WBC", "Platelets"], "only in the first: RBC; only in the second: red"),
        (["WBC", "RBC", "Platelets"], "must have the same categories in the same .*; their order differs"),
    ],
)
def test_other_categories_in_the_two_files_are_named(bccd, names, message):
    def rename(content):
        for category, name in zip(content["categories"], names, strict=True):
            category["name"] = name

    json_file, images = bccd
    with pytest.raises(DatasetError, match=message):
        register_custom_coco(json_file, images, spoil(json_file, rename), images)


def test_masks_must_be_in_both_files(shared, tmp_path):
    root = shared / "data" / "nuclei"
    json_file = subset_of_coco(root / "annotations" / "instances_val.json", tmp_path / "val.json", 2)
    boxes = spoil(json_file, lambda content: [a.pop("segmentation") for a in content["annotations"]])
    assert register_custom_coco(json_file, root / "images", json_file, root / "images")[2].has_masks
    assert not register_custom_coco(json_file, root / "images", boxes, root / "images")[2].has_masks


def test_a_picture_that_is_none_is_named(bccd, tmp_path):
    json_file, _ = bccd
    for image in json.loads(json_file.read_text())["images"]:
        (tmp_path / image["file_name"]).write_text("<html>")
    with pytest.raises(DatasetError, match="4 images have a different size, or .*its format is unknown"):
        check_coco_json(json_file, tmp_path)


def test_a_training_set_without_annotations_is_refused(bccd):
    json_file, images = bccd
    empty = spoil(json_file, lambda content: content.update(annotations=[]))
    with pytest.raises(DatasetError, match="no annotations to train on"):
        register_custom_coco(empty, images, json_file, images)
    assert register_custom_coco(None, None, empty, images)[0] is None  # an evaluation may have none


def test_as_many_detections_count_as_the_model_gives(tmp_path, caplog):
    """The ground truth of 150 objects, taken as detections, has an AP of 100 in every tool."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (320, 240)).save(tmp_path / "images" / "a.jpg")
    boxes = [[20 * column + 2, 20 * row + 2, 14, 14] for row in range(10) for column in range(15)]
    common = {"image_id": 1, "category_id": 1, "area": 196, "iscrowd": 0}
    annotations = [{"id": number, "bbox": box, **common} for number, box in enumerate(boxes, start=1)]
    image = {"id": 1, "file_name": "a.jpg", "width": 320, "height": 240}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    _, name, _ = register_custom_coco(None, None, tmp_path / "val.json", tmp_path / "images")
    assert len(DatasetCatalog.get(name)[0]["annotations"]) == 150
    found = Instances((240, 320), scores=torch.linspace(1, 0.5, 150), pred_classes=torch.zeros(150, dtype=torch.int64))
    found.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=torch.float32))
    for limit, ap in ((300, 100), (100, pytest.approx(66.3, abs=0.1))):
        evaluator = build_evaluator(name, str(tmp_path / "out"), limit)
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [{"instances": found}])
        assert evaluator.evaluate()["bbox"]["AP"] == ap
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 1 - n / 300} for n, box in enumerate(boxes)]
    metrics = summarize(evaluate_coco(COCO(tmp_path / "val.json"), results, "bbox"))
    assert metrics == {"AP": pytest.approx(100), "AP50": pytest.approx(100), "AP75": pytest.approx(100)}
    assert "AP counts up to 150 detections per image, whereas COCO counts 100" in caplog.text


# Files with the faults of annotation tools, as Detectron2 takes them.


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_images(tmp_path)


def test_detectron2_reads_what_was_filled_in(folder, caplog):
    file = write(folder, lambda c: [a.update(id=a["id"] - 1, iscrowd=None, ignore=0) for a in c["annotations"]])
    with caplog.at_level(logging.INFO, "resnest_backbones"):
        train, val, _ = register_custom_coco(file, folder, file, folder)
    assert train == val and "2 images are in both the training and validation sets" in caplog.text
    assert f"{file}: 2 images, 0 of them without objects; 4 objects of 2 classes" in caplog.text
    assert [a["iscrowd"] for d in DatasetCatalog.get(train) for a in d["annotations"]] == [0] * 4
    assert MetadataCatalog.get(train).json_file != str(file)
    assert json.loads(file.read_text())["annotations"][0]["id"] == 0


def test_boxes_of_unusable_masks_are_kept_for_boxes_and_refused_for_masks(folder):
    file = write(folder, first(segmentation=[[10, 8, math.nan, 8, 34, 28]]))
    cfg = get_cfg()
    add_resnest_config(cfg)
    use_custom_dataset(cfg, str(file), str(folder), str(file), str(folder))
    assert sum(len(d["annotations"]) for d in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 4
    cfg.MODEL.MASK_ON = True
    with pytest.raises(DatasetError, match=r"1 annotations of .*train.json have no usable segmentation.*: 1; .*NaN"):
        use_custom_dataset(cfg, str(file), str(folder), str(file), str(folder))
    coded = write(folder, first(segmentation=RLE), "coded.json")
    use_custom_dataset(cfg, str(coded), str(folder), str(coded), str(folder))
    assert cfg.INPUT.MASK_FORMAT == "bitmask"
