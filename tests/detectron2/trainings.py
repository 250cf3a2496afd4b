"""Small trainings of ``tools/train_net.py`` in this process."""

import argparse
from pathlib import Path

import train_net
from resnest_backbones.detectron2.engine import train
from tests.helpers import ROOT, TINY_DETECTOR, subset_of_coco

CONFIG = ROOT / "configs" / "detectron2" / "coco_detection" / "faster_rcnn_resnest50_fpn_1x.yaml"


def custom_data(root: Path, folder: Path, year: str = "", images: str = "") -> list:
    """Options for six training and three validation images."""
    words = []
    for split, count in (("train", 6), ("val", 3)):
        json_file = root / "annotations" / f"instances_{split}{year}.json"
        words += [f"--{split}-json", subset_of_coco(json_file, folder / f"{split}.json", count)]
        words += [f"--{split}-images", root / (images or f"{split}{year}")]
    return words


def tiny(output: Path, iterations: int, **keys: object) -> list:
    extra = [str(word) for pair in keys.items() for word in pair]
    return [*TINY_DETECTOR, "OUTPUT_DIR", output, "SOLVER.MAX_ITER", iterations, "SEED", 3, *extra]


def parse(*arguments: object) -> argparse.Namespace:
    return train_net.build_argument_parser().parse_args(list(map(str, arguments)))


def run(*arguments: object) -> dict:
    """Train or evaluate as the tool does, in this process."""
    return train.main(parse("--config-file", CONFIG, *arguments))
