"""GPU-hours: the formula on rows worked out by hand, and the published speed that the device rate stands on."""

from __future__ import annotations

import math

import pytest

from documents import costs as costs_module
from documents.costs import costs
from reproduction.cost import DEVICE_RATE, TRAINING_IMAGES, batch_of_segmentor, estimate
from resnest_backbones.model_zoo import RECIPES

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")


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
    assert rate == pytest.approx(9.8, abs=0.05)
    assert round(rate) == DEVICE_RATE


def test_a_detector_sees_the_images_of_its_iterations_at_the_mean_size_of_its_training():
    row = RECIPES["mask_rcnn_resnest50_fpn_1x"]
    found = estimate(row)
    assert found.images == 90_000 * 16
    area = sum(side**2 for side in (640, 672, 704, 736, 768, 800)) / 6 / 800**2
    assert found.multiply_adds == pytest.approx(costs()[row.name].multiply_adds * area)
    assert found.gpu_hours == pytest.approx(6 * found.multiply_adds * found.images / 10e12 / 3600)


def test_a_range_of_sizes_and_random_crops_count():
    row = RECIPES["mask_cascade_rcnn_resnest200_fpn_3x_all_tricks"]
    found = estimate(row)
    assert found.images == 270_000 * 16
    mean_square = sum(side**2 for side in range(640, 865)) / 225
    assert found.multiply_adds == pytest.approx(costs()[row.name].multiply_adds * mean_square / 800**2 * 0.95**2)


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("deeplabv3_resnest200-d8_4xb4-paper_ade20k-480x480", 180 * 1263 * 16),
        ("fcn_resnest50-d8_4xb4-paper_pascal_context_59-480x480", 80 * 312 * 16),
        ("fcn_resnest101-d8_4xb4-160k_ade20k-512x512", 160_000 * 16),
        ("deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024", 80_000 * 8),
    ],
)
def test_a_segmentor_sees_whole_batches_of_crops(name, images):
    found = estimate(RECIPES[name])
    assert found.images == images
    assert found.multiply_adds == costs()[name].multiply_adds


def test_every_row_has_an_estimate():
    hours = {name: estimate(row).gpu_hours for name, row in RECIPES.items()}
    assert len(hours) == 42
    assert all(math.isfinite(value) and 5 < value < 1000 for value in hours.values()), hours
    assert max(hours, key=hours.__getitem__) == "mask_cascade_rcnn_resnest200_dcnv2_fpn_3x_all_tricks"
    assert TRAINING_IMAGES.keys() == {row.dataset for row in RECIPES.values()}


def test_a_device_of_half_the_rate_takes_twice_the_hours():
    row = RECIPES["faster_rcnn_resnest50_fpn_1x"]
    assert estimate(row, 5).gpu_hours == pytest.approx(2 * estimate(row, 10).gpu_hours)


@pytest.mark.parametrize("rate", [0, -1, math.nan])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="device_rate must be positive"):
        estimate(RECIPES["faster_rcnn_resnest50_fpn_1x"], rate)


def test_the_batch_is_in_the_name_of_a_segmentor_only():
    assert batch_of_segmentor(RECIPES["fcn_resnest101-d8_4xb2-80k_cityscapes-512x1024"]) == 8
    with pytest.raises(ValueError, match="must say _GPUSxbBATCH-"):
        batch_of_segmentor(RECIPES["faster_rcnn_resnest50_fpn_1x"])
