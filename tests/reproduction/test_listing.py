"""``reproduce.py list``: all recipes, readable in a terminal and by machines, and their estimated GPU-hours."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from documents import costs as costs_module
from documents.costs import costs
from reproduce import main
from reproduction.listing import DEVICE_RATE, as_dict, as_text, estimate
from resnest_backbones.model_zoo import RECIPES, get_config_file
from resnest_backbones.weights import WEIGHTS
from tests.helpers import ROOT, environment, error_of

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")


def test_the_table_has_every_recipe_once_with_what_was_published_and_what_it_stands_on():
    listed = [as_dict(recipe, DEVICE_RATE) for recipe in RECIPES.values()]
    hours = {entry["recipe"]: entry["gpu_hours"] for entry in listed}
    assert all(math.isfinite(value) and 5 < value < 1000 for value in hours.values()), hours
    assert max(hours, key=hours.__getitem__) == "mask_cascade_rcnn_resnest200_dcnv2_fpn_3x_all_tricks"
    for width in (80, 200):
        lines = as_text(listed, 10.0, width).splitlines()
        assert all(len(line) <= width for line in lines)
        assert all(sum(line.split()[:1] == [name] for line in lines) == 1 for name in RECIPES)
    text = as_text(listed, 10.0, 120)
    assert "published: box AP 50.91, mask AP 44.5" in text and "test-dev has no public annotations" in text
    assert "50 recipes, " in text and "[1] github.com/zhanghang1989/ResNeSt d2/README.md" in text
    assert "configs: configs/detectron2/coco_detection/RECIPE.yaml" in text
    words = " ".join(text.split())
    assert "an effective 10 TFLOP/s, about that of a V100 in float32: Detectron2's MODEL_ZOO.md has 0.210 s" in words
    assert "MODEL_ZOO.md" not in as_text(listed, 20.0, 120)  # another rate has another origin


def test_the_networks_are_listed_with_their_published_accuracy_and_hours(capsys):
    assert main(["list", "imagenet", "--json"]) == 0
    listed = {entry["recipe"]: entry for entry in json.loads(capsys.readouterr().out)["recipes"]}
    assert {name: entry["published"]["top1"] for name, entry in listed.items()} == {
        name: record.top1 for name, record in WEIGHTS.items()
    }
    assert listed["resnest50"]["gpu_hours"] == pytest.approx(6 * 5.39e9 * 270 * 1281167 / 10e12 / 3600, rel=0.002)
    assert listed["resnest269"]["note"] == "on images of 416 x 416 pixels"
    assert listed["resnest269"]["trained_file"] == "resnest://resnest269"
    text = as_text([listed["resnest14"]], 10.0, 120)
    assert "tools/pretrain.py" in text and "50000 images to evaluate on: imagenet/val" in text


def test_json_has_all_of_it_and_frameworks_print_nothing_into_it():
    words = ["list", "cityscapes", "mask_rcnn_resnest50_fpn_1x", "--json", "--device-rate", "20"]
    command = [sys.executable, ROOT / "tools" / "reproduce.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    content = json.loads(done.stdout)
    assert content["device_rate_tflops"] == 20
    assert len(content["recipes"]) == 6 and content["recipes"][0]["recipe"] == "mask_rcnn_resnest50_fpn_1x"
    for entry in content["recipes"]:
        recipe = RECIPES[entry["recipe"]]
        assert (entry["published"], entry["source"]) == (dict(recipe.metrics), recipe.source)
        assert entry["config"] == get_config_file(recipe.name) and Path(entry["config"]).is_file()
        assert entry["gpu_hours"] > 0 and entry["training_images"] > 0 and entry["data"]


def test_a_recipe_whose_framework_is_missing_is_listed_without_hours(monkeypatch):
    monkeypatch.setitem(sys.modules, "resnest_backbones.detectron2.options", None)
    entry = as_dict(RECIPES["faster_rcnn_resnest50_fpn_1x"], DEVICE_RATE)
    assert entry["gpu_hours"] is None
    assert "detectron2 is missing" in as_text([entry], 10.0, 80)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["faster_rcnn_resnest50_fpn_2x"],
         "RECIPE must be a name, a pattern or a dataset that `list` prints, got 'faster_rcnn_resnest50_fpn_2x'; the "
         "nearest is faster_rcnn_resnest50_fpn_1x"),
        (["mask_rcnn_resnest50_fpn_1x", "--device-rate", "nan"], "--device-rate must be positive, got nan"),
    ],
)  # fmt: skip
def test_a_wrong_command_ends_in_one_line(arguments, message):
    assert error_of(main, "list", *arguments) == f"reproduce.py list: error: {message}"


# GPU-hours: the formula on recipes worked out by hand, and the published speed that the device rate stands on


def test_the_device_rate_is_that_of_detectron2s_published_training_speed(monkeypatch):
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    monkeypatch.setattr(costs_module, "get_config", lambda name: cfg)
    cost = costs_module._count_detector("the stock Faster R-CNN R50-FPN")
    assert cost.multiply_adds == pytest.approx(211.2e9, rel=1e-3)
    assert cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "choice"
    area = sum((side / 800) ** 2 for side in cfg.INPUT.MIN_SIZE_TRAIN) / len(cfg.INPUT.MIN_SIZE_TRAIN)
    assert area == pytest.approx(0.815, abs=5e-4)
    seconds, images = 0.210, cfg.SOLVER.IMS_PER_BATCH / 8  # MODEL_ZOO.md of Detectron2, on 8 V100
    rate = 3 * 2 * cost.multiply_adds * area * images / seconds / 1e12
    assert rate == pytest.approx(9.8, abs=0.05) and round(rate) == DEVICE_RATE


@pytest.mark.parametrize(
    ("name", "images", "area"),
    [
        ("mask_rcnn_resnest50_fpn_1x", 90_000 * 16, sum(s**2 for s in (640, 672, 704, 736, 768, 800)) / 6 / 800**2),
        # a range of sizes, and random crops
        ("mask_cascade_rcnn_resnest200_fpn_3x_all_tricks", 270_000 * 16,
         sum(side**2 for side in range(640, 865)) / 225 / 800**2 * 0.95**2),
        ("deeplabv3_resnest200-d8_4xb4-paper_ade20k-480x480", 180 * 1263 * 16, 1),  # whole batches
        ("fcn_resnest50-d8_4xb4-paper_pascal_context_59-480x480", 80 * 312 * 16, 1),
        ("deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024", 80_000 * 8, 1),
    ],
)  # fmt: skip
def test_a_recipe_sees_the_images_of_its_schedule_at_the_mean_size_of_its_training(name, images, area):
    found = estimate(RECIPES[name])
    assert found.images == images
    assert found.multiply_adds == pytest.approx(costs()[name].multiply_adds * area)
    assert found.gpu_hours == pytest.approx(6 * found.multiply_adds * found.images / 10e12 / 3600)
    assert estimate(RECIPES[name], 5).gpu_hours == pytest.approx(2 * found.gpu_hours)
