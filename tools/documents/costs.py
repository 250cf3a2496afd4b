"""Parameters and multiply-adds of the published recipes, counted once and kept in ``recipe_costs.json``.

Counted are convolutions (deformable ones without their sampling), linear layers, and one for each element that a norm
scales and shifts, as for the networks of ``variants.py``. A detector is counted on one image of 800 x 1344 pixels (the
short side that it is tested with, and the long side padded to its limit), with as many proposals and detections as its
config allows at most; a segmentor on one training crop, without its auxiliary head. Parameters are those of the whole
model as it is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torchvision.ops  # noqa: F401  (defines deform_conv2d)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resnest_backbones.model_zoo import RECIPES, get_config

COSTS_FILE = Path(__file__).with_name("recipe_costs.json")
_DETECTOR_INPUT = (800, 1344)


@dataclass(frozen=True)
class Cost:
    parameters: int  # of the whole model, auxiliary heads included
    multiply_adds: int  # of one image
    height: int  # of that image, in pixels
    width: int


@cache
def costs() -> Mapping[str, Cost]:
    """Return the cost of every published recipe, by its name."""
    content = json.loads(COSTS_FILE.read_text(encoding="utf-8"))
    return MappingProxyType({name: Cost(**cost) for name, cost in content.items()})


def write_costs(counted: Mapping[str, Cost], file: Path = COSTS_FILE) -> None:
    """Write costs, in the order of the recipes."""
    content = {name: asdict(counted[name]) for name in RECIPES}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def count(name: str) -> Cost:
    """Count a recipe's model on the device "meta", where the largest takes seconds."""
    if name not in RECIPES:
        raise ValueError(f"name must be one of {', '.join(RECIPES)}, got {name!r}")
    return _count_detector(name) if RECIPES[name].framework == "detectron2" else _count_segmentor(name)


def multiply_adds(module: Callable[..., Any], *inputs: Any) -> int:
    """Return the multiply-adds of one call of a module or of a method of one, as fvcore counts them."""
    with FlopCounterMode(display=False, custom_mapping=_EXTRA) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops() // 2


def _of_norm(x: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(x)


def _of_deform_conv(x: Any, weight: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    """Return the operations of a convolution; the weight is (out, in / groups, height, width)."""
    return 2 * prod(out_shape) * prod(weight[1:])


_EXTRA: dict[Any, Any] = {
    torch.ops.aten.native_batch_norm: _of_norm,
    torch.ops.aten._native_batch_norm_legit_no_training: _of_norm,
    torch.ops.aten.cudnn_batch_norm: _of_norm,
    torch.ops.aten.native_group_norm: _of_norm,
    torch.ops.torchvision.deform_conv2d: _of_deform_conv,
}


def _count_detector(name: str) -> Cost:
    from detectron2.modeling import build_model

    cfg = get_config(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg).eval()
        image = torch.zeros(1, 3, *_DETECTOR_INPUT)
        with torch.no_grad():
            features = model.backbone(image)
        proposals = cfg.MODEL.RPN.POST_NMS_TOPK_TEST
        total = multiply_adds(model.backbone, image)
        total += multiply_adds(model.proposal_generator.rpn_head, [features[key] for key in cfg.MODEL.RPN.IN_FEATURES])
        sizes = (cfg.MODEL.FPN.OUT_CHANNELS, proposals, cfg.TEST.DETECTIONS_PER_IMAGE)
        total += sum(_multiply_adds_of_heads(model.roi_heads, *sizes))
        if hasattr(model, "sem_seg_head"):
            total += multiply_adds(model.sem_seg_head.layers, features)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, total, *_DETECTOR_INPUT)


def _multiply_adds_of_heads(heads: Any, channels: int, proposals: int, detections: int) -> Iterator[int]:
    """Yield the multiply-adds of each box head over all proposals, and of each mask head over all detections."""
    pair = (heads.box_head, heads.box_predictor)
    pooled = torch.zeros(proposals, channels, *heads.box_pooler.output_size)
    for head, predictor in zip(*pair, strict=True) if isinstance(heads.box_head, nn.ModuleList) else [pair]:
        yield multiply_adds(nn.Sequential(head, predictor), pooled)
    if heads.mask_on:
        pooled = torch.zeros(detections, channels, *heads.mask_pooler.output_size)
        for head in heads.mask_head if isinstance(heads.mask_head, nn.ModuleList) else [heads.mask_head]:
            yield multiply_adds(head.layers, pooled)


def _count_segmentor(name: str) -> Cost:
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    cfg = get_config(name)
    init_default_scope("mmseg")
    height, width = cfg.crop_size
    with torch.device("meta"):
        model = MODELS.build(cfg.model).eval()
        total = multiply_adds(model._forward, torch.zeros(1, 3, height, width))
    return Cost(sum(parameter.numel() for parameter in model.parameters()), total, height, width)
