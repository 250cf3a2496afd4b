"""An optimised detector finds what the detector finds."""

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.layers import Conv2d
from detectron2.modeling import FPN

from resnest_backbones.acceleration.inference import optimize_for_inference
from tests.acceleration.test_inference import trained
from tests.detectron2.helpers import FPN_DETECTOR, MMDET_CASCADE, PANOPTIC_FPN, RETINANET, detector, images

NORMS = {"MODEL.FPN.NORM": "BN", "MODEL.ROI_BOX_HEAD.NORM": "BN", "MODEL.ROI_BOX_HEAD.NUM_CONV": 1}
SURE = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0}


@pytest.mark.parametrize(("parts", "norm"), [(MMDET_CASCADE, "FrozenBN"), (PANOPTIC_FPN, "BN"), (RETINANET, "BN")])
def test_an_optimised_detector_equals_the_detector(parts, norm):
    model = trained(detector(parts, NORMS, SURE, {"MODEL.RESNETS.NORM": norm})).double()
    fast = optimize_for_inference(model)
    assert type(fast) is type(model) and isinstance(fast.backbone, FPN)
    assert fast.backbone.output_shape() == model.backbone.output_shape()
    assert not [m for m in fast.backbone.modules() if isinstance(m, Conv2d) and m.norm is not None]
    picture = [{key: images(1)[0][key] for key in ("image", "height", "width")}]
    with torch.no_grad():
        wanted, found = model.preprocess_image(picture).tensor.double(), fast.preprocess_image(picture).tensor.double()
        assert torch.equal(wanted, found)
        for name, value in model.backbone(wanted).items():
            assert (fast.backbone(found)[name] - value).abs().max() <= 1e-12 * value.abs().max(), name
        one, other = (m.float()(picture)[0]["instances"] for m in (model, fast))
    assert len(one) == len(other) > 0
    assert torch.allclose(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-2)
    assert torch.allclose(one.scores, other.scores, atol=1e-4)
    assert not one.has("pred_masks") or (one.pred_masks == other.pred_masks).float().mean() > 0.999


def test_group_norms_of_a_trunk_stay_and_the_heads_are_made_fast(caplog):
    fast = optimize_for_inference(detector(FPN_DETECTOR, {"MODEL.RESNETS.NORM": "GN"}))
    assert "GroupNorm are kept" in caplog.text
    assert not [m for m in fast.backbone.modules() if isinstance(m, Conv2d) and m.norm is not None]


def test_half_the_bits_in_the_trunk_leave_the_heads_as_they_are():
    fast = optimize_for_inference(trained(detector(FPN_DETECTOR, SURE)), dtype=torch.bfloat16)
    assert {p.dtype for p in fast.backbone.bottom_up.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in fast.roi_heads.parameters()} == {torch.float32}
    with torch.no_grad():
        (found,) = fast([{key: images(1)[0][key] for key in ("image", "height", "width")}])
    assert len(found["instances"]) > 0
