"""One record per published transfer-learning row: what was trained, with what result, and where its checkpoint was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from resnest_backbones.weights import PUBLISHED, PublishedFile

# Every metric of the records, in percent, and how a reader calls it.
METRICS: Mapping[str, str] = MappingProxyType(
    {
        "box_ap": "box AP",
        "mask_ap": "mask AP",
        "pq": "PQ",
        "box_ap_test_dev": "box AP on test-dev, several scales and flip",
        "mask_ap_test_dev": "mask AP on test-dev, several scales and flip",
        "miou": "mIoU, one scale",
        "miou_multi_scale": "mIoU, several scales and flip",
        "pix_acc_multi_scale": "pixel accuracy, several scales and flip",
        "miou_scales_not_stated": "mIoU, scales not stated",
    }
)


@dataclass(frozen=True)
class Recipe:
    """A published row: a detector or segmentor, how it was trained, its figures.

    Attributes:
        name: of the config file, without its ending.
        framework: ``detectron2`` or ``mmseg``.
        dataset: ``coco``, ``coco_panoptic``, ``ade20k``, ``pascal_context_59`` or ``cityscapes``; trained on its
            training split, measured on its validation split.
        method: what stands on the backbone, such as ``faster_rcnn``.
        backbone: name of the network; ``_dcnv2`` behind it: with modulated deformable convolution.
        schedule: how long it is trained, as its source calls it.
        figures: what was published, in percent, by the names of ``METRICS``.
        source: where it was published.
    """

    name: str
    framework: str
    dataset: str
    method: str
    backbone: str
    schedule: str
    figures: Mapping[str, float] = field(hash=False)
    source: str

    def __post_init__(self) -> None:
        unknown = sorted(self.figures.keys() - METRICS.keys())
        if unknown:
            raise ValueError(f"figures must be of {', '.join(METRICS)}, got {unknown[0]!r}")
        object.__setattr__(self, "figures", MappingProxyType(dict(self.figures)))

    @property
    def file(self) -> PublishedFile | None:
        """The published checkpoint; None where there was none."""
        return PUBLISHED.get(self.name)


_WRAPPER = "github.com/zhanghang1989/ResNeSt d2/README.md"
_ENCODING = "github.com/zhanghang1989/PyTorch-Encoding docs/source/model_zoo/segmentation.rst"
_MMSEG = "github.com/open-mmlab/mmsegmentation configs/resnest/README.md"
_RESNEST = "github.com/zhanghang1989/ResNeSt README.md"


def _coco(method: str, backbone: str, schedule: str, **figures: float) -> Recipe:
    panoptic = "pq" in figures
    middle = "" if panoptic else "_fpn"
    name = f"{'panoptic_fpn' if panoptic else method}_{backbone}{middle}_{schedule}"
    dataset = "coco_panoptic" if panoptic else "coco"
    return Recipe(name, "detectron2", dataset, method, backbone, schedule, figures, _WRAPPER)


def _paper(method: str, backbone: str, dataset: str, miou: float, pix_acc: float, schedule: str = "") -> Recipe:
    figures = {"miou_multi_scale": miou, "pix_acc_multi_scale": pix_acc}
    schedule = schedule or {"ade20k": "120 epochs", "pascal_context_59": "80 epochs"}[dataset]
    name = f"{method}_{backbone}-d8_4xb4-paper_{dataset}-480x480"
    source = _ENCODING if name in PUBLISHED else _RESNEST
    return Recipe(name, "mmseg", dataset, method, backbone, schedule, figures, source)


def _mmseg(
    method: str, dataset: str, *, backbone: str = "resnest101", source: str = _MMSEG, **figures: float
) -> Recipe:
    schedule, training, crop = {
        "ade20k": ("160k", "4xb4-160k", "512x512"),
        "cityscapes": ("80k", "4xb2-80k", "512x1024"),
    }[dataset]
    name = f"{method}_{backbone}-d8_{training}_{dataset}-{crop}"
    return Recipe(name, "mmseg", dataset, method, backbone, schedule, figures, source)


_ROWS = (
    _coco("faster_rcnn", "resnet50", "1x", box_ap=39.25),
    _coco("faster_rcnn", "resnet101", "1x", box_ap=41.37),
    _coco("faster_rcnn", "resnest50", "1x", box_ap=42.33),
    _coco("faster_rcnn", "resnest50_dcnv2", "1x", box_ap=44.11),
    _coco("faster_rcnn", "resnest101", "1x", box_ap=44.72),
    _coco("cascade_rcnn", "resnet50", "1x", box_ap=42.52),
    _coco("cascade_rcnn", "resnet101", "1x", box_ap=44.03),
    _coco("cascade_rcnn", "resnest50", "1x", box_ap=45.41),
    _coco("cascade_rcnn", "resnest101", "1x", box_ap=47.5),
    _coco("cascade_rcnn", "resnest200", "1x", box_ap=49.03),
    _coco("mask_rcnn", "resnet50", "1x", box_ap=39.97, mask_ap=36.05),
    _coco("mask_rcnn", "resnet101", "1x", box_ap=41.78, mask_ap=37.51),
    _coco("mask_rcnn", "resnest50", "1x", box_ap=42.81, mask_ap=38.14),
    _coco("mask_rcnn", "resnest101", "1x", box_ap=45.75, mask_ap=40.65),
    _coco("mask_cascade_rcnn", "resnet50", "1x", box_ap=43.06, mask_ap=37.19),
    _coco("mask_cascade_rcnn", "resnet101", "1x", box_ap=44.79, mask_ap=38.52),
    _coco("mask_cascade_rcnn", "resnest50", "1x", box_ap=46.19, mask_ap=39.55),
    _coco("mask_cascade_rcnn", "resnest101", "1x", box_ap=48.3, mask_ap=41.56),
    _coco("mask_cascade_rcnn", "resnest200", "3x_all_tricks", box_ap=50.54, mask_ap=44.21),
    _coco("mask_cascade_rcnn", "resnest200_dcnv2", "3x_all_tricks", box_ap=50.91, mask_ap=44.5,
          box_ap_test_dev=53.3, mask_ap_test_dev=47.1),
    _coco("panoptic_cascade", "resnest200", "3x_tricks", box_ap=51.0, mask_ap=43.68, pq=47.9),
    _paper("fcn", "resnest50", "ade20k", 42.94, 80.18),
    _paper("deeplabv3", "resnet50", "ade20k", 42.1, 80.39),
    _paper("deeplabv3", "resnet101", "ade20k", 44.14, 81.11),
    _paper("deeplabv3", "resnest50", "ade20k", 45.12, 81.17),
    _paper("deeplabv3", "resnest101", "ade20k", 46.91, 82.07),
    _paper("deeplabv3", "resnest200", "ade20k", 48.36, 82.45, "180 epochs"),
    _paper("deeplabv3", "resnest269", "ade20k", 47.6, 82.62),
    _paper("fcn", "resnest50", "pascal_context_59", 51.98, 79.19),
    _paper("deeplabv3", "resnest50", "pascal_context_59", 53.19, 80.41),
    _paper("deeplabv3", "resnest101", "pascal_context_59", 56.49, 81.91),
    _paper("deeplabv3", "resnest200", "pascal_context_59", 58.37, 82.5),
    _paper("deeplabv3", "resnest269", "pascal_context_59", 58.92, 83.06),
    _mmseg("fcn", "ade20k", miou=45.62, miou_multi_scale=46.16),
    _mmseg("pspnet", "ade20k", miou=45.44, miou_multi_scale=46.28),
    _mmseg("deeplabv3", "ade20k", miou=45.71, miou_multi_scale=46.59),
    _mmseg("deeplabv3plus", "ade20k", miou=46.47, miou_multi_scale=47.27),
    _mmseg("fcn", "cityscapes", miou=77.56, miou_multi_scale=78.98),
    _mmseg("pspnet", "cityscapes", miou=78.57, miou_multi_scale=79.19),
    _mmseg("deeplabv3", "cityscapes", miou=79.67, miou_multi_scale=80.51),
    _mmseg("deeplabv3plus", "cityscapes", miou=79.62, miou_multi_scale=80.27),
    _mmseg("deeplabv3plus", "cityscapes", backbone="resnest200", source=_RESNEST, miou_scales_not_stated=82.7),
)  # fmt: skip

RECIPES: Mapping[str, Recipe] = MappingProxyType({row.name: row for row in _ROWS})


@dataclass(frozen=True)
class Measurement:
    """What a run of a recipe gave, by whoever ran it.

    Attributes:
        name: of the recipe.
        figures: in percent, by the names of ``METRICS``.
        machine: what it ran on.
        date: when it ended, as year-month-day.
        command: what was typed.
    """

    name: str
    figures: Mapping[str, float] = field(hash=False)
    machine: str
    date: str
    command: str


# No row was run in full yet: nothing here was trained on the whole of its data set.
MEASURED: Mapping[str, Measurement] = MappingProxyType({})
