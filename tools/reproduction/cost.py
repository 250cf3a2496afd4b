"""How many GPU-hours the training of a row takes, estimated from what its model costs.

    hours = 3 * 2 * multiply-adds of an image * images seen / device rate / 3600

The multiply-adds are those of ``documents.costs``, scaled by area from the input that they were counted on to
the images of the training; forward and backward are three times the forward; a multiply-add is two operations; the
images seen are read out of the row's resolved config. Left out are the evaluations, the loading of images, auxiliary
heads, and what a device does at another rate than the stated one: an estimate may be off by a factor of two.

``DEVICE_RATE`` is the effective rate of a V100 in float32, derived in the same way from a published speed: Detectron2's
MODEL_ZOO.md has 0.210 s per iteration for the training of its Faster R-CNN R50-FPN 1x on 8 V100, 2 images each. That
model costs 211.2 G multiply-adds by our count, and its training images are 0.815 of the counted area in the mean:
``3 * 2 * 211.2e9 * 0.815 * 2 / 0.210 = 9.8e12`` operations per second, rounded to 10 TFLOP/s
(``tests/reproduce/test_cost.py`` counts it anew).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from documents.costs import costs
from reproduction.data_coco import COCO
from reproduction.data_segmentation import ADE20K, CITYSCAPES, PASCAL_CONTEXT
from resnest_backbones.model_zoo import Recipe, get_config

DEVICE_RATE = 10.0  # TFLOP/s
DEVICE_RATE_SOURCE = (
    "a V100 in float32: Detectron2's MODEL_ZOO.md has 0.210 s per iteration of Faster R-CNN R50-FPN 1x on 8 V100 with "
    "2 images each, 9.8 TFLOP/s by the same formula"
)

TRAINING_IMAGES = {
    "coco": COCO["train"],
    "coco_panoptic": COCO["train"],
    "ade20k": ADE20K["training"],
    "pascal_context_59": PASCAL_CONTEXT["train"],
    "cityscapes": CITYSCAPES["train"],
}

_OPERATIONS = 3 * 2  # forward and backward of one multiply-add
_GPUS_AND_BATCH = re.compile(r"_(\d+)xb(\d+)-")  # in MMSegmentation's names: 4xb2 is 2 images on each of 4 GPUs


@dataclass(frozen=True)
class Estimate:
    """What the training of a row takes.

    Attributes:
        images: seen in the whole schedule.
        multiply_adds: forward of one of them, in the mean.
        gpu_hours: all GPUs together.
    """

    images: int
    multiply_adds: float
    gpu_hours: float


def estimate(recipe: Recipe, device_rate: float = DEVICE_RATE) -> Estimate:
    """Estimate the training of a row.

    Args:
        recipe: the row.
        device_rate: effective rate of one GPU in TFLOP/s.

    Raises:
        ValueError: ``device_rate`` is not positive.
        ImportError: the row's framework, which resolves its config, is not installed.
    """
    if not device_rate > 0:
        raise ValueError(f"device_rate must be positive, got {device_rate}")
    cfg = get_config(recipe.name)
    cost = costs()[recipe.name]
    if recipe.framework == "detectron2":
        images, area = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH, _detector_area(cfg, cost.height)
    else:
        images, area = _images_of_segmentor(cfg, recipe), 1.0  # counted on the crop that it is trained on
    scaled = cost.multiply_adds * area
    return Estimate(images, scaled, _OPERATIONS * scaled * images / (device_rate * 1e12) / 3600)


def batch_of_segmentor(recipe: Recipe) -> int:
    """Images of an iteration, all GPUs together, by the name of the row.

    Raises:
        ValueError: the name does not say it.
    """
    match = _GPUS_AND_BATCH.search(recipe.name)
    if match is None:
        raise ValueError(f"the name of a row of MMSegmentation must say _GPUSxbBATCH-, got {recipe.name}")
    return int(match[1]) * int(match[2])


def _images_of_segmentor(cfg: Any, recipe: Recipe) -> int:
    batch = batch_of_segmentor(recipe)
    if cfg.train_cfg.type == "IterBasedTrainLoop":
        return int(cfg.train_cfg.max_iters) * batch
    # An epoch leaves the images out that do not fill a batch (drop_last).
    return int(cfg.train_cfg.max_epochs) * (TRAINING_IMAGES[recipe.dataset] // batch) * batch


def _detector_area(cfg: Any, counted: int) -> float:
    """Mean area of a training image, cropped where the config crops it, over the area that was counted.

    Both have the same proportions: the short side decides.

    Raises:
        ValueError: the config crops in another way than those of the rows.
    """
    sides = cfg.INPUT.MIN_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        sides = range(sides[0], sides[1] + 1)
    area = fmean((side / counted) ** 2 for side in sides)
    if not cfg.INPUT.CROP.ENABLED:
        return area
    if cfg.INPUT.CROP.TYPE != "relative_range":
        raise ValueError(f"INPUT.CROP.TYPE must be relative_range, got {cfg.INPUT.CROP.TYPE}")
    height, width = cfg.INPUT.CROP.SIZE  # each side keeps between that share and all of it
    return area * (1 + height) / 2 * (1 + width) / 2
