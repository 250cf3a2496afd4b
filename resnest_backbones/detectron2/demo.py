"""The demonstration that ``tools/make_demo.py`` runs: a small detector, trained from scratch on a CPU in minutes.

It is the way of a real training, made small: a COCO-format data set (``resnest_backbones.demo_data``), a config, the
procedure of ``tools/train_net.py``, COCO evaluation. It writes, under one folder::

    data/                                 the data set
    detection/model_final.pth             what was trained
    detection/metrics.json, log.txt       what Detectron2 logged
    detection/results.json, results.txt   AP, AP50, ... in percent; null where COCO defines none
    detection/curves.png                  losses, and AP over the iterations
    detection/predictions.png             a sheet of the pictures in predictions/: ground truth | prediction
    detection/predictions/000001.png

What is there is used again: the data set, the checkpoints of a training that was broken off, a finished training.
"""

from __future__ import annotations

import json
import math
import operator
import os
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from detectron2.config import CfgNode, get_cfg

from resnest_backbones import model_zoo
from resnest_backbones.demo_data import DemoDataset, make_demo_dataset
from resnest_backbones.detectron2.config import add_resnest_config
from resnest_backbones.detectron2.train import build_argument_parser, main
from resnest_backbones.pictures import draw_predictions, plot_curves, read_metrics

DETECTION_CONFIG = "faster_rcnn_resnest14_fpn_demo"
NUM_TRAIN = 1000
NUM_VAL = 100
IMAGE_SIZE = 160  # what the config's anchors and INPUT are made for
DIGITS_PER_IMAGE = (2, 7)  # the more there are to learn from in an image, the fewer images it takes

_COCO_RESULTS = Path("inference", "coco_instances_results.json")


@dataclass(frozen=True)
class DetectionDemo:
    """What the detection demo leaves behind; the figures are percent, None where COCO defines none."""

    folder: Path
    results: Mapping[str, float | None]
    config_file: Path
    dataset: DemoDataset

    @property
    def model(self) -> Path:
        """The trained weights."""
        return self.folder / "model_final.pth"

    @property
    def results_json(self) -> Path:
        """The figures."""
        return self.folder / "results.json"

    @property
    def curves(self) -> Path:
        """Losses and AP over the iterations."""
        return self.folder / "curves.png"

    @property
    def predictions(self) -> Path:
        """The sheet of pictures."""
        return self.folder / "predictions.png"

    @property
    def pictures(self) -> Path:
        """The folder of single pictures."""
        return self.folder / "predictions"

    @property
    def evaluate_command(self) -> str:
        """The command line that evaluates the trained model."""
        words = [
            *(_shortest(sys.executable), "tools/train_net.py", "--eval-only", "--config-file"),
            *(_shortest(self.config_file), "--val-json", _shortest(self.dataset.val_json)),
            *("--val-images", _shortest(self.dataset.val_images), "MODEL.WEIGHTS", _shortest(self.model)),
            *("OUTPUT_DIR", _shortest(self.folder / "evaluation")),
        ]
        return " ".join(shlex.quote(word) for word in words)


def run_detection_demo(
    output_dir: str | Path, *, iterations: int | None = None, num_train: int = NUM_TRAIN, num_val: int = NUM_VAL
) -> DetectionDemo:
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
    if iterations is not None and iterations < 1:
        raise ValueError(f"iterations must be a positive integer, got {iterations}")
    output_dir = Path(output_dir)
    folder = output_dir / "detection"
    config_file = Path(model_zoo.get_config_file(DETECTION_CONFIG))
    recipe = _load_recipe(config_file)
    options = [] if iterations in (None, recipe.SOLVER.MAX_ITER) else _fit_schedule(recipe, iterations)
    _check_same_length(folder, iterations or recipe.SOLVER.MAX_ITER)
    dataset = make_demo_dataset(
        output_dir / "data",
        num_train=num_train,
        num_val=num_val,
        image_size=IMAGE_SIZE,
        digits_per_image=DIGITS_PER_IMAGE,
    )
    _train(folder, dataset, config_file, options)
    results = json.loads((folder / "results.json").read_text())
    demo = DetectionDemo(folder, results, config_file, dataset)
    plot_curves(read_metrics(folder / "metrics.json"), demo.curves)
    draw_predictions(
        dataset.val_json, dataset.val_images, folder / _COCO_RESULTS, sheet=demo.predictions, folder=demo.pictures
    )
    return demo


def report(demo: DetectionDemo, seconds: float) -> str:
    """What to tell a user when all is done: the figures, where everything is, and what to do next."""
    figures = ", ".join(f"{name} {_figure(demo.results.get(name))}" for name in ("AP", "AP50", "AP75"))
    return textwrap.dedent(
        f"""
        {figures} on {len(json.loads(demo.dataset.val_json.read_text())["images"])} held-out images
        done in {seconds:.0f} seconds, all in all

        pictures   {_shortest(demo.predictions)}: ground truth | prediction; one by one in {_shortest(demo.pictures)}
        curves     {_shortest(demo.curves)}
        figures    {_shortest(demo.results_json)}
        model      {_shortest(demo.model)}
        data set   {_shortest(demo.dataset.root)}

        Next, evaluate the saved model:
          {demo.evaluate_command}
        """
    ).rstrip()


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def _shortest(path: str | Path) -> str:
    """A path as one would type it here: relative if it lies below the current folder."""
    path = Path(os.path.abspath(path))  # not resolved: the Python of an environment is a link to another one
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


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
    """Refuse to go on with a training of another length: its learning rates were others."""
    file = folder / "config.yaml"
    found = yaml.safe_load(file.read_text())["SOLVER"]["MAX_ITER"] if file.is_file() else iterations
    if found != iterations:
        raise ValueError(
            f"iterations must be {found}, as in the training that {folder} holds, got {iterations}; remove that folder "
            "or choose another output folder"
        )


def _train(folder: Path, dataset: DemoDataset, config_file: Path, options: Sequence[str]) -> None:
    """Train from where the folder's training stands, unless it is finished, and write results.json and .txt."""
    if (folder / "results.json").is_file() and (folder / "model_final.pth").is_file():
        print(f"{folder} holds a finished training, used again; remove that folder to train anew", flush=True)
        return
    arguments = [
        *("--resume", "--config-file", _shortest(config_file)),
        *("--train-json", _shortest(dataset.train_json), "--train-images", _shortest(dataset.train_images)),
        *("--val-json", _shortest(dataset.val_json), "--val-images", _shortest(dataset.val_images)),
        *("OUTPUT_DIR", _shortest(folder), *options),
    ]
    command = shlex.join(["tools/train_net.py", *arguments])
    if (folder / "last_checkpoint").is_file():
        print(f"{folder} holds a training that was broken off: going on from its last checkpoint")
    print(f"Training as this command does:\n  {command}", flush=True)
    main(build_argument_parser().parse_args(arguments))
    curves = read_metrics(folder / "metrics.json")
    write_results({name[len("bbox/") :]: v[-1] for name, (_, v) in curves.items() if name.startswith("bbox/")}, folder)


def write_results(figures: Mapping[str, float], folder: Path) -> None:
    """Write ``results.txt`` and, last, ``results.json``: percent, None for what COCO leaves undefined (NaN).

    Args:
        figures: name -> percent, as Detectron2's ``COCOEvaluator`` returns them.
        folder: to write to.
    """
    names = sorted(figures, key=lambda name: "-" in name)  # AP-zero and the like behind AP, AP50, ...
    rounded = {name: round(figures[name], 3) if math.isfinite(figures[name]) else None for name in names}
    lines = [f"{name:<10} {_figure(value):>6}\n" for name, value in rounded.items()]
    (folder / "results.txt").write_text("COCO box AP in percent\n" + "".join(lines))
    (folder / "results.json").write_text(json.dumps(rounded, indent=2) + "\n")
