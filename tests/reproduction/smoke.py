"""What makes a recipe small enough to run end to end in seconds on a CPU: settings for ``tools/reproduce.py run``.

The config and the network stay the recipe's own. Smaller are images, iterations, batch and proposals; weights are
random, since nothing is downloaded. The metrics mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from resnest_backbones.model_zoo import Recipe, get_config

# Detectron2: what an iteration and an image take their time for. Steps of the schedule beyond its end fall away.
_DETECTRON2 = (
    "MODEL.WEIGHTS=", "MODEL.RPN.PRE_NMS_TOPK_TRAIN=100", "MODEL.RPN.POST_NMS_TOPK_TRAIN=50",
    "MODEL.RPN.PRE_NMS_TOPK_TEST=50", "MODEL.RPN.POST_NMS_TOPK_TEST=20", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=16",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0",  # there are detections to evaluate, whatever an untrained model finds
    # Two steps leave statistics of norms that overflow; MMDetection's recipes do not measure them anew themselves.
    # The published learning rate on random weights would let a ResNeSt-200 overflow even so.
    "TEST.PRECISE_BN.ENABLED=True", "TEST.PRECISE_BN.NUM_ITER=2", "SOLVER.BASE_LR=1e-5",
    "TEST.DETECTIONS_PER_IMAGE=10", "INPUT.MIN_SIZE_TRAIN=(96,128)",
    "INPUT.MIN_SIZE_TEST=96", "SOLVER.IMS_PER_BATCH=2", "DATALOADER.NUM_WORKERS=0",
)  # fmt: skip
# Over 66 blocks, statistics of so few images let an untrained model predict nothing but NaN.
_DEEP = ("SOLVER.IMS_PER_BATCH=4", "TEST.PRECISE_BN.NUM_ITER=4")
_SIZE = 8  # MMSegmentation: sides of crops and images are divided by it
_TTA_SIZE = 4  # and those of test-time augmentation, which are factors on the images, by this
_TEST_IMAGES = 2


def smoke_settings(recipe: Recipe, iterations: int) -> list[str]:
    """Return KEY=VALUE for the framework of a recipe; ``iterations`` of training."""
    if recipe.framework == "mmseg":
        return [*_mmseg_settings(get_config(recipe.name), iterations)]
    if recipe.framework == "pretrain":
        options = ("epochs=1", "warmup-epochs=0", "batch-size=4", "crop=64", "workers=0")
        return [f"pretrain.{option}" for option in options]
    # Without its package panoptic quality cannot be computed: boxes and masks alone are evaluated.
    without_pq = ["DATASETS.TEST=('coco_2017_val',)"] if lacks_panoptic_evaluation(recipe) else []
    deep = _DEEP if "resnest200" in recipe.name else []
    return [*_DETECTRON2, *deep, f"SOLVER.MAX_ITER={iterations}", *without_pq]


def lacks_panoptic_evaluation(recipe: Recipe) -> bool:
    return "pq" in recipe.metrics and find_spec("panopticapi") is None


def _mmseg_settings(cfg: Any, iterations: int) -> Iterator[str]:
    yield "model.backbone.init_cfg=None"
    yield from _smaller("model.data_preprocessor", cfg.model.data_preprocessor, ("size",))
    yield from _smaller("model.test_cfg", cfg.model.test_cfg, ("crop_size", "stride"))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        training = loader == "train_dataloader"
        yield from (f"{loader}.num_workers=0", f"{loader}.persistent_workers=False")
        yield f"{loader}.dataset.indices={2 * iterations if training else _TEST_IMAGES}"
        for number, transform in enumerate(cfg[loader].dataset.pipeline):
            yield from _smaller(f"{loader}.dataset.pipeline.{number}", transform, ("scale", "crop_size", "size"))
    yield "train_dataloader.batch_size=2"
    yield from _smaller_tta(cfg)
    if cfg.train_cfg.type == "IterBasedTrainLoop":
        yield from (f"train_cfg.max_iters={iterations}", f"train_cfg.val_interval={iterations}")
        yield f"param_scheduler.0.end={iterations}"
    else:
        yield from ("train_cfg.max_epochs=1", "train_cfg.val_interval=1")
    yield "default_hooks.logger.interval=1"


def _smaller_tta(cfg: Any) -> Iterator[str]:
    if cfg.tta_model.type == "PaperTTAModel":  # its numbers are its defaults, those of the published evaluation
        yield from (f"tta_model.{key}={value // _SIZE}" for key, value in _PAPER_TTA.items())
        return
    for number, transform in enumerate(cfg.tta_pipeline):
        for place, choice in enumerate(transform.get("transforms", [[]])[0]):
            key = f"tta_pipeline.{number}.transforms.0.{place}.scale_factor"
            yield f"{key}={choice['scale_factor'] / _TTA_SIZE}"


_PAPER_TTA = {"base_size": 520, "crop_size": 480, "stride": 320}


def _smaller(key: str, settings: Any, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if settings.get(name) is not None:
            sides = ",".join(str(max(side // _SIZE, 1)) for side in settings[name])
            yield f"{key}.{name}=({sides})"
