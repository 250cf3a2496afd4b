"""The segmentation part of ``make demo``: a small DeepLabV3, trained from scratch on a CPU in minutes.

Beside what ``common.py`` says it writes::

    segmentation_data/                    the images, and label maps with all digits as one class
    segmentation/iter_*.pth               checkpoints: the last one is the model
    segmentation/label_maps/000001.png    the predictions for the held-out images, labels as in the dataset
"""

from __future__ import annotations

import math
import operator
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

import test_seg
import train_seg
from curves import draw_curves
from demonstration import common
from demonstration.common import Demonstration
from demonstration.digits import DemoDataset
from resnest_backbones.commands import python_command
from resnest_backbones.data import palette_of, read_image, read_label_map
from resnest_backbones.outputs import read_metrics
from resnest_backbones.predict.evaluate import confusion_of, metrics_of
from visualization.panels import paint_labels

SEGMENTATION_CONFIG = common.ROOT / "configs" / "mmseg" / "demo" / "deeplabv3_resnest14-d8_1xb8-demo_demo-96x96.py"
CLASS_NAMES = ("background", "digit")

_SCALED = ("train_cfg.val_interval", "default_hooks.checkpoint.interval", "default_hooks.logger.interval")
_LOSSES = {"loss": "total loss", "decode.loss_ce": "decode head", "aux.loss_ce": "auxiliary head"}
_METRICS = {name: name for name in ("mIoU", "mAcc", "aAcc")}
_PANELS = ("image", "ground truth", "prediction")


def train_segmentor(
    output_dir: str | Path,
    *,
    iterations: int | None = None,
    num_train: int = common.NUM_TRAIN,
    num_val: int = common.NUM_VAL,
) -> Demonstration:
    """Make the data, train, evaluate and draw; arguments and errors are those of ``train_detector``."""
    output_dir = Path(output_dir)
    folder = output_dir / "segmentation"
    cfg = Config.fromfile(SEGMENTATION_CONFIG)
    iterations = cfg.train_cfg.max_iters if iterations is None else iterations
    used = folder / SEGMENTATION_CONFIG.name  # a run writes its resolved config there
    common.check_iterations(iterations, folder, Config.fromfile(used).train_cfg.max_iters if used.is_file() else None)
    dataset = common.make_dataset(output_dir, num_train=num_train, num_val=num_val)
    data = merge_digits(dataset, output_dir / "segmentation_data")
    images, label_maps = data / "images" / "validation", data / "annotations" / "validation"
    model, predicted = folder / f"iter_{iterations}.pth", folder / "label_maps"
    evaluate = (SEGMENTATION_CONFIG, model, "--data-root", data, "--work-dir", folder / "evaluation")
    if not common.is_finished(folder, model):
        train = (SEGMENTATION_CONFIG, "--data-root", data, "--work-dir", folder, "--resume")
        common.run_tool("train_seg", train_seg.run, *train, *_scale_schedule(cfg, iterations))
        common.run_tool("test_seg", test_seg.run, *evaluate, "--out", predicted)
        title = "pixel accuracy, mean IoU, mean accuracy of the classes, and IoU, in percent"
        common.write_results(compare_label_maps(label_maps, predicted, CLASS_NAMES), folder, title=title)
    curves = read_metrics(*sorted(folder.glob("*/vis_data/scalars.json")), key="step")
    title = "mIoU and pixel accuracy on held-out images"
    draw_curves(curves, folder / "curves.png", losses=_LOSSES, metrics=_METRICS, title=title)
    draw_label_maps(sorted(images.iterdir())[: common.PICTURES], label_maps, predicted, folder)
    common.draw_page(
        folder,
        *("--config", SEGMENTATION_CONFIG, "--checkpoint", model, "--classes", data / "classes.txt"),
        *("--val-images", images, "--val-label-maps", label_maps),
    )
    infer = (SEGMENTATION_CONFIG, model, min(images.iterdir()), "--out-dir", folder / "own_images")
    commands = {
        "evaluate the saved model": python_command("tools/test_seg.py", *evaluate),
        "draw its prediction on another image": python_command("tools/infer_seg.py", *infer),
    }
    return Demonstration(folder, model, dataset, headline=("mIoU", "aAcc", "mAcc"), panels=_PANELS, commands=commands)


def merge_digits(dataset: DemoDataset, root: Path) -> Path:
    """Write the dataset to ``root`` in ADE20K's layout with two classes, background and digit, or reuse it."""
    if root.is_dir():
        return root
    temporary = root.with_name(f".{root.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(dataset.root / "images", temporary / "images")
    for source in (dataset.train_label_maps, dataset.val_label_maps):
        folder = temporary / source.relative_to(dataset.root)
        folder.mkdir(parents=True)
        for file in source.glob("*.png"):
            merged = np.minimum(read_label_map(file), len(CLASS_NAMES))
            Image.fromarray(merged.astype(np.uint8)).save(folder / file.name)
    (temporary / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    temporary.rename(root)
    return root


def _scale_schedule(cfg: Config, iterations: int) -> list[str]:
    """Return options for another number of iterations; evaluation, checkpoints and logs keep their share of them."""
    factor = iterations / cfg.train_cfg.max_iters
    scaled = [f"{name}={math.ceil(factor * operator.attrgetter(name)(cfg))}" for name in _SCALED]
    return [] if factor == 1 else ["--cfg-options", f"train_cfg.max_iters={iterations}", *scaled]


def compare_label_maps(truth: Path, predicted: Path, classes: Sequence[str]) -> dict[str, float]:
    """Compare two folders of label maps of the same names, where n is the n-th class and 0 is ignored.

    Return the metrics of MMSegmentation's ``IoUMetric``, aAcc, mIoU and mAcc, and the IoU of each class, which it only
    prints, as "IoU-" and its name; NaN for a class that does not occur.
    """
    confusion = np.zeros((len(classes),) * 2, dtype=np.int64)
    for file in truth.glob("*.png"):
        true, found = (read_label_map(folder / file.name).astype(np.int64) - 1 for folder in (truth, predicted))
        confusion += confusion_of(true, found, len(classes))
    right, pixels = confusion.diagonal(), confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        ious, accuracies = right / (pixels + confusion.sum(axis=0) - right), right / pixels
    metrics = {**metrics_of(confusion), "mAcc": 100 * float(np.nanmean(accuracies))}
    by_class = {f"IoU-{name}": 100 * float(iou) for name, iou in zip(classes, ious, strict=True)}
    return {name: metrics[name] for name in ("aAcc", "mIoU", "mAcc")} | by_class


def draw_label_maps(images: Sequence[Path], truth: Path, predicted: Path, folder: Path) -> None:
    """Draw images beside their label maps in two folders, digits in color, into ``folder``."""
    shown = CLASS_NAMES[1:]  # the background stays gray
    palette = palette_of(shown)
    pictures = {}
    for file in images:
        image = read_image(file)
        maps = [read_label_map(root / f"{file.stem}.png").astype(int) - 2 for root in (truth, predicted)]
        drawn = [image, *(paint_labels(image, labels, palette) for labels in maps)]
        pictures[file.stem] = list(zip(drawn, _PANELS, strict=True))
    common.draw_predictions(pictures, folder, legend=dict(zip(shown, palette, strict=True)))
