"""The backbones in other people's code: their detectors, their configs, their registries."""

import pytest
import torch
from torch import nn

import resnest_backbones as rb

STAGES = ("res2", "res3", "res4", "res5")


def trained(model: nn.Module) -> list[str]:
    """Parameters of the trunk that have a gradient which is not zero."""
    return [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]


# torchvision


def test_torchvisions_faster_rcnn_trains_and_detects_on_the_bare_trunk():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    trunk, x = rb.build("resnest14").eval(), torch.randn(1, 3, 65, 96)
    with torch.no_grad():
        want = trunk(x)
    channels = [256, 512, 1024, 2048]
    fpn = BackboneWithFPN(trunk, {stage: str(number) for number, stage in enumerate(STAGES)}, channels, 64)
    with torch.no_grad():
        features = fpn.body.eval()(x)
    assert list(features) == ["0", "1", "2", "3"]
    assert all(torch.equal(one, other) for one, other in zip(features.values(), want.values(), strict=True))
    model = FasterRCNN(fpn, num_classes=3, min_size=96, max_size=160).train()
    images = [torch.rand(3, 96, 128), torch.rand(3, 120, 96)]
    boxes = torch.tensor([[10.0, 20.0, 60.0, 80.0]])
    losses = model(images, [{"boxes": boxes, "labels": torch.tensor([1])} for _ in images])
    sum(losses.values()).backward()
    assert {name.split(".")[2] for name in trained(model) if name.startswith("backbone.body.")} >= {*STAGES}
    with torch.no_grad():
        found = model.eval()(images)
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2


# OpenMMLab


MMDET_MODEL = """
custom_imports = dict(imports=["resnest_backbones.mmseg"])
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(type="DetDataPreprocessor", pad_size_divisor=32),
    backbone=dict(type="mmengine.ResNeStBackbone", name="resnest14", out_indices=(0, 1, 2, 3)),
    neck=dict(type="FPN", in_channels=[256, 512, 1024, 2048], out_channels=64, start_level=1, num_outs=5,
              add_extra_convs="on_input"),
    bbox_head=dict(
        type="RetinaHead", num_classes=3, in_channels=64, stacked_convs=1, feat_channels=64,
        anchor_generator=dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
                              strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    ),
    train_cfg=dict(assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
                   allowed_border=-1, pos_weight=-1),
)
"""


def test_mmdetection_finds_the_backbone_in_the_root_registry(tmp_path):
    pytest.importorskip("mmengine")
    try:
        import mmdet.models  # noqa: F401
    except ImportError as error:
        pytest.skip(f"MMDetection cannot be imported here: {error}")
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmengine.structures import InstanceData

    (tmp_path / "config.py").write_text(MMDET_MODEL)
    cfg = Config.fromfile(tmp_path / "config.py")
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    sample = DetDataSample(metainfo={"img_shape": (128, 128), "batch_input_shape": (128, 128), "pad_shape": (128, 128)})
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[20.0, 20.0, 90.0, 90.0]]), labels=torch.tensor([1]))
    losses = model(torch.randn(1, 3, 128, 128), [sample], mode="loss")
    sum(value for group in losses.values() for value in group).backward()
    assert any(name.startswith("backbone.") for name in trained(model))
