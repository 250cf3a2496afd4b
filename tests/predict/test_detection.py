"""Predictions of a detector are those of Detectron2's own predictor."""

import json

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model
from PIL import Image
from pycocotools import mask as coco_mask

from resnest_backbones.detectron2 import ResNeStCheckpointer
from resnest_backbones.export.detectors import export_detector
from resnest_backbones.export.preprocess import resize_shortest
from resnest_backbones.predict import Predictor
from resnest_backbones.predict.draw import draw_detections
from resnest_backbones.predict.evaluate import describe, read_truth
from resnest_backbones.predict.predictor import paste_mask
from tests.detectron2 import helpers
from tests.export.test_detectors import random_detector


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (33, 200), (1, 40)])
@pytest.mark.parametrize(("shortest", "longest"), [(80, 133), (0, 100)])
def test_images_are_resized_as_detectron2_does(size, shortest, longest):
    image = photograph(*size)
    wanted = ResizeShortestEdge([shortest, shortest], longest).get_transform(image).apply_image(image)
    assert np.array_equal(resize_shortest(image, shortest, longest), wanted)


def test_masks_are_pasted_as_detectron2_does():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 28, 28, generator=generator)
    corners = torch.rand(6, 4, generator=generator) * torch.tensor([30.0, 20.0, 40.0, 30.0])
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:] + 0.3], dim=1)
    boxes[0] = torch.tensor([0.0, 0.0, 61.0, 47.0])
    wanted = paste_masks_in_image(masks, boxes, (47, 61))
    for mask, box, other in zip(masks, boxes, wanted, strict=True):
        assert np.array_equal(paste_mask(mask, box, (47, 61)), other.numpy())


@pytest.mark.parametrize("kind", ["cascade-mask-deformable", "retinanet"])
def test_predictions_are_those_of_the_detector(kind):
    model = random_detector(kind)
    facts = {"channel_order": "BGR", "resize": {"shortest": 64, "longest": 100}, "classes": ["a", "b", "c"]}
    exportable = export_detector(model, (64, 64), metadata=facts)
    outputs = {"outputs": list(exportable.output_names)}
    image = photograph(81, 120)
    found = Predictor(exportable.module, {**exportable.metadata, **outputs})(image)
    # As DefaultPredictor of Detectron2 does.
    bgr = image[..., ::-1]
    resized = ResizeShortestEdge([64, 64], 100).get_transform(bgr).apply_image(bgr)
    tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
    with torch.no_grad():
        (wanted,) = model([{"image": tensor, "height": 81, "width": 120}])
    wanted = wanted["instances"]
    assert len(found.boxes) == len(wanted) > 5
    order = torch.argsort(wanted.scores, descending=True, stable=True)
    assert np.array_equal(found.scores, wanted.scores[order].numpy())
    assert np.array_equal(found.classes, wanted.pred_classes[order].numpy())
    assert np.allclose(found.boxes, wanted.pred_boxes.tensor[order].numpy(), atol=1e-4)
    if wanted.has("pred_masks"):
        same = np.mean([np.mean(a == b.numpy()) for a, b in zip(found.masks, wanted.pred_masks[order], strict=True)])
        assert same > 0.9999  # of pixels: the boxes differ by rounding
    few = Predictor(exportable.module, {**exportable.metadata, **outputs})(image, float(found.scores[3]))
    assert np.array_equal(few.scores, found.scores[:4])
    record = json.loads(json.dumps(describe(few, facts["classes"])))["detections"]
    assert [thing["category"] for thing in record] == [facts["classes"][i] for i in few.classes]
    for number, thing in enumerate(record if few.masks else []):
        assert np.array_equal(coco_mask.decode(thing["segmentation"]), few.masks[number])
    picture = draw_detections(image, few, facts["classes"])
    assert picture.width % 120 == 0 and picture.width >= 480
    assert not np.array_equal(np.asarray(picture), np.asarray(Image.fromarray(image).resize(picture.size)))


def test_classes_in_another_order_are_matched_by_name(tmp_path, shared, caplog):
    """In the file of the truth, and in the one of ``--classes``."""
    case = shared / "cases" / "detection" / "09b_ids_swapped"
    if not case.is_dir():
        pytest.skip("the shared cases are not there")
    cfg = helpers.resnest_config(helpers.FPN_DETECTOR, {"MODEL.ROI_HEADS.NUM_CLASSES": 2, "MODEL.WEIGHTS": ""})
    (tmp_path / "config.yaml").write_text(cfg.dump())
    checkpointer = ResNeStCheckpointer(build_model(cfg), str(tmp_path))
    checkpointer.class_names = ["cell", "platelet"]
    checkpointer.save("model")
    (tmp_path / "classes.txt").write_text("platelet\ncell\n")
    for classes in (None, str(tmp_path / "classes.txt")):
        caplog.clear()
        model = str(tmp_path / "config.yaml"), str(tmp_path / "model.pth")
        predictor = Predictor.from_config(*model, classes=classes)
        assert predictor.classes == ["cell", "platelet"]
        assert ("2 (cell, platelet) in the model, 2 (platelet, cell) in the data" in caplog.text) == bool(classes)
        for file, ids in (("train.json", [1, 2]), ("val.json", [2, 1])):
            assert read_truth(predictor, case / file, case / "images")[1] == ids
