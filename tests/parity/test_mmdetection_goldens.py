"""MMDetection's own published detectors, built by the recipes here: outputs to float64 rounding, final detections."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import nn

from resnest_backbones import convert_state_dict, model_zoo

GOLDENS = sorted(path.stem for path in (Path(__file__).parents[3] / "shared/reference/golden").glob("mmdet_*.json"))
METHODS = {"cascade-mask-rcnn": "mask_cascade_rcnn"}


@pytest.fixture(scope="module", params=GOLDENS or ["no goldens here"])
def golden(request, shared):
    return json.loads((shared / "reference" / "golden" / f"{request.param}.json").read_text())


@pytest.fixture(scope="module")
def detector(golden, seeded_weights):
    """The recipe's detector in float64, filled from MMDetection's names."""
    method, depth = re.fullmatch(r"([a-z-]+)_s(\d+)_.*", Path(golden["config"]).name).groups()
    cfg = model_zoo.get_config(f"{METHODS.get(method, method.replace('-', '_'))}_resnest{depth}_fpn_1x_mmdet")
    cfg.MODEL.DEVICE = "cpu"
    for part in ("RESNETS", "ROI_BOX_HEAD", "ROI_MASK_HEAD"):
        cfg.MODEL[part].NORM = cfg.MODEL[part].NORM.replace("SyncBN", "BN")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = golden["detections"]["score_threshold"]
    model = build_model(cfg).double().eval()
    state = convert_state_dict(seeded_weights.seeded_state_dict(golden["state_dict"]), "detectron2")
    assert len(state) == len(golden["state_dict"])
    model.load_state_dict(state, strict=True)
    return model


def heads_and_names(heads: nn.Module) -> list[tuple[nn.Module, str]]:
    several = isinstance(heads, nn.ModuleList)
    return [(head, f"_stage{i}") for i, head in enumerate(heads)] if several else [(heads, "")]


def test_the_detector_computes_what_mmdetections_does(detector, golden, seeded_weights):
    image = seeded_weights.seeded_image(tuple(golden["image_shape"]))
    boxes = Boxes(torch.zeros(0, 4))
    boxes.tensor = torch.tensor(golden["boxes"], dtype=torch.float64)
    heads, levels = detector.roi_heads, detector.proposal_generator.in_features
    with torch.no_grad():
        pyramid = detector.backbone(image)
        outputs = detector.backbone.bottom_up(image) | pyramid
        logits, deltas = detector.proposal_generator.rpn_head([pyramid[level] for level in levels])
        for level, logit, delta in zip(levels, logits, deltas, strict=True):
            outputs |= {f"rpn_logits_{level}": logit, f"rpn_deltas_{level}": delta}
        maps = [pyramid[level] for level in heads.in_features]
        pooled = heads.box_pooler(maps, [boxes])
        predictors = heads_and_names(heads.box_predictor)
        for (head, name), (predictor, _) in zip(heads_and_names(heads.box_head), predictors, strict=True):
            outputs[f"box_scores{name}"], outputs[f"box_deltas{name}"] = predictor(head(pooled))
        if heads.mask_on:
            pooled = heads.mask_pooler(maps, [boxes])
            outputs |= {f"mask_logits{name}": head.layers(pooled) for head, name in heads_and_names(heads.mask_head)}
    assert golden["outputs"].keys() == outputs.keys()
    assert seeded_weights.check_golden(outputs, golden["outputs"]) <= 1e-9


@pytest.mark.slow
def test_its_detections_are_the_same_boxes_in_the_same_order(detector, golden, seeded_weights):
    detector.float()
    detector.pixel_mean.zero_()  # the image of the goldens is normalised
    detector.pixel_std.fill_(1)
    image = seeded_weights.seeded_image(tuple(golden["image_shape"]))[0].float()
    with torch.no_grad():
        (found,) = detector.inference([{"image": image}], do_postprocess=False)
    wanted = golden["detections"]
    number = len(wanted["boxes"])
    assert len(found) == wanted["count"]
    assert found.pred_classes[:number].tolist() == wanted["labels"]
    torch.testing.assert_close(found.scores[:number], torch.tensor(wanted["scores"]), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        found.pred_boxes.tensor[:number], torch.tensor(wanted["boxes"]), rtol=0, atol=1e-4 * max(image.shape)
    )
