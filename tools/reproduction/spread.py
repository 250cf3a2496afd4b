"""By how much two runs of one recipe usually differ: within it, a figure counts as reproduced.

No source measured it for these recipes. Each record names what was said of the nearest thing, or that it is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Spread:
    """A usual difference between two runs.

    Attributes:
        points: the largest difference, either way, that is still usual; in points of percent.
        reason: what was said where, in short; or why it is assumed.
        source: where it was said; "" where it is assumed.
    """

    points: float
    reason: str
    source: str = ""

    @property
    def is_assumed(self) -> bool:
        """Whether no source says so."""
        return not self.source


_COCO_AP = Spread(
    0.3,
    "an author of MoCo calls a gap of 0.3 AP, between a user's run of a Mask R-CNN in Detectron2 and the published "
    "figure, a reasonable random variation on COCO; others name 0.2 (Mask2Former issue 46) and 0.1 (GFocal issue 8)",
    "github.com/facebookresearch/moco issue 39",
)
_PQ = Spread(0.3, "assumed to be that of AP on COCO; no source was found")
_ADE20K_MIOU = Spread(
    1.0,
    "a user saw mIoU differ by up to 1 to 2 points between seeds, and the author answered that ADE20K varies most of "
    "all data sets; the lower end is taken",
    "github.com/Visual-Attention-Network/SegNeXt issue 48",
)
_CITYSCAPES_MIOU = Spread(
    0.5,
    "three runs of one PSPNet of MMSegmentation gave 75.06, 74.63 and 73.76, and a maintainer called the last an "
    "outlier; the others lie 0.43 apart",
    "github.com/open-mmlab/mmsegmentation issue 1208",
)
_PASCAL_CONTEXT_MIOU = Spread(0.5, "assumed to be that of Cityscapes; no source was found")
_PIXEL_ACCURACY = Spread(0.3, "assumed; no source was found")

# Data set -> metric -> its spread. Testing at several scales does not change how much trainings differ.
_AP = {name: _COCO_AP for name in ("box_ap", "mask_ap", "box_ap_test_dev", "mask_ap_test_dev")}
SPREADS: Mapping[str, Mapping[str, Spread]] = MappingProxyType(
    {
        "coco": MappingProxyType(_AP),
        "coco_panoptic": MappingProxyType({**_AP, "pq": _PQ}),
        **{
            dataset: MappingProxyType(
                {
                    "miou": miou,
                    "miou_multi_scale": miou,
                    "miou_scales_not_stated": miou,
                    "pix_acc_multi_scale": _PIXEL_ACCURACY,
                }
            )
            for dataset, miou in {
                "ade20k": _ADE20K_MIOU,
                "pascal_context_59": _PASCAL_CONTEXT_MIOU,
                "cityscapes": _CITYSCAPES_MIOU,
            }.items()
        },
    }
)
