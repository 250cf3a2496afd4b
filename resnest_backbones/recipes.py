"""One record per published transfer-learning row: what was trained, with what result, and where its checkpoint was."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from resnest_backbones.errors import CheckpointError

_BLOCK = 1 << 20

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
class PublishedFile:
    """The checkpoint that the authors published of a row.

    Attributes:
        name: file name; "" where the source gives none.
        hash_prefix: hexadecimal digits that the hash of the whole file begins with; "" where none was published.
        hash_kinds: algorithms that the prefix may be of. The detectors' source does not say which it is.
        server: folder it was in.
        server_answers: whether anything can still be fetched from there.
    """

    name: str
    hash_prefix: str
    hash_kinds: tuple[str, ...]
    server: str
    server_answers: bool = False

    def check(self, file: Path | str) -> str:
        """The algorithm by which a file is the published one; "" where no hash was published to hold it to.

        Raises:
            CheckpointError: it is another file, or not whole; the message names it, and what its hash should begin
                with.
        """
        if not self.hash_prefix:
            return ""
        digests = {kind: hashlib.new(kind) for kind in self.hash_kinds}
        with open(file, "rb") as stream:
            while block := stream.read(_BLOCK):
                for digest in digests.values():
                    digest.update(block)
        for kind, digest in digests.items():
            if digest.hexdigest().startswith(self.hash_prefix):
                return kind
        found = " and ".join(f"{kind} {digest.hexdigest()[:8]}..." for kind, digest in digests.items())
        raise CheckpointError(
            f"{file} is not the published {self.name or 'file'}: its {' or '.join(self.hash_kinds)} must begin with "
            f"{self.hash_prefix}, got {found}"
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
        file: the published checkpoint; None where there was none.
    """

    name: str
    framework: str
    dataset: str
    method: str
    backbone: str
    schedule: str
    figures: Mapping[str, float] = field(hash=False)
    source: str
    file: PublishedFile | None = None

    def __post_init__(self) -> None:
        unknown = sorted(self.figures.keys() - METRICS.keys())
        if unknown:
            raise ValueError(f"figures must be of {', '.join(METRICS)}, got {unknown[0]!r}")
        object.__setattr__(self, "figures", MappingProxyType(dict(self.figures)))


_WRAPPER = "github.com/zhanghang1989/ResNeSt d2/README.md"
_ENCODING = "github.com/zhanghang1989/PyTorch-Encoding docs/source/model_zoo/segmentation.rst"
_MMSEG = "github.com/open-mmlab/mmsegmentation configs/resnest/README.md"
_RESNEST = "github.com/zhanghang1989/ResNeSt README.md"
_BUCKET = "https://s3.us-west-1.wasabisys.com"


def _coco(method: str, backbone: str, schedule: str, file: str, **figures: float) -> Recipe:
    panoptic = "pq" in figures
    middle = "" if panoptic else "_fpn"
    name = f"{'panoptic_fpn' if panoptic else method}_{backbone}{middle}_{schedule}"
    digits = re.search(r"-([0-9a-f]{8})\.pth$", file)
    published = PublishedFile(file, digits[1] if digits else "", ("sha256", "sha1"), f"{_BUCKET}/resnest/detectron")
    dataset = "coco_panoptic" if panoptic else "coco"
    return Recipe(name, "detectron2", dataset, method, backbone, schedule, figures, _WRAPPER, published)


def _paper(
    method: str, backbone: str, dataset: str, miou: float, pix_acc: float, sha1: str = "", schedule: str = ""
) -> Recipe:
    figures = {"miou_multi_scale": miou, "pix_acc_multi_scale": pix_acc}
    # The toolkit's own list of files has two of these, as {deeplab_resnest50_ade}-{sha1}.pth; the others are not named.
    file = PublishedFile("", sha1, ("sha1",), f"{_BUCKET}/encoding/models") if sha1 else None
    schedule = schedule or {"ade20k": "120 epochs", "pascal_context_59": "80 epochs"}[dataset]
    name = f"{method}_{backbone}-d8_4xb4-paper_{dataset}-480x480"
    source = _ENCODING if file else _RESNEST
    return Recipe(name, "mmseg", dataset, method, backbone, schedule, figures, source, file)


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
    _coco("faster_rcnn", "resnet50", "1x", "faster_rcnn_R_50_FPN_syncbn_range-scale_1x-fde56e2b.pth", box_ap=39.25),
    _coco("faster_rcnn", "resnet101", "1x", "faster_rcnn_R_101_FPN_syncbn_range-scale_1x-57c73356.pth", box_ap=41.37),
    _coco("faster_rcnn", "resnest50", "1x", "faster_rcnn_ResNeSt_50_FPN_syncbn_range-scale_1x-ad123c0b.pth",
          box_ap=42.33),
    _coco("faster_rcnn", "resnest50_dcnv2", "1x", "faster_rcnn_ResNeSt_50_FPN_dcn_syncbn_range-scale_1x.pth",
          box_ap=44.11),
    _coco("faster_rcnn", "resnest101", "1x", "faster_rcnn_ResNeSt_101_FPN_syncbn_range-scale_1x-d8f284b6.pth",
          box_ap=44.72),
    _coco("cascade_rcnn", "resnet50", "1x", "faster_cascade_rcnn_R_50_FPN_syncbn_range-scale_1x-3c7f2ef2.pth",
          box_ap=42.52),
    _coco("cascade_rcnn", "resnet101", "1x", "faster_cascade_rcnn_R_101_FPN_syncbn_range-scale_1x-4073359b.pth",
          box_ap=44.03),
    _coco("cascade_rcnn", "resnest50", "1x", "faster_cascade_rcnn_ResNeSt_50_FPN_syncbn_range-scale-1x-e9955232.pth",
          box_ap=45.41),
    _coco("cascade_rcnn", "resnest101", "1x", "faster_cascade_rcnn_ResNeSt_101_FPN_syncbn_range-scale_1x-3627ef78.pth",
          box_ap=47.5),
    _coco("cascade_rcnn", "resnest200", "1x", "faster_cascade_rcnn_ResNeSt_200_FPN_syncbn_range-scale_1x-1be2a87e.pth",
          box_ap=49.03),
    _coco("mask_rcnn", "resnet50", "1x", "mask_rcnn_R_50_FPN_syncbn_1x-4939bd58.pth", box_ap=39.97, mask_ap=36.05),
    _coco("mask_rcnn", "resnet101", "1x", "mask_rcnn_R_101_FPN_syncbn_1x-55493cc2.pth", box_ap=41.78, mask_ap=37.51),
    _coco("mask_rcnn", "resnest50", "1x", "mask_rcnn_ResNeSt_50_FPN_syncBN_1x-f442d863.pth",
          box_ap=42.81, mask_ap=38.14),
    _coco("mask_rcnn", "resnest101", "1x", "mask_rcnn_ResNeSt_101_FPN_syncBN_1x-528502c6.pth",
          box_ap=45.75, mask_ap=40.65),
    _coco("mask_cascade_rcnn", "resnet50", "1x", "mask_cascade_rcnn_R_50_FPN_syncbn_1x-03310c9b.pth",
          box_ap=43.06, mask_ap=37.19),
    _coco("mask_cascade_rcnn", "resnet101", "1x", "mask_cascade_rcnn_R_101_FPN_syncbn_1x-8cec1631.pth",
          box_ap=44.79, mask_ap=38.52),
    _coco("mask_cascade_rcnn", "resnest50", "1x", "mask_cascade_rcnn_ResNeSt_50_FPN_syncBN_1x-c58bd325.pth",
          box_ap=46.19, mask_ap=39.55),
    _coco("mask_cascade_rcnn", "resnest101", "1x", "mask_cascade_rcnn_ResNeSt_101_FPN_syncBN_1x-62448b9c.pth",
          box_ap=48.3, mask_ap=41.56),
    _coco("mask_cascade_rcnn", "resnest200", "3x_all_tricks",
          "mask_cascade_rcnn_ResNeSt_200_FPN_syncBN_all_tricks_3x.pth", box_ap=50.54, mask_ap=44.21),
    _coco("mask_cascade_rcnn", "resnest200_dcnv2", "3x_all_tricks",
          "mask_cascade_rcnn_ResNeSt_200_FPN_dcn_syncBN_all_tricks_3x-e1901134.pth",
          box_ap=50.91, mask_ap=44.5, box_ap_test_dev=53.3, mask_ap_test_dev=47.1),
    _coco("panoptic_cascade", "resnest200", "3x_tricks", "panoptic_ResNeSt_200_FPN_syncBN_tricks_3x-43f8b731.pth",
          box_ap=51.0, mask_ap=43.68, pq=47.9),
    _paper("fcn", "resnest50", "ade20k", 42.94, 80.18, "4aba491a"),
    _paper("deeplabv3", "resnet50", "ade20k", 42.1, 80.39),
    _paper("deeplabv3", "resnet101", "ade20k", 44.14, 81.11),
    _paper("deeplabv3", "resnest50", "ade20k", 45.12, 81.17, "2225f09d"),
    _paper("deeplabv3", "resnest101", "ade20k", 46.91, 82.07, "06ca799c"),
    _paper("deeplabv3", "resnest200", "ade20k", 48.36, 82.45, "7b9e7d3e", "180 epochs"),
    _paper("deeplabv3", "resnest269", "ade20k", 47.6, 82.62, "0074dd10"),
    _paper("fcn", "resnest50", "pascal_context_59", 51.98, 79.19, "77a2161d"),
    _paper("deeplabv3", "resnest50", "pascal_context_59", 53.19, 80.41, "08dccbc4"),
    _paper("deeplabv3", "resnest101", "pascal_context_59", 56.49, 81.91, "faf58418"),
    _paper("deeplabv3", "resnest200", "pascal_context_59", 58.37, 82.5, "fe76a265"),
    _paper("deeplabv3", "resnest269", "pascal_context_59", 58.92, 83.06, "b661fd26"),
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


def find_published(file_name: str) -> PublishedFile | None:
    """The published checkpoint whose name a file has; None for all other names.

    Both sources named theirs ``NAME-HASH.pth``, after the first eight digits of the hash; that ending decides, as the
    names of some are not known.
    """
    files = (recipe.file for recipe in RECIPES.values() if recipe.file is not None and recipe.file.hash_prefix)
    return next((file for file in files if file_name.endswith(f"-{file.hash_prefix}.pth")), None)


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
