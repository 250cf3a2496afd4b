"""Contenders that are whole detectors: Detectron2's Faster R-CNN with FPN on different backbones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from benchmarks.cases import DTYPES, Case, Contender
from benchmarks.peers import peers
from resnest_backbones.acceleration.inference import optimize_for_inference
from resnest_backbones.model_zoo import get_config

_NUM_BOXES = 8


def detector_contenders(case: Case, device: torch.device) -> dict[str, Callable[[], Contender]]:
    """Return name -> builder: ours, the original's blocks and Detectron2's ResNet-50, on the same images and boxes."""
    if find_spec("detectron2") is None:
        raise ValueError("--detector needs Detectron2, which is not installed")
    images = detector_inputs(case, device)
    dtype = None if case.dtype == "float32" else DTYPES[case.dtype]
    ours = partial(_detector, case.network, device)
    makers = {} if case.trains else {"ours, optimised": lambda: optimize_for_inference(ours().eval(), dtype=dtype)}
    makers["ours"] = ours
    if original := peers(case.network).get("original"):
        makers["original"] = partial(_detector, case.network, device, original)
    makers["ResNet-50"] = partial(_detector, "resnet50", device)
    return {name: partial(_contender, make, images, dtype, case.trains) for name, make in makers.items()}


def _contender(
    make: Callable[[], Any], images: list[dict[str, Any]], dtype: torch.dtype | None, trains: bool
) -> Contender:
    return Contender(partial(_step if trains else _call, make().train(trains), images, dtype))


def _detector(network: str, device: torch.device, original: Callable[[], nn.Module] | None = None) -> Any:
    """Return a network's Faster R-CNN, with the original's blocks where these are given."""
    from detectron2.modeling import build_model

    cfg = get_config(f"faster_rcnn_{network}_fpn_1x")
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", str(device)
    for part in (cfg.MODEL.RESNETS, cfg.MODEL.FPN, cfg.MODEL.ROI_BOX_HEAD):
        part.NORM = part.NORM.replace("SyncBN", "BN")  # one process
    torch.manual_seed(0)
    model = build_model(cfg)
    if original is not None:
        model.backbone.bottom_up = _Original(model.backbone.bottom_up, original()).to(device)
    return model


class _Original(nn.Module):
    """The original's blocks in the place of ours, with names for the features, and as much of it frozen."""

    def __init__(self, ours: Any, trunk: Any) -> None:
        super().__init__()
        self.trunk, self.names = trunk, tuple(ours.feature_strides)
        stages = [getattr(ours, name) for name in self.names]
        for one, other in zip([ours.stem, *stages], [trunk.stem, *trunk.stages], strict=True):
            if not any(parameter.requires_grad for parameter in one.parameters()):
                other.requires_grad_(False).eval()
                other.train = lambda mode=True, module=other: module

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, self.trunk(x), strict=True))


def detector_inputs(case: Case, device: torch.device, *, masks: bool = False) -> list[dict[str, Any]]:
    """Return images with boxes, and where asked for with masks that fill them, as Detectron2's loader gives them."""
    from detectron2.structures import Boxes, Instances, PolygonMasks

    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([case.width, case.height])
    inputs = []
    for _ in range(case.batch):
        corners = torch.rand(_NUM_BOXES, 2, generator=generator) * 0.6 * size
        sides = (0.1 + 0.3 * torch.rand(_NUM_BOXES, 2, generator=generator)) * size
        instances = Instances((case.height, case.width))
        instances.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
        instances.gt_classes = torch.arange(_NUM_BOXES)
        if masks:
            boxes = instances.gt_boxes.tensor.numpy()
            instances.gt_masks = PolygonMasks([[box[[0, 1, 2, 1, 2, 3, 0, 3]]] for box in boxes])
        image = 255 * torch.rand(3, case.height, case.width, generator=generator)
        sizes = {"height": case.height, "width": case.width}
        inputs.append({"image": image.to(device), "instances": instances.to(device), **sizes})
    return inputs


def _call(model: Any, inputs: list[dict[str, Any]], dtype: torch.dtype | None) -> Any:
    with torch.autocast(inputs[0]["image"].device.type, dtype=dtype, enabled=dtype is not None):
        return model(inputs)


def _step(model: Any, inputs: list[dict[str, Any]], dtype: torch.dtype | None) -> None:
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)  # the heads draw samples
    with EventStorage(0):  # and count what they see
        sum(_call(model, inputs, dtype).values()).backward()
    model.zero_grad()
