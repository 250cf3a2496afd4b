"""Small real MMSegmentation configs and datasets for the tests of the tools."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mmengine.runner import CheckpointLoader
from mmengine.utils import ManagerMixin
from PIL import Image

from tests.helpers import error_of

# The first two stages of a ResNeSt-14 with two narrow heads: an iteration on crops of 64 pixels takes 0.1 seconds.
CONFIG = """
custom_imports = dict(imports=["resnest_backbones.mmseg"])
default_scope = "mmseg"
norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, size=(64, 64), test_cfg=dict(size_divisor=8)),
    backbone=dict(type="ResNeStBackbone", name={name!r}, out_indices=(0, 1), norm_cfg=norm_cfg),
    decode_head=dict(
        type="FCNHead", in_channels=512, in_index=1, channels=16, num_convs=1, concat_input=False,
        dropout_ratio=0.1, num_classes={num_classes}, norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0, class_weight=[1.0] * 7)),
    auxiliary_head=[dict(
        type="FCNHead", in_channels=256, in_index=0, channels=16, num_convs=1, concat_input=False,
        dropout_ratio=0.1, num_classes={num_classes}, norm_cfg=norm_cfg, align_corners=False,
        loss_decode=[dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4)])],
    train_cfg=dict(), test_cfg=dict(mode="whole"),
)
train_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(128, 96), ratio_range=(0.7, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(64, 64), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5), dict(type="PhotoMetricDistortion"), dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="Resize", scale=(128, 96), keep_ratio=True),
    dict(type="LoadAnnotations"), dict(type="PackSegInputs"),
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="TestTimeAug", transforms=[
        [dict(type="Resize", scale=s, keep_ratio=True) for s in ((96, 64), (128, 96))],
        [dict(type="RandomFlip", prob=p, direction="horizontal") for p in (0.0, 1.0)],
        [dict(type="LoadAnnotations")], [dict(type="PackSegInputs")],
    ]),
]
tta_model = dict(type="SegTTAModel")
# Pascal VOC with its wrapper: --data-root has to put another dataset in its place.
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="RepeatDataset", times=3, dataset=dict(
        type="PascalVOCDataset", data_root="data/VOCdevkit/VOC2012", ann_file="train.txt",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"), pipeline=train_pipeline)),
)
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PascalVOCDataset", data_root="data/VOCdevkit/VOC2012", ann_file="val.txt",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"), pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type="CityscapesMetric", output_dir="nowhere"), dict(type="IoUMetric", iou_metrics=["mIoU"])]
test_evaluator = val_evaluator
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=6, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=6, val_interval=3)
val_cfg, test_cfg = dict(type="ValLoop"), dict(type="TestLoop")
default_hooks = dict(
    timer=dict(type="IterTimerHook"), logger=dict(type="LoggerHook", interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"), visualization=dict(type="SegVisualizationHook"),
)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork"), dist_cfg=dict(backend="nccl"))
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")
log_processor = dict(by_epoch=False)
log_level, load_from, resume = "INFO", None, False
"""


# Lines at its end that make it count in epochs.
EPOCHS = """
train_dataloader["sampler"] = dict(type="DefaultSampler", shuffle=True)
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=3, val_interval=3)
default_hooks["checkpoint"] = dict(type="CheckpointHook", by_epoch=True, interval=1)
log_processor = dict(by_epoch=True)
"""


def write_config(folder: Path, *, name: str = "resnest14", num_classes: int = 21, more: str = "") -> Path:
    """Write the config above, and ``more`` lines at its end."""
    file = folder / f"fcn_{name}.py"
    file.write_text(CONFIG.replace("{name!r}", repr(name)).replace("{num_classes}", str(num_classes)) + more)
    return file


def make_label_map_dataset(root: Path, *, splits: Sequence[str] = ("training", "validation"), count: int = 4) -> Path:
    """Write coloured rectangles in ADE20K's layout: classes red, green, blue are labels 1, 2, 3; the top has 0."""
    generator = np.random.default_rng(0)
    for split in splits:
        images, annotations = root / "images" / split, root / "annotations" / split
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for number in range(count):
            labels = np.repeat(np.repeat(generator.integers(1, 4, (6, 8)), 16, axis=0), 16, axis=1).astype(np.uint8)
            labels[:4] = 0
            pixels = generator.normal(80, 20, (*labels.shape, 3))
            for channel in range(3):
                pixels[labels == channel + 1, channel] += 100
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(images / f"{number:03d}.jpg")
            Image.fromarray(labels).save(annotations / f"{number:03d}.png")
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    return root


def ade_layout(shared: Path, root: Path) -> Path:
    """The real sample of ADE20K, its three validation images as training images too."""
    sample = shared / "data" / "ade_sample"
    for kind in ("images", "annotations"):
        for split in ("training", "validation"):
            shutil.copytree(sample / kind / "validation", root / kind / split)
    shutil.copy(sample / "objectInfo150.txt", root)
    return root


def _subclasses(cls: type) -> list[type]:
    return [cls, *(below for one in cls.__subclasses__() for below in _subclasses(one))]


@contextmanager
def as_in_a_new_process() -> Iterator[None]:
    """MMEngine keeps loggers, message hubs and visualizers of one name for the whole process, and its file loader.

    One thread, as in the processes that the tests start: another number adds up in another order.
    """
    kinds = [cls for cls in _subclasses(ManagerMixin) if "_instance_dict" in vars(cls)]
    before = [(kind, kind._instance_dict.copy()) for kind in kinds]
    schemes, environment = CheckpointLoader._schemes.copy(), dict(os.environ)
    for kind in kinds:
        kind._instance_dict.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for kind, instances in before:
            kind._instance_dict.clear()
            kind._instance_dict.update(instances)
        CheckpointLoader._schemes = schemes
        os.environ.clear()
        os.environ.update(environment)


def run_here(run: Callable[[list[str]], None], *arguments: object) -> None:
    """Run a tool's ``run`` in this process; ``SystemExit`` holds its one line where it ends with an error."""
    with as_in_a_new_process():
        run([str(argument) for argument in arguments])


def fails(run: Callable[[list[str]], None], *arguments: object) -> str:
    """Run a tool that must end with an error of one line, and return it."""
    with as_in_a_new_process():
        return error_of(run, *arguments)


def load(file: Path) -> dict:
    """Read a checkpoint that a test has written."""
    return torch.load(file, weights_only=False)


def logged(work_dir: Path) -> str:
    """All that MMEngine logged in a work dir."""
    return "".join(file.read_text() for file in sorted(work_dir.glob("*/*.log")))


def last_metrics(work_dir: Path) -> dict[str, float]:
    """The metrics of the last validation or test in a work dir: mIoU, aAcc, mAcc in percent."""
    found: list[dict[str, float]] = []
    for file in sorted([*work_dir.glob("*/vis_data/scalars.json"), *work_dir.glob("*/2*.json")]):
        found += [record for line in file.read_text().splitlines() if "mIoU" in (record := json.loads(line))]
    return {name: found[-1][name] for name in ("mIoU", "aAcc", "mAcc")}
