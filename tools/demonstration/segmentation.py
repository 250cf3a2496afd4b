"""The segmentation part of ``tools/make_demo.py``: a small DeepLabV3, trained from scratch on a CPU in minutes.

It is the way of a real training, made small: label maps in ADE20K's layout (``demonstration.digits``), a config,
the procedures of ``tools/train_seg.py`` and ``tools/test_seg.py``. It writes, under one folder::

    data/                                    the data set
    segmentation_data/                       its label maps with all digits as one class, beside its images
    segmentation/iter_*.pth                  what was trained: the last one is the model
    segmentation/*/*.log, */vis_data/        what MMEngine logged
    segmentation/label_maps/000001.png       the predictions for the held-out images, labels as in the data set
    segmentation/results.json, results.txt   aAcc, mIoU, mAcc and the IoU of each class in percent
    segmentation/curves.png                  losses, and mIoU over the iterations
    segmentation/predictions.png             a sheet of the pictures in predictions/: image | ground truth | prediction
    segmentation/predictions/000001.png
    segmentation/visualized/index.html       what tools/visualize.py shows

What is there is used again: the data set, the checkpoints of a training that was broken off, a finished training.
"""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmseg.evaluation import IoUMetric
from PIL import Image

from demonstration.common import (
    NUM_TRAIN,
    NUM_VAL,
    Demo,
    check_iterations,
    check_same_length,
    draw_page,
    make_dataset,
    read_results,
    write_results,
)
from demonstration.digits import DemoDataset
from resnest_backbones import model_zoo
from resnest_backbones.cli import python_command, shorten
from resnest_backbones.mmseg.checkpoint import use_safe_loading
from resnest_backbones.mmseg.engine.train import build_test_parser, build_train_parser, test, train
from resnest_backbones.predict.pictures import draw_label_maps, plot_curves, read_metrics

SEGMENTATION_CONFIG = "deeplabv3_resnest14-d8_1xb8-demo_demo-96x96"

CLASS_NAMES = ("background", "digit")

_IGNORED = 255
_PERIODS = ("train_cfg.val_interval", "default_hooks.checkpoint.interval", "default_hooks.logger.interval")
_LOSSES = {"loss": "total loss", "decode.loss_ce": "decode head", "aux.loss_ce": "auxiliary head"}


def run_segmentation_demo(
    output_dir: str | Path, *, iterations: int | None = None, num_train: int = NUM_TRAIN, num_val: int = NUM_VAL
) -> Demo:
    """Make the data, train, evaluate and draw; what an earlier call with the same arguments has done is used again.

    Args:
        output_dir: the folder to write to.
        iterations: of training; the config's where None.
        num_train: training images.
        num_val: held-out images.

    Raises:
        ValueError: an argument is out of its range, or the training in ``output_dir`` has another length.
        FileExistsError: the data set in ``output_dir`` has other arguments.
        ImportError: a package of the extra ``demo`` is missing.
    """
    check_iterations(iterations)
    output_dir = Path(output_dir)
    folder = output_dir / "segmentation"
    config_file = Path(model_zoo.get_config_file(SEGMENTATION_CONFIG))
    recipe = Config.fromfile(config_file)
    usual = recipe.train_cfg.max_iters
    options = [] if iterations in (None, usual) else _fit_schedule(recipe, iterations)
    _check_same_length(folder, config_file, iterations or usual)
    dataset = make_dataset(output_dir, num_train=num_train, num_val=num_val)
    data = merge_digits(dataset, output_dir / "segmentation_data")
    model = folder / f"iter_{iterations or usual}.pth"
    _train_and_test(folder, data, config_file, model, options)
    demo = Demo(
        folder,
        read_results(folder),
        headline=("mIoU", "aAcc", "mAcc"),
        panels=("image", "ground truth", "prediction"),
        model=model,
        dataset=dataset,
        commands=_commands(folder, data, config_file, model),
    )
    draw_curves(read_metrics(*sorted(folder.glob("*/vis_data/scalars.json")), key="step"), demo.curves)
    draw_label_maps(
        sorted(dataset.val_images.iterdir()),
        data / "annotations" / "validation",
        folder / "label_maps",
        names=CLASS_NAMES,
        background=CLASS_NAMES[0],
        sheet=demo.predictions,
        folder=demo.pictures,
    )
    draw_page(
        demo,
        *("--config", config_file, "--checkpoint", model, "--classes", data / "classes.txt"),
        *("--val-images", data / "images" / "validation"),
        *("--val-label-maps", data / "annotations" / "validation"),
    )
    return demo


def merge_digits(dataset: DemoDataset, root: Path) -> Path:
    """Write the demo's data set in ADE20K's layout with two classes: background, and digits of every kind.

    Args:
        dataset: the data set, with background as label 1 and ten kinds of digits above.
        root: folder to write to; one that is there is used again.

    Returns:
        ``root``.
    """
    if root.is_dir():
        return root
    temporary = root.with_name(f".{root.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    splits = {"training": (dataset.train_images, dataset.train_label_maps)}
    splits["validation"] = (dataset.val_images, dataset.val_label_maps)
    for split, (images, label_maps) in splits.items():
        shutil.copytree(images, temporary / "images" / split)
        (temporary / "annotations" / split).mkdir(parents=True)
        for file in label_maps.glob("*.png"):
            with Image.open(file) as opened:
                merged = np.minimum(np.asarray(opened), len(CLASS_NAMES))
            Image.fromarray(merged).save(temporary / "annotations" / split / file.name)
    (temporary / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    temporary.rename(root)
    return root


def _commands(folder: Path, data: Path, config_file: Path, model: Path) -> dict[str, str]:
    common = ("--data-root", data)
    image = min((data / "images" / "validation").iterdir())
    return {
        "evaluate the saved model": python_command(
            *("tools/test_seg.py", config_file, model, *common, "--work-dir", folder / "evaluation")
        ),
        "draw what it sees in an image of your own": python_command(
            *("tools/infer_seg.py", config_file, model, image, "--out-dir", folder / "own_images")
        ),
    }


def draw_curves(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], file: Path) -> None:
    """Draw losses, mIoU and accuracies, those that are there.

    Args:
        curves: what ``read_metrics`` returns.
        file: the PNG to write.
    """
    figures = {name: name for name in ("mIoU", "mAcc", "aAcc")}
    plot_curves(curves, file, losses=_LOSSES, figures=figures, title="mIoU and pixel accuracy")


# Training and testing


def _fit_schedule(cfg: Config, iterations: int) -> list[str]:
    """Options for another number of iterations: evaluation, checkpoints and logging keep their share of them."""
    factor = iterations / cfg.train_cfg.max_iters
    options = [f"train_cfg.max_iters={iterations}"]
    for name in _PERIODS:
        value: Any = cfg
        for key in name.split("."):
            value = value[key]
        options.append(f"{name}={math.ceil(factor * value)}")
    return options


def _check_same_length(folder: Path, config_file: Path, iterations: int) -> None:
    file = folder / config_file.name  # a run writes its resolved config there
    if file.is_file():
        check_same_length(folder, iterations, Config.fromfile(file).train_cfg.max_iters)


def _train_and_test(folder: Path, data: Path, config_file: Path, model: Path, options: Sequence[str]) -> None:
    """Train from where the folder's training stands, unless it is finished, and write results.json and .txt."""
    if (folder / "results.json").is_file() and model.is_file():
        print(f"{folder} holds a finished training, used again; remove that folder to train anew", flush=True)
        return
    config, own_data = shorten(config_file), ["--data-root", shorten(data)]
    arguments = [config, *own_data, "--work-dir", shorten(folder), "--resume"]
    arguments += ["--cfg-options", *options] if options else []
    if (folder / "last_checkpoint").is_file():
        print(f"{folder} holds a training that was broken off: going on from its last checkpoint")
    print(f"Training as this command does:\n  {shlex.join(['tools/train_seg.py', *arguments])}", flush=True)
    use_safe_loading()
    train(build_train_parser().parse_args(arguments))
    maps = folder / "label_maps"
    arguments = [
        config,
        shorten(model),
        *own_data,
        "--work-dir",
        shorten(folder / "evaluation"),
        "--out",
        shorten(maps),
    ]
    print(f"Evaluating as this command does:\n  {shlex.join(['tools/test_seg.py', *arguments])}", flush=True)
    test(build_test_parser().parse_args(arguments))
    figures = compare_label_maps(data / "annotations" / "validation", maps, CLASS_NAMES)
    write_results(figures, folder, title="pixel accuracy, mean IoU, mean accuracy of the classes, and IoU, in percent")


def compare_label_maps(truth: Path, predicted: Path, classes: Sequence[str]) -> dict[str, float]:
    """The figures of MMSegmentation's ``IoUMetric``, and the IoU of each class, which it only prints.

    Args:
        truth: folder of label maps, uint8 with label n for the n-th class; 0 is ignored.
        predicted: folder of label maps of the same names.
        classes: names.

    Returns:
        aAcc, mIoU, mAcc, and "IoU-" with the name of each class; NaN for a class that is nowhere.
    """
    areas = [
        IoUMetric.intersect_and_union(
            _read_label_map(predicted / file.name), _read_label_map(file), len(classes), _IGNORED
        )
        for file in sorted(truth.glob("*.png"))
    ]
    totals = [torch.stack(area).sum(dim=0) for area in zip(*areas, strict=True)]
    figures = IoUMetric.total_area_to_metrics(*totals, ["mIoU"])
    means = {"aAcc": figures["aAcc"], "mIoU": np.nanmean(figures["IoU"]), "mAcc": np.nanmean(figures["Acc"])}
    by_class = {f"IoU-{name}": iou for name, iou in zip(classes, figures["IoU"], strict=True)}
    return {name: 100 * float(value) for name, value in {**means, **by_class}.items()}


def _read_label_map(file: Path) -> torch.Tensor:
    """Indices of classes (H, W) in int64, ``_IGNORED`` where there is none."""
    with Image.open(file) as opened:
        labels = torch.from_numpy(np.asarray(opened).astype(np.int64))
    return torch.where(labels == 0, _IGNORED, labels - 1)
