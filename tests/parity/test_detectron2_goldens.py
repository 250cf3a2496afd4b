"""Whole detectors of the original Detectron2 wrapper: parameter names, and outputs to float64 rounding."""

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from resnest_backbones import convert_state_dict
from resnest_backbones.detectron2 import add_resnest_config

GOLDENS = sorted(path.stem for path in (Path(__file__).parents[3] / "shared/reference/golden").glob("d2_*.json"))


@pytest.fixture(scope="module", params=GOLDENS or ["no goldens here"])
def golden(request, shared):
    return json.loads((shared / "reference" / "golden" / f"{request.param}.json").read_text())


@pytest.fixture(scope="module")
def detector(golden, shared):
    """The detector of the recipe, in eval mode and float64."""
    recipe = json.loads((shared / "reference" / "d2_recipes.json").read_text())["recipes"][golden["config"]]
    cfg = get_cfg()
    add_resnest_config(cfg)
    for key, value in recipe.items():
        cfg.merge_from_list([key, "BN" if value == "SyncBN" else value])
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg).double().eval()


def test_the_detector_has_the_wrappers_parameters_and_computes_what_it_computed(detector, golden, seeded_weights):
    assert {name: list(value.shape) for name, value in detector.state_dict().items()} == golden["state_dict"]
    state = convert_state_dict(seeded_weights.seeded_state_dict(golden["state_dict"]), "detectron2")
    detector.load_state_dict(state, strict=True)
    image = seeded_weights.seeded_image(tuple(golden["image_shape"]))
    with torch.no_grad():
        outputs = detector.backbone.bottom_up(image)
        pyramid = detector.backbone(image)
        outputs |= pyramid
        levels = detector.proposal_generator.in_features
        logits, deltas = detector.proposal_generator.rpn_head([pyramid[level] for level in levels])
    for level, logit, delta in zip(levels, logits, deltas, strict=True):
        outputs[f"rpn_logits_{level}"] = logit
        outputs[f"rpn_deltas_{level}"] = delta
    assert set(golden["outputs"]) <= set(outputs)
    assert seeded_weights.check_golden(outputs, golden["outputs"]) <= 1e-9


def test_a_published_detector_fills_ours_through_the_stock_checkpointer(detector, golden, tmp_path):
    # The values are one number per tensor, so that the file stays small.
    numbers = torch.rand(len(golden["state_dict"]), dtype=torch.float64)
    state = {
        name: torch.zeros(shape, dtype=torch.int64) if name.endswith("num_batches_tracked") else number.expand(shape)
        for (name, shape), number in zip(golden["state_dict"].items(), numbers, strict=True)
    }
    torch.save({"model": state, "iteration": 89999}, tmp_path / "published.pth")
    DetectionCheckpointer(detector).load(str(tmp_path / "published.pth"))
    loaded = detector.state_dict()
    assert [name for name in state if not torch.equal(loaded[name], state[name])] == []
