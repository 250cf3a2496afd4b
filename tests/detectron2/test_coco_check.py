"""COCO files with the faults of annotation tools, as the Detectron2 plugin takes them."""

import json
import logging
import math
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from resnest_backbones.detectron2 import add_resnest_config
from resnest_backbones.detectron2.custom_coco import register_custom_coco, use_custom_dataset
from resnest_backbones.errors import DatasetError
from tests.data.coco import RLE, first, write, write_images


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_images(tmp_path)


def test_detectron2_reads_what_was_filled_in(folder, caplog):
    file = write(folder, lambda c: [a.update(id=a["id"] - 1, iscrowd=None, ignore=0) for a in c["annotations"]])
    with caplog.at_level(logging.INFO, "resnest_backbones"):
        train, val, _ = register_custom_coco(file, folder, file, folder)
    assert train == val and "2 images are used for training and for validation" in caplog.text
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
    with pytest.raises(DatasetError, match=r"1 annotations of .*train.json have no segmentation .*: 1; .*NaN"):
        use_custom_dataset(cfg, str(file), str(folder), str(file), str(folder))
    coded = write(folder, first(segmentation=RLE), "coded.json")
    use_custom_dataset(cfg, str(coded), str(folder), str(coded), str(folder))
    assert cfg.INPUT.MASK_FORMAT == "bitmask"
