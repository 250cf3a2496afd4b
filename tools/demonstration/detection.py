"""The detection part of ``make demo``: a small Faster R-CNN, trained from scratch on a CPU in minutes.

The trained model is ``detection/model_final.pth``; what else is written, ``common.py`` says.
"""

from __future__ import annotations

import json
import math
import operator
from pathlib import Path

import yaml
from detectron2.config import CfgNode, get_cfg

import train_net
from curves import draw_curves
from demonstration import common
from demonstration.common import Demonstration
from demonstration.digits import DemoDataset
from resnest_backbones.commands import python_command
from resnest_backbones.data import read_image
from resnest_backbones.detectron2 import add_resnest_config
from resnest_backbones.outputs import read_metrics
from visualization.detection import draw_annotations

DETECTION_CONFIG = common.ROOT / "configs" / "detectron2" / "demo" / "faster_rcnn_resnest14_fpn_demo.yaml"

_SCALED = ("SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")  # with the number of iterations
_LOSSES = ("total_loss", "loss_box_reg", "loss_cls", "loss_rpn_cls", "loss_rpn_loc")
_METRICS = {"bbox/AP50": "AP50", "bbox/AP": "AP", "bbox/AP75": "AP75"}
_MIN_SCORE = 0.5  # of boxes that are drawn
_PANELS = ("ground truth", "prediction")


def train_detector(
    output_dir: str | Path,
    *,
    iterations: int | None = None,
    num_train: int = common.NUM_TRAIN,
    num_val: int = common.NUM_VAL,
) -> Demonstration:
    """Make the data, train, evaluate and draw, and reuse what an earlier call with the same arguments has finished.

    Iterations are the config's where None. Arguments out of range, or other than those of the training in the folder,
    are a ``ValueError``; those of another dataset there a ``DatasetError``.
    """
    output_dir = Path(output_dir)
    folder = output_dir / "detection"
    cfg = get_cfg()
    add_resnest_config(cfg)
    cfg.merge_from_file(str(DETECTION_CONFIG))
    iterations = cfg.SOLVER.MAX_ITER if iterations is None else iterations
    used = folder / "config.yaml"
    found = yaml.safe_load(used.read_text())["SOLVER"]["MAX_ITER"] if used.is_file() else None
    common.check_iterations(iterations, folder, found)
    dataset = common.make_dataset(output_dir, num_train=num_train, num_val=num_val)
    model = folder / "model_final.pth"
    val = ("--val-json", dataset.val_json, "--val-images", dataset.val_images)
    config = ("--config-file", DETECTION_CONFIG)
    if not common.is_finished(folder, model):
        train = ("--train-json", dataset.train_json, "--train-images", dataset.train_images)
        options = ("OUTPUT_DIR", folder, *_scale_schedule(cfg, iterations))
        common.run_tool("train_net", train_net.run, "--resume", *config, *train, *val, *options)
        curves = read_metrics(folder / "metrics.json")
        metrics = {name.removeprefix("bbox/"): v[-1] for name, (_, v) in curves.items() if name.startswith("bbox/")}
        common.write_results(metrics, folder, title="COCO box AP in percent")
    curves = read_metrics(folder / "metrics.json")
    losses = {name: name for name in _LOSSES}
    draw_curves(curves, folder / "curves.png", losses=losses, metrics=_METRICS, title="box AP on held-out images")
    draw_predictions(dataset, folder / "inference" / "coco_instances_results.json", folder)
    common.draw_page(folder, "--config", used, "--checkpoint", model, "--classes", dataset.val_json, *val)
    evaluate = (*config, *val, "MODEL.WEIGHTS", model, "OUTPUT_DIR", folder / "evaluation")
    commands = {"evaluate the saved model": python_command("tools/train_net.py", "--eval-only", *evaluate)}
    headline = ("AP", "AP50", "AP75")
    return Demonstration(folder, model, dataset, headline=headline, panels=_PANELS, commands=commands)


def _scale_schedule(cfg: CfgNode, iterations: int) -> list[str]:
    """Return options for another number of iterations; evaluation, checkpoints and warm-up keep their share of them."""
    factor = iterations / cfg.SOLVER.MAX_ITER
    values = {key: math.ceil(factor * operator.attrgetter(key)(cfg)) for key in _SCALED}
    values["SOLVER.MAX_ITER"] = iterations
    return [] if factor == 1 else [str(word) for item in values.items() for word in item]


def draw_predictions(dataset: DemoDataset, predictions: Path, folder: Path) -> None:
    """Draw the predictions that ``COCOEvaluator`` wrote for the first held-out images beside the ground truth."""
    content = json.loads(dataset.val_json.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    likely = [one for one in json.loads(predictions.read_text()) if one["score"] >= _MIN_SCORE]
    pictures = {}
    for entry in content["images"][: common.PICTURES]:
        image = read_image(dataset.val_images / entry["file_name"])
        pictures[Path(entry["file_name"]).stem] = [
            (draw_annotations(image, [one for one in boxes if one["image_id"] == entry["id"]], names), title)
            for boxes, title in zip((content["annotations"], likely), _PANELS, strict=True)
        ]
    common.draw_predictions(pictures, folder)
