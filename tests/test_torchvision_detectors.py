"""The trunk in torchvision's detectors."""

import torch
from torch import nn

import resnest_backbones as rb

STAGES = ("res2", "res3", "res4", "res5")


def trained(model: nn.Module) -> list[str]:
    """Parameters of the trunk that have a gradient which is not zero."""
    return [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]


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
