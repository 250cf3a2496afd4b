"""The demonstration that ``tools/make_demo.py`` runs: a small detector, trained from scratch on a CPU in minutes.

It is the way of a real training, made small: a COCO-format data set (``demonstration.digits``), a config, the
procedure of ``tools/train_net.py``, COCO evaluation. It writes, under one folder::

    data/                                 the data set
    detection/model_final.pth             what was trained
    detection/metrics.json, log.txt       what Detectron2 logged
    detection/results.json, results.txt   AP, AP50, ... in percent; null where COCO defines none
    detection/curves.png                  losses, and AP over the iterations
    detection/predictions.png             a sheet of the pictures in predictions/: ground truth | prediction
    detection/predictions/000001.png
    detection/visualized/index.html       what tools/visualize.py shows

What is there is used again: the data set, the checkpoints of a training that was broken off, a finished training.
"""

from __future__ import annotations

import math
import operator
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode, get_cfg

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
from resnest_backbones.detectron2.config import add_resnest_config
from resnest_backbones.detectron2.engine.train import build_argument_parser, main
from resnest_backbones.predict.pictures import draw_predictions, plot_curves, read_metrics

DETECTION_CONFIG = "faster_rcnn_resnest14_fpn_demo"

_COCO_RESULTS = Path("inference", "coco_instances_results.json")
_TITLE = "COCO box AP in percent"


def run_detection_demo(
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
    folder = output_dir / "detection"
    config_file = Path(model_zoo.get_config_file(DETECTION_CONFIG))
    recipe = _load_recipe(config_file)
    options = [] if iterations in (None, recipe.SOLVER.MAX_ITER) else _fit_schedule(recipe, iterations)
    _check_same_length(folder, iterations or recipe.SOLVER.MAX_ITER)
    dataset = make_dataset(output_dir, num_train=num_train, num_val=num_val)
    _train(folder, dataset, config_file, options)
    model = folder / "model_final.pth"
    demo = Demo(
        folder,
        read_results(folder),
        headline=("AP", "AP50", "AP75"),
        panels=("ground truth", "prediction"),
        model=model,
        dataset=dataset,
        commands={"evaluate the saved model": _evaluate_command(folder, dataset, config_file, model)},
    )
    draw_curves(read_metrics(folder / "metrics.json"), demo.curves)
    draw_predictions(
        dataset.val_json, dataset.val_images, folder / _COCO_RESULTS, sheet=demo.predictions, folder=demo.pictures
    )
    draw_page(
        demo,
        *("--config", folder / "config.yaml", "--checkpoint", model, "--classes", dataset.val_json),
        *("--val-json", dataset.val_json, "--val-images", dataset.val_images),
    )
    return demo


def _evaluate_command(folder: Path, dataset: DemoDataset, config_file: Path, model: Path) -> str:
    return python_command(
        *("tools/train_net.py", "--eval-only", "--config-file", config_file),
        *("--val-json", dataset.val_json, "--val-images", dataset.val_images),
        *("MODEL.WEIGHTS", model, "OUTPUT_DIR", folder / "evaluation"),
    )


def draw_curves(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], file: Path) -> None:
    """Draw losses and AP, those that are there.

    Args:
        curves: what ``read_metrics`` returns.
        file: the PNG to write.
    """
    losses = ["total_loss", *sorted(name for name in curves if name.startswith("loss_"))]
    figures = {name: name.removeprefix("bbox/") for name in ("bbox/AP50", "bbox/AP", "bbox/AP75")}
    plot_curves(curves, file, losses={name: name for name in losses}, figures=figures, title="box AP")


# Training


def _load_recipe(config_file: Path) -> CfgNode:
    cfg = get_cfg()
    add_resnest_config(cfg)
    cfg.merge_from_file(str(config_file))
    return cfg


def _fit_schedule(cfg: CfgNode, iterations: int) -> list[str]:
    """Options for another number of iterations: evaluation, checkpoints and warm-up keep their share of them."""
    keys = ("SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")
    factor = iterations / cfg.SOLVER.MAX_ITER
    values = {key: math.ceil(factor * operator.attrgetter(key)(cfg)) for key in keys}
    return [str(word) for item in {"SOLVER.MAX_ITER": iterations, **values}.items() for word in item]


def _check_same_length(folder: Path, iterations: int) -> None:
    file = folder / "config.yaml"
    if file.is_file():
        check_same_length(folder, iterations, yaml.safe_load(file.read_text())["SOLVER"]["MAX_ITER"])


def _train(folder: Path, dataset: DemoDataset, config_file: Path, options: Sequence[str]) -> None:
    """Train from where the folder's training stands, unless it is finished, and write results.json and .txt."""
    if (folder / "results.json").is_file() and (folder / "model_final.pth").is_file():
        print(f"{folder} holds a finished training, used again; remove that folder to train anew", flush=True)
        return
    arguments = [
        *("--resume", "--config-file", shorten(config_file)),
        *("--train-json", shorten(dataset.train_json), "--train-images", shorten(dataset.train_images)),
        *("--val-json", shorten(dataset.val_json), "--val-images", shorten(dataset.val_images)),
        *("OUTPUT_DIR", shorten(folder), *options),
    ]
    command = shlex.join(["tools/train_net.py", *arguments])
    if (folder / "last_checkpoint").is_file():
        print(f"{folder} holds a training that was broken off: going on from its last checkpoint")
    print(f"Training as this command does:\n  {command}", flush=True)
    main(build_argument_parser().parse_args(arguments))
    curves = read_metrics(folder / "metrics.json")
    figures = {name.removeprefix("bbox/"): v[-1] for name, (_, v) in curves.items() if name.startswith("bbox/")}
    write_results(figures, folder, title=_TITLE)
