"""Small real Detectron2 configs, detectors and images for the tests of the plugin."""

import math

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from resnest_backbones.detectron2 import add_resnest_config

BOX_HEAD = {
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
FPN_DETECTOR = {
    **BOX_HEAD,
    "MODEL.BACKBONE.NAME": "build_resnest_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
}
# A cascade by MMDetection's rules, with a mask head for each stage.
MMDET_CASCADE = {
    **FPN_DETECTOR,
    "MODEL.ROI_HEADS.NAME": "MMDetCascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
}
RETINANET = {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnest_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RETINANET.NUM_CLASSES": 3,
    "MODEL.RETINANET.NUM_CONVS": 1,
}
PANOPTIC_FPN = {
    **FPN_DETECTOR,
    "MODEL.META_ARCHITECTURE": "PanopticFPN",
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
}
# No FPN: the heads look at one stage of the trunk.
PROPOSAL_NETWORK = {
    "MODEL.META_ARCHITECTURE": "ProposalNetwork",
    "MODEL.BACKBONE.NAME": "build_resnest_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.CONV_DIMS": [16],
}
SINGLE_STAGE_DETECTOR = {
    **PROPOSAL_NETWORK,
    **BOX_HEAD,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
}


def resnest_config(*parts: dict[str, object]) -> CfgNode:
    """Detectron2's defaults and the keys of ``parts``, on the CPU; ResNeSt-14 with BN and nothing frozen otherwise."""
    cfg = get_cfg()
    add_resnest_config(cfg)
    keys = {"MODEL.DEVICE": "cpu", "MODEL.RESNETS.DEPTH": 14, "MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 0}
    for part in parts:
        keys |= part
    cfg.merge_from_list([item for pair in keys.items() for item in pair])
    return cfg


def detector(*parts: dict[str, object], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(resnest_config(*parts))


def images(count: int = 2, size: int = 64) -> list[dict[str, object]]:
    """Random images with one object, its mask and a semantic map each, as Detectron2's mapper makes them."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(count):
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(torch.tensor([[6.0, 6.0, 44.0, 52.0]]))
        instances.gt_classes = torch.tensor([1])
        instances.gt_masks = PolygonMasks([[[6.0, 6.0, 44.0, 6.0, 44.0, 52.0, 6.0, 52.0]]])
        image = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        semantic = torch.randint(0, 3, (size, size), generator=generator)
        batch.append({"image": image, "instances": instances, "sem_seg": semantic, "height": size, "width": size})
    return batch


def training_losses(model: nn.Module, batch: list[dict[str, object]]) -> dict[str, Tensor]:
    """Forward and backward of one training step; all losses are finite."""
    model.train()
    with EventStorage(0):
        losses = model(batch)
    assert losses and all(math.isfinite(value.item()) for value in losses.values()), losses
    sum(losses.values()).backward()
    return losses


def parameters_without_gradient(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def distinct_tensors(shapes: dict[str, torch.Size | list[int]], seed: int = 0) -> dict[str, Tensor]:
    """One random number per name, spread over its shape: takes no space in a file, and tells names apart."""
    generator = torch.Generator().manual_seed(seed)
    return {name: (torch.rand((), generator=generator) + 0.5).expand(tuple(shape)) for name, shape in shapes.items()}
