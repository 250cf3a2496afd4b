"""MMDetection's names for the parts of an R-CNN around the trunk, and Detectron2's for the same tensors.

Renaming is all it takes. Since MMDetection 2.0 both have background as the last class, the four deltas of a class in a
row, one logit per anchor, the same order of anchors, and features that are flattened channel by channel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# @ stands for the stage of a cascade, # for the number of a layer.
_NAMES = {
    "neck.lateral_convs.#": "backbone.fpn_lateral#",
    "neck.fpn_convs.#": "backbone.fpn_output#",
    "rpn_head.rpn_conv": "proposal_generator.rpn_head.conv",
    "rpn_head.rpn_cls": "proposal_generator.rpn_head.objectness_logits",
    "rpn_head.rpn_reg": "proposal_generator.rpn_head.anchor_deltas",
    "roi_head.bbox_head.shared_convs.#": "roi_heads.box_head.@conv#",
    "roi_head.bbox_head.shared_fcs.#": "roi_heads.box_head.@fc#",
    "roi_head.bbox_head.fc_cls": "roi_heads.box_predictor.@cls_score",
    "roi_head.bbox_head.fc_reg": "roi_heads.box_predictor.@bbox_pred",
    "roi_head.mask_head.convs.#": "roi_heads.mask_head.@mask_fcn#",
    "roi_head.mask_head.upsample": "roi_heads.mask_head.@deconv",
    "roi_head.mask_head.conv_logits": "roi_heads.mask_head.@predictor",
}
_KEY = re.compile(
    r"(?P<part>neck|rpn_head|roi_head\.(?:bbox|mask)_head)\.(?P<stage>\d\.)?(?P<layer>\w+)(?:\.(?P<number>\d))?"
    r"\.(?:conv\.|(?P<norm>bn\.))?(?P<leaf>\w+)"
)
_LAST_STAGE = 5  # of the trunk: whichever lateral convolution is the last stands on it


def detectron2_names(state_dict: Mapping[str, Any]) -> dict[str, str]:
    """Map the keys that an R-CNN of Detectron2 has a place for to its names; the trunk's are not among them."""
    laterals = sum(bool(re.fullmatch(r"neck\.lateral_convs\.\d\.conv\.weight", key)) for key in state_dict)
    names = {}
    for key in state_dict:
        match = _KEY.fullmatch(key)
        name = match and _NAMES.get(f"{match['part']}.{match['layer']}{'.#' if match['number'] else ''}")
        if match and name:
            first = _LAST_STAGE + 1 - laterals if match["part"] == "neck" else 1
            name = name.replace("@", match["stage"] or "").replace("#", str(first + int(match["number"] or 0)))
            names[key] = f"{name}.{'norm.' if match['norm'] else ''}{match['leaf']}"
    return names
