"""The heads of R-CNNs: Cascade R-CNN's by the rules of MMDetection, and those without a pyramid (C4).

With the former MMDetection's published files are exact. In the latter the trunk ends with res4, and res5 computes the
features of each proposal.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    Res5ROIHeads,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from resnest_backbones.detectron2.backbone import ResNeSt, register
from resnest_backbones.detectron2.builders import build_trunk
from resnest_backbones.errors import ConfigError
from resnest_backbones.models.arguments import check_choice
from resnest_backbones.models.variants import ResNeStSpec

logger = logging.getLogger(__name__)

_AVERAGES = ("logits", "probabilities")
_MASK_HEAD = re.compile(r"(roi_heads\.mask_head\.)(\d+)\.(.+)")

Features = Mapping[str, Tensor]


@register(ROI_HEADS_REGISTRY)
class MMDetCascadeROIHeads(CascadeROIHeads):
    """Detectron2's ``CascadeROIHeads`` with three rules of MMDetection's ``CascadeRoIHead``.

    At test the class logits of the stages are averaged, not their probabilities. There may be a mask head for each
    stage: in training it sees the stage's own proposals, and at test the probabilities of all are averaged. The losses
    of a stage have a weight; Detectron2 scales their gradients at the features instead.

    The stages' proposals are matched as in Detectron2: they are not sampled anew for each stage.

    Args:
        average: ``logits`` or ``probabilities``.
        loss_weights: one for each stage.
        mask_head: one, as in ``CascadeROIHeads``, or a sequence with one for each stage.
        **kwargs: those of ``CascadeROIHeads``.

    Raises:
        ConfigError: ``average`` is unknown, or there is not one weight for each stage.
    """

    @configurable
    def __init__(
        self,
        *,
        average: str = "logits",
        loss_weights: Sequence[float] = (1.0, 0.5, 0.25),
        mask_head: nn.Module | Sequence[nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        heads = nn.ModuleList(mask_head) if isinstance(mask_head, Sequence) else mask_head
        super().__init__(mask_head=heads, **kwargs)
        if average not in _AVERAGES:
            raise ConfigError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.AVERAGE must be one of {', '.join(_AVERAGES)}, got {average!r}"
            )
        if len(loss_weights) != self.num_cascade_stages:
            raise ConfigError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.LOSS_WEIGHTS must have {self.num_cascade_stages} values, one for each "
                f"stage, got {list(loss_weights)}"
            )
        self.average = average
        self.loss_weights = [float(weight) for weight in loss_weights]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        """Translate a config into the arguments."""
        keys = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        return {**super().from_config(cfg, input_shape), "average": keys.AVERAGE, "loss_weights": keys.LOSS_WEIGHTS}

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        made: dict[str, Any] = super()._init_mask_head(cfg, input_shape)
        keys = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        if made and keys.MASK_HEAD_PER_STAGE:
            others = (super(MMDetCascadeROIHeads, cls)._init_mask_head(cfg, input_shape) for _ in keys.IOUS[1:])
            made["mask_head"] = [made["mask_head"], *(other["mask_head"] for other in others)]
        return made

    def _forward_box(self, features: Features, proposals: list[Instances], targets: Any = None) -> Any:
        """Return the losses of all stages, those of their mask heads included; in evaluation the detections."""
        maps = [features[name] for name in self.box_in_features]
        sizes = [image.image_size for image in proposals]
        losses: dict[str, Tensor] = {}
        outputs: list[Any] = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                boxes = self.box_predictor[stage - 1].predict_boxes(outputs[-1], proposals)
                proposals = self._create_proposals_from_boxes(boxes, sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, stage, targets)
            outputs.append(self._run_stage(maps, proposals, stage))
            if self.training:
                with get_event_storage().name_scope(f"stage{stage}"):
                    of_stage = predictor.losses(outputs[-1], proposals)
                    if self._has_mask_heads:
                        of_stage |= self._mask_losses(features, proposals, targets, stage)
                losses |= {f"{key}_stage{stage}": value * self.loss_weights[stage] for key, value in of_stage.items()}
        if self.training:
            return losses
        boxes = predictor.predict_boxes(outputs[-1], proposals)
        limits = (predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image)
        return fast_rcnn_inference(boxes, self._probabilities(outputs, proposals), sizes, *limits)[0]

    def _run_stage(self, features: Sequence[Tensor], proposals: list[Instances], stage: int) -> Any:
        pooled = self.box_pooler(features, [image.proposal_boxes for image in proposals])
        return self.box_predictor[stage](self.box_head[stage](pooled))

    def _probabilities(self, outputs: Sequence[Any], proposals: list[Instances]) -> list[Tensor]:
        """Return the probabilities of the classes over all stages, (proposals, classes + 1) for each image."""
        if self.average == "logits":
            logits = torch.stack([of_stage for of_stage, _ in outputs]).mean(dim=0)
            return list(self.box_predictor[-1].predict_probs((logits, None), proposals))
        stages = [
            predictor.predict_probs(output, proposals)
            for predictor, output in zip(self.box_predictor, outputs, strict=True)
        ]
        return [torch.stack(of_image).mean(dim=0) for of_image in zip(*stages, strict=True)]

    @property
    def _has_mask_heads(self) -> bool:
        return self.mask_on and isinstance(self.mask_head, nn.ModuleList)

    def _mask_losses(
        self, features: Features, proposals: list[Instances], targets: Any, stage: int
    ) -> dict[str, Tensor]:
        """Return the loss of a stage's mask head on those of its proposals that hold an object."""
        objects, _ = select_foreground_proposals(proposals, self.num_classes)
        for found, image in zip(objects, targets, strict=True):
            if stage > 0 and len(found):  # those of the first stage have their masks
                matched = pairwise_iou(image.gt_boxes, found.proposal_boxes).argmax(dim=0)
                found.gt_masks = image.gt_masks[matched]
        return self.mask_head[stage](
            self._pool_for_masks(features, [found.proposal_boxes for found in objects]), objects
        )

    def _pool_for_masks(self, features: Features, boxes: Sequence[Any]) -> Tensor:
        pooled: Tensor = self.mask_pooler([features[name] for name in self.mask_in_features], boxes)
        return pooled

    def _forward_mask(self, features: Features, instances: list[Instances]) -> Any:
        """Give detections the mean of the masks of all heads; in training ``_forward_box`` has their losses."""
        if not self._has_mask_heads:
            return super()._forward_mask(features, instances)
        if self.training:
            return {}
        pooled = self._pool_for_masks(features, [found.pred_boxes for found in instances])
        stages = [[found.pred_masks for found in head(pooled, instances)] for head in self.mask_head]
        for found, masks in zip(instances, zip(*stages, strict=True), strict=True):
            found.pred_masks = torch.stack(masks).mean(dim=0)
        return instances


def keep_last_mask_head(state: dict[str, Any], wanted: Collection[str]) -> dict[str, Any]:
    """Return a detector's state with the last stage's mask head alone, where the model has one for all stages."""
    heads = [match for key in state if (match := _MASK_HEAD.fullmatch(key))]
    own = [key for key in wanted if key.startswith("roi_heads.mask_head.")]
    if not heads or not own or any(map(_MASK_HEAD.fullmatch, own)):
        return state
    last = max(int(match[2]) for match in heads)
    names = {match[0]: match[1] + match[3] for match in heads if int(match[2]) == last}
    left_out = {match[0] for match in heads} - names.keys()
    logger.warning("The model has one mask head: it is loaded from stage %d, and %d tensors of other stages' mask "
                   "heads are left out", last, len(left_out))  # fmt: skip
    return {names.get(key, key): value for key, value in state.items() if key not in left_out}


@register(ROI_HEADS_REGISTRY)
class ResNeStRes5ROIHeads(Res5ROIHeads):
    """Detectron2's ``Res5ROIHeads`` with the res5 of the config's ResNeSt, which the box and the mask head share."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Module, int]:
        trunk = build_trunk(cfg, ShapeSpec(channels=3), ["res5"])
        return trunk.get_submodule("res5"), trunk.out_channels


def make_res5(spec: ResNeStSpec | str, *, norm: str = "BN", out_channels: int = 2048) -> nn.Module:
    """Make the ``res5`` of ``Res5ROIHeads`` in a LazyConfig: (N, 1024, H, W) -> (N, 2048, H / 2, W / 2).

    ``spec`` and ``norm`` are those of ``ResNeSt``; Detectron2's ``mask_rcnn_c4.py`` refers to ``out_channels``.
    """
    check_choice("out_channels", out_channels, (2048,))
    return ResNeSt(spec, norm=norm, out_features=("res5",)).get_submodule("res5")
