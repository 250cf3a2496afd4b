"""MMDetection's cascade: what it averages, what its losses weigh, and its mask head for each stage."""

import logging

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Boxes, Instances, PolygonMasks
from torch import Tensor, nn

from resnest_backbones.detectron2 import MMDetCascadeROIHeads, ResNeStCheckpointer
from resnest_backbones.errors import ConfigError
from tests.detectron2.helpers import MMDET_CASCADE, detector, distinct_tensors, images, training_losses

CASCADE = {
    **MMDET_CASCADE,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "TEST.DETECTIONS_PER_IMAGE": 5,
}
BOXES_ALONE = {"MODEL.MASK_ON": False}
STOCK = {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads"}


def spread(model: nn.Module) -> nn.Module:
    """Make classes and masks of the stages differ, which as initialised hardly do."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("cls_score.weight", "predictor.weight")):
                value.copy_(torch.randn(value.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def detect(model: nn.Module) -> tuple[object, list[Tensor]]:
    """The detections of an image, and the class logits that each stage gave."""
    logits: list[Tensor] = []
    hooks = [
        predictor.register_forward_hook(lambda module, args, output: logits.append(output[0]))
        for predictor in model.roi_heads.box_predictor
    ]
    (found,) = model.inference([{"image": images(1)[0]["image"]}], do_postprocess=False)
    for hook in hooks:
        hook.remove()
    return found, logits


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_the_scores_are_of_the_average_over_stages(average):
    model = spread(detector(CASCADE, BOXES_ALONE, {"MODEL.ROI_BOX_CASCADE_HEAD.AVERAGE": average}))
    found, logits = detect(model)
    assert len(logits) == 3 and len(found) == 5
    means = {
        "logits": torch.stack(logits).mean(0).softmax(-1),
        "probabilities": torch.stack(logits).softmax(-1).mean(0),
    }
    other = means.pop("probabilities" if average == "logits" else "logits")
    (wanted,) = means.values()
    assert all((wanted - score).abs().min() < 1e-6 for score in found.scores)
    assert any((other - score).abs().min() > 1e-3 for score in found.scores)


def test_with_averaged_probabilities_the_detections_are_detectron2s():
    ours = spread(detector(CASCADE, BOXES_ALONE, {"MODEL.ROI_BOX_CASCADE_HEAD.AVERAGE": "probabilities"}))
    stock = detector(CASCADE, BOXES_ALONE, STOCK)
    assert type(stock.roi_heads) is CascadeROIHeads
    stock.load_state_dict(ours.state_dict(), strict=True)
    (found, _), (wanted, _) = detect(ours), detect(stock.eval())
    torch.testing.assert_close(found.pred_boxes.tensor, wanted.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, wanted.scores)
    assert found.pred_classes.tolist() == wanted.pred_classes.tolist()


def test_the_masks_are_the_mean_of_the_heads():
    model = spread(detector(CASCADE))
    heads = model.roi_heads.mask_head
    assert isinstance(heads, nn.ModuleList) and len(heads) == 3
    masks = []
    hooks = [
        head.register_forward_hook(lambda module, args, output: masks.append(output[0].pred_masks)) for head in heads
    ]
    found, _ = detect(model)
    for hook in hooks:
        hook.remove()
    assert found.pred_masks.shape == (5, 1, 28, 28)
    torch.testing.assert_close(found.pred_masks, torch.stack(masks).mean(dim=0))
    assert not torch.allclose(masks[0], masks[1])


def test_one_mask_head_for_all_stages_is_detectron2s():
    model = detector(CASCADE, {"MODEL.ROI_BOX_CASCADE_HEAD.MASK_HEAD_PER_STAGE": False})
    assert model.state_dict().keys() == detector(CASCADE, STOCK).state_dict().keys()
    assert {key for key in training_losses(model, images()) if "mask" in key} == {"loss_mask"}
    assert detect(model.eval())[0].has("pred_masks")


def test_a_stages_losses_have_its_weight_and_its_mask_head_learns_from_its_own_proposals():
    model = detector(CASCADE)
    seen = []
    for head in model.roi_heads.mask_head:
        head.register_forward_hook(lambda module, args, output: seen.append((args[1], output)))
    batch = images()
    for image in batch:
        other = image["instances"][:]
        other.gt_boxes, other.gt_classes = Boxes(torch.tensor([[30.0, 4.0, 60.0, 30.0]])), torch.tensor([2])
        other.gt_masks = PolygonMasks([[[30.0, 4.0, 60.0, 4.0, 60.0, 30.0]]])
        image["instances"] = Instances.cat([image["instances"], other])
    losses = training_losses(model, batch)
    assert {key for key in losses if "stage" in key} == {
        f"{kind}_stage{stage}" for kind in ("loss_cls", "loss_box_reg", "loss_mask") for stage in range(3)
    }
    classes: set[int] = set()
    for stage, weight in enumerate((1.0, 0.5, 0.25)):
        objects, output = seen[stage]
        assert losses[f"loss_mask_stage{stage}"].item() == pytest.approx(weight * output["loss_mask"].item())
        for found, image in zip(objects, batch, strict=True):
            classes |= {*found.gt_classes.tolist()}
            for mask, number in zip(found.gt_masks.polygons if len(found) else [], found.gt_classes, strict=True):
                assert mask[0].tolist() == image["instances"].gt_masks.polygons[number - 1][0].tolist()
    assert classes == {1, 2}
    boxes = [objects[0].proposal_boxes.tensor for objects, _ in seen]
    assert all(len(other) != len(boxes[0]) or not torch.allclose(other, boxes[0]) for other in boxes[1:])
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_an_image_without_objects_trains():
    model, batch = detector(CASCADE), images()
    batch[0]["instances"] = batch[0]["instances"][:0]
    training_losses(model, batch)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"AVERAGE": "scores"}, r"AVERAGE must be one of logits, probabilities, got 'scores'"),
        ({"LOSS_WEIGHTS": [1.0, 0.5]}, r"LOSS_WEIGHTS must have 3 values, one for each stage, got \[1.0, 0.5\]"),
    ],
)
def test_a_wrong_key_is_named(keys, message):
    with pytest.raises(ConfigError, match=rf"MODEL\.ROI_BOX_CASCADE_HEAD\.{message}"):
        detector(CASCADE, {f"MODEL.ROI_BOX_CASCADE_HEAD.{key}": value for key, value in keys.items()})


def test_of_three_mask_heads_the_stock_class_takes_the_last_and_one_line_counts_the_others(tmp_path, caplog):
    state = distinct_tensors({key: value.shape for key, value in detector(CASCADE).state_dict().items()})
    torch.save({"model": state}, tmp_path / "three.pth")
    model = detector(CASCADE, STOCK)
    checkpointer = ResNeStCheckpointer(model)
    checkpointer.require_whole = True
    with caplog.at_level(logging.WARNING):
        checkpointer.load(str(tmp_path / "three.pth"))
    for key, value in model.roi_heads.mask_head.state_dict().items():
        torch.testing.assert_close(value, state[f"roi_heads.mask_head.2.{key}"])
    lines = [record.getMessage() for record in caplog.records if "mask" in record.getMessage()]
    others = 2 * len(model.roi_heads.mask_head.state_dict())
    assert lines == [
        f"The model has one mask head: it is loaded from stage 2, and {others} tensors of other stages' "
        "mask heads are left out"
    ]
    caplog.clear()
    for parts in ([], [BOXES_ALONE]):
        ours = detector(CASCADE, *parts)
        ResNeStCheckpointer(ours).load(str(tmp_path / "three.pth"))
        for key, value in ours.state_dict().items():
            if "mask_head" in key:
                torch.testing.assert_close(value, state[key])
    assert "The model has one mask head" not in caplog.text


def test_lists_of_heads_serve_in_a_lazy_config():
    cascade = detector(CASCADE).roi_heads
    heads = {
        name: getattr(cascade, name)
        for name in ("num_classes", "batch_size_per_image", "positive_fraction", "proposal_matchers", "box_in_features",
                     "box_pooler", "mask_in_features", "mask_pooler")
    }  # fmt: skip
    lists = {f"{name}s": [*getattr(cascade, name)] for name in ("box_head", "box_predictor")}
    made = MMDetCascadeROIHeads(**heads, **lists, mask_head=[*cascade.mask_head], average="probabilities")
    assert made.state_dict().keys() == cascade.state_dict().keys() and made.average == "probabilities"
