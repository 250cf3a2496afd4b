"""mIoU of an exported segmentor is MMSegmentation's."""

import math
import re

import numpy as np
import pytest

pytest.importorskip("mmseg")

import torch
from mmseg.evaluation import IoUMetric
from PIL import Image

from resnest_backbones.errors import DatasetError, ExportError
from resnest_backbones.predict import Predictor
from resnest_backbones.predict.evaluate import average_precision, mean_iou
from tests.data.coco import every, first, write, write_images


def brightness(images: torch.Tensor) -> list[torch.Tensor]:
    """Scores of three classes: dark, middle, bright."""
    grey = images.mean(dim=1, keepdim=True) / 255
    return [torch.cat([1 - 2 * grey, 1 - (2 * grey - 1).abs() * 2, 2 * grey - 1], dim=1)]


NAMES = ["dark", "middle", "bright"]
FACTS = {"task": "segmentation", "classes": NAMES, "channel_order": "BGR", "align_corners": False}


def test_miou_is_mmsegmentations(tmp_path):
    predictor = Predictor(brightness, FACTS)
    generator = np.random.default_rng(0)
    for folder in ("images", "truth"):
        (tmp_path / folder).mkdir()
    areas = []
    for number in range(3):
        pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        truth = generator.integers(0, 4, (20, 30), dtype=np.uint8)  # 0: not labelled
        Image.fromarray(truth).save(tmp_path / "truth" / f"{number}.png")
        labels = torch.from_numpy(predictor(pixels).labels.astype(np.int64))
        true = torch.from_numpy(truth.astype(np.int64) - 1)
        areas.append(IoUMetric.intersect_and_union(labels, true, len(NAMES), -1))
    totals = [torch.stack(area).sum(dim=0) for area in zip(*areas, strict=True)]
    wanted = IoUMetric.total_area_to_metrics(*totals, ["mIoU"])
    found = mean_iou(predictor, tmp_path / "images", tmp_path / "truth")
    assert 0 < found["mIoU"] < 60
    assert found == pytest.approx({"mIoU": 100 * np.mean(wanted["IoU"]), "aAcc": 100 * wanted["aAcc"]})
    for folder in ("images", "truth"):  # images in sub-folders count too
        (tmp_path / folder / "below").mkdir()
        (tmp_path / folder / "0.png").rename(tmp_path / folder / "below" / "0.png")
    assert mean_iou(predictor, tmp_path / "images", tmp_path / "truth") == found
    (tmp_path / "truth" / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 images in .* have no annotation NAME.png in .*truth: 1.png"):
        mean_iou(predictor, tmp_path / "images", tmp_path / "truth")
    with pytest.raises(ExportError, match="AP is a metric of detectors, got a network for segmentation"):
        average_precision(predictor, tmp_path / "a.json", tmp_path)


def test_label_maps_beside_a_class_file_are_compared_by_name(tmp_path):
    predictor, root = Predictor(brightness, FACTS), tmp_path / "data"
    images, label_maps = root / "images" / "validation", root / "annotations" / "validation"
    generator = np.random.default_rng(0)
    for folder in (images, label_maps):
        folder.mkdir(parents=True)
    Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(images / "a.png")
    truth = generator.integers(0, 4, (20, 30), dtype=np.uint8)
    Image.fromarray(truth).save(label_maps / "a.png")
    wanted = mean_iou(predictor, images, label_maps)
    (root / "classes.txt").write_text("bright\ndark\nmiddle\n")
    assert mean_iou(predictor, images, label_maps) != wanted
    Image.fromarray(np.array([0, 2, 3, 1], np.uint8)[truth]).save(label_maps / "a.png")
    assert mean_iou(predictor, images, label_maps) == wanted
    (root / "classes.txt").write_text("bright\ndark\nmiddle\nblue\n")
    with pytest.raises(DatasetError, match=r"3 \(dark, middle, bright\) in .*, 4 \(bright, dark, middle, blue\)"):
        mean_iou(predictor, images, label_maps)


def one_box(x: torch.Tensor) -> list[torch.Tensor]:
    """A detector that always finds the same object, and its mask."""
    outputs = [torch.tensor([[10.0, 8.0, 34.0, 28.0]]), torch.tensor([0]), torch.tensor([0.9])]
    return [*outputs, torch.ones(1, 1, 28, 28)]


@pytest.mark.parametrize(
    ("change", "metrics", "line"),
    [
        (lambda c: None, {"box AP": 100, "mask AP": 100}, ""),
        (
            first(segmentation=[[10, 8, 34, 8]]),
            {"box AP": 100},
            "1 annotations have no usable segmentation.*: 1: mask AP",
        ),
        (lambda c: c.update(annotations=[]), {"box AP": math.nan, "mask AP": math.nan}, ""),
        (every(iscrowd=1), {"box AP": math.nan, "mask AP": math.nan}, ""),
    ],
)
def test_ap_of_boxes_and_masks_is_measured_where_there_is_truth(change, metrics, line, tmp_path, caplog):
    facts = {"task": "detection", "classes": ["x"], "channel_order": "RGB"}
    predictor = Predictor(one_box, {**facts, "outputs": ["boxes", "classes", "scores", "masks"]})

    def content(c: dict) -> None:
        c["categories"], c["annotations"] = c["categories"][:1], c["annotations"][::2]
        change(c)

    file = write(write_images(tmp_path), content)
    found = average_precision(predictor, file, tmp_path)
    assert {key: value for key, value in found.items() if key.endswith("AP")} == pytest.approx(metrics, nan_ok=True)
    assert re.search(line, caplog.text) and bool(line) == bool(caplog.text)
