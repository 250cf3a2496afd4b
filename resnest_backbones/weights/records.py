"""One record per published file, and which record a name stands for.

The ImageNet records are facts of github.com/zhanghang1989/ResNeSt (README.md, ablation.md), those of ResNeSt-14 and 26
of timm. The eight hexadecimal digits in a file's name begin the sha256 of the whole file. The authors' trained
detectors and segmentors are no longer on their server: their records tell whether a copy is the published file. Those
that MMDetection and MMSegmentation trained can be fetched.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from resnest_backbones.errors import CheckpointError, ConfigError, did_you_mean

SCHEME = "resnest://"
MIRROR_VARIABLE = "RESNEST_BACKBONES_MIRROR"
_RELEASE = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download"
_TIMM_SOURCE = "github.com/huggingface/pytorch-image-models"
_OPENMMLAB = "https://download.openmmlab.com"
_BUCKET = "https://s3.us-west-1.wasabisys.com"


@dataclass(frozen=True)
class WeightRecord:
    """A published ImageNet weight file and what its network expects of images.

    Attributes:
        name: the network, a name of ``list_variants()``.
        sha256_prefix: first eight hexadecimal digits of the file's sha256.
        crop: side of the evaluation crop in pixels.
        top1: published ImageNet top-1 accuracy in percent at that crop.
        mean: mean of each channel of an image scaled to [0, 1], in ``channel_order``.
        std: standard deviation of each channel, likewise.
        channel_order: order of the image's channels.
        base_url: folder of the file.
        license: licence of the file.
        source: where these facts were published.
        other_urls: further folders of the same file, for when the first does not answer.
        hub: repository of the Hugging Face hub with the same values in ``model.safetensors``, in timm's layout; "" for
            none.
        file_stem: beginning of the file's name; the network's where it is "".
    """

    name: str
    sha256_prefix: str
    crop: int
    top1: float
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: str = "RGB"
    base_url: str = _RELEASE
    license: str = "Apache-2.0"
    source: str = "github.com/zhanghang1989/ResNeSt"
    other_urls: tuple[str, ...] = ()
    hub: str = ""
    file_stem: str = ""

    @property
    def filename(self) -> str:
        """Name of the published file."""
        return f"{self.file_stem or self.name}-{self.sha256_prefix}.pth"

    @property
    def url(self) -> str:
        """Where the file is fetched from first."""
        return self.urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the file is fetched from, one after the other, before the hub."""
        return _urls(self.filename, self.base_url, *self.other_urls)


def _urls(filename: str, *folders: str) -> tuple[str, ...]:
    """Return the urls of a file in its folders, or in the mirror in ``RESNEST_BACKBONES_MIRROR`` alone."""
    mirror = os.environ.get(MIRROR_VARIABLE)
    return tuple(f"{folder.rstrip('/')}/{quote(filename)}" for folder in ((mirror,) if mirror else folders))


_IN_TIMM = (f"{_TIMM}/v0.1-resnest",)

_IMAGENET = (
    WeightRecord("resnest50", "528c19ca", crop=224, top1=81.03, other_urls=_IN_TIMM, hub="timm/resnest50d.in1k"),
    WeightRecord("resnest101", "22405ba7", crop=256, top1=82.83, other_urls=_IN_TIMM, hub="timm/resnest101e.in1k"),
    WeightRecord("resnest200", "75117900", crop=320, top1=83.84, other_urls=_IN_TIMM, hub="timm/resnest200e.in1k"),
    WeightRecord("resnest269", "0cc87c48", crop=416, top1=84.54, other_urls=_IN_TIMM, hub="timm/resnest269e.in1k"),
    WeightRecord("resnest50_fast_1s1x64d", "d8fbf808", crop=224, top1=80.33),
    WeightRecord("resnest50_fast_2s1x64d", "44938639", crop=224, top1=80.53),
    WeightRecord("resnest50_fast_4s1x64d", "f74f3fc3", crop=224, top1=80.76),
    WeightRecord("resnest50_fast_1s2x40d", "32830b84", crop=224, top1=80.59),
    WeightRecord("resnest50_fast_2s2x40d", "9d126481", crop=224, top1=80.61),
    WeightRecord("resnest50_fast_4s2x40d", "41d14ed0", crop=224, top1=81.14, other_urls=_IN_TIMM,
                 hub="timm/resnest50d_4s2x40d.in1k"),
    WeightRecord("resnest50_fast_1s4x24d", "d4a4f76f", crop=224, top1=80.99, other_urls=_IN_TIMM,
                 hub="timm/resnest50d_1s4x24d.in1k"),
    # The authors published these for MXNet only; timm converted them.
    WeightRecord("resnest14", "9c8fe254", crop=224, top1=75.51, base_url=f"{_TIMM}/v0.1-weights", source=_TIMM_SOURCE,
                 hub="timm/resnest14d.gluon_in1k", file_stem="gluon_resnest14"),
    WeightRecord("resnest26", "50eb607c", crop=224, top1=78.48, base_url=f"{_TIMM}/v0.1-weights", source=_TIMM_SOURCE,
                 hub="timm/resnest26d.gluon_in1k", file_stem="gluon_resnest26"),
)  # fmt: skip

WEIGHTS: dict[str, WeightRecord] = {record.name: record for record in _IMAGENET}


@dataclass(frozen=True)
class PixelNormalization:
    """How images become a network's input: ``(image - mean) / std``, images in [0, 255]."""

    mean: tuple[float, float, float]  # of each channel, in ``channel_order``
    std: tuple[float, float, float]
    channel_order: str
    source: str  # where these facts were published


# What the published detectors were trained with: up to half a gray level off the mean of their ImageNet weights, so a
# published detector needs just these numbers. YAML configs repeat them, since YAML cannot import; a test compares.
DETECTOR_PIXELS = PixelNormalization(
    mean=(123.68, 116.779, 103.939),
    std=(58.393, 57.12, 57.375),
    channel_order="RGB",
    source="github.com/zhanghang1989/ResNeSt d2/configs",
)


@dataclass(frozen=True)
class PublishedFile:
    """A trained detector or segmentor that was published.

    Attributes:
        name: file name; "" where the source gives none.
        hash_prefix: hexadecimal digits that the hash of the whole file begins with; "" where none was published.
        hash_kinds: algorithms that the prefix may be of. The source of the authors' detectors does not say which it is.
        server: folder it is, or was, in.
        server_answers: whether anything can still be fetched from there; then the prefix is of the sha256.
        license: licence of the file.
        hub: as in ``WeightRecord``.
    """

    name: str
    hash_prefix: str
    hash_kinds: tuple[str, ...]
    server: str
    server_answers: bool = False
    license: str = "Apache-2.0"
    hub: str = ""

    @property
    def filename(self) -> str:
        """Name of the published file."""
        return self.name

    @property
    def sha256_prefix(self) -> str:
        """First hexadecimal digits of the sha256 of a file that can be fetched."""
        return self.hash_prefix

    @property
    def url(self) -> str:
        """Where the file is fetched from."""
        return self.urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the file is fetched from, as in ``WeightRecord``."""
        return _urls(self.name, self.server)

    def check(self, file: Path | str) -> str:
        """Return the algorithm by which a file is the published one; "" where no hash was published.

        Raises:
            CheckpointError: it is another file, or not whole; the message names it, and what its hash should begin
                with.
        """
        if not self.hash_prefix:
            return ""
        found = digests(file, self.hash_kinds)
        for kind, digest in found.items():
            if digest.startswith(self.hash_prefix):
                return kind
        got = " and ".join(f"{kind} {digest[:8]}..." for kind, digest in found.items())
        raise CheckpointError(
            f"{file} is not the published {self.name or 'file'}: its {' or '.join(self.hash_kinds)} must begin with "
            f"{self.hash_prefix}, got {got}"
        )


def _detector(name: str) -> PublishedFile:
    digits = re.search(r"-([0-9a-f]{8})\.pth$", name)
    return PublishedFile(name, digits[1] if digits else "", ("sha256", "sha1"), f"{_BUCKET}/resnest/detectron")


def _segmentor(sha1: str) -> PublishedFile:
    # The toolkit's own list of files has two of these, as {deeplab_resnest50_ade}-{sha1}.pth; the others are not named.
    return PublishedFile("", sha1, ("sha1",), f"{_BUCKET}/encoding/models")


def _openmmlab(project: str, name: str) -> PublishedFile:
    folder = quote(re.sub(r"_\d{8}_\d{6}-[0-9a-f]{8}\.pth$", "", name))
    server = f"{_OPENMMLAB}/{project}/resnest/{folder}"
    return PublishedFile(name, name[-12:-4], ("sha256",), server, server_answers=True)


_mmdet, _mmseg = partial(_openmmlab, "mmdetection/v2.0"), partial(_openmmlab, "mmsegmentation/v0.5")

PUBLISHED: Mapping[str, PublishedFile] = MappingProxyType({  # by the name of the recipe (``model_zoo.RECIPES``)
    "faster_rcnn_resnet50_fpn_1x": _detector("faster_rcnn_R_50_FPN_syncbn_range-scale_1x-fde56e2b.pth"),
    "faster_rcnn_resnet101_fpn_1x": _detector("faster_rcnn_R_101_FPN_syncbn_range-scale_1x-57c73356.pth"),
    "faster_rcnn_resnest50_fpn_1x": _detector("faster_rcnn_ResNeSt_50_FPN_syncbn_range-scale_1x-ad123c0b.pth"),
    "faster_rcnn_resnest50_dcnv2_fpn_1x": _detector("faster_rcnn_ResNeSt_50_FPN_dcn_syncbn_range-scale_1x.pth"),
    "faster_rcnn_resnest101_fpn_1x": _detector("faster_rcnn_ResNeSt_101_FPN_syncbn_range-scale_1x-d8f284b6.pth"),
    "cascade_rcnn_resnet50_fpn_1x": _detector("faster_cascade_rcnn_R_50_FPN_syncbn_range-scale_1x-3c7f2ef2.pth"),
    "cascade_rcnn_resnet101_fpn_1x": _detector("faster_cascade_rcnn_R_101_FPN_syncbn_range-scale_1x-4073359b.pth"),
    "cascade_rcnn_resnest50_fpn_1x":
        _detector("faster_cascade_rcnn_ResNeSt_50_FPN_syncbn_range-scale-1x-e9955232.pth"),
    "cascade_rcnn_resnest101_fpn_1x":
        _detector("faster_cascade_rcnn_ResNeSt_101_FPN_syncbn_range-scale_1x-3627ef78.pth"),
    "cascade_rcnn_resnest200_fpn_1x":
        _detector("faster_cascade_rcnn_ResNeSt_200_FPN_syncbn_range-scale_1x-1be2a87e.pth"),
    "mask_rcnn_resnet50_fpn_1x": _detector("mask_rcnn_R_50_FPN_syncbn_1x-4939bd58.pth"),
    "mask_rcnn_resnet101_fpn_1x": _detector("mask_rcnn_R_101_FPN_syncbn_1x-55493cc2.pth"),
    "mask_rcnn_resnest50_fpn_1x": _detector("mask_rcnn_ResNeSt_50_FPN_syncBN_1x-f442d863.pth"),
    "mask_rcnn_resnest101_fpn_1x": _detector("mask_rcnn_ResNeSt_101_FPN_syncBN_1x-528502c6.pth"),
    "mask_cascade_rcnn_resnet50_fpn_1x": _detector("mask_cascade_rcnn_R_50_FPN_syncbn_1x-03310c9b.pth"),
    "mask_cascade_rcnn_resnet101_fpn_1x": _detector("mask_cascade_rcnn_R_101_FPN_syncbn_1x-8cec1631.pth"),
    "mask_cascade_rcnn_resnest50_fpn_1x": _detector("mask_cascade_rcnn_ResNeSt_50_FPN_syncBN_1x-c58bd325.pth"),
    "mask_cascade_rcnn_resnest101_fpn_1x": _detector("mask_cascade_rcnn_ResNeSt_101_FPN_syncBN_1x-62448b9c.pth"),
    "mask_cascade_rcnn_resnest200_fpn_3x_all_tricks":
        _detector("mask_cascade_rcnn_ResNeSt_200_FPN_syncBN_all_tricks_3x.pth"),
    "mask_cascade_rcnn_resnest200_dcnv2_fpn_3x_all_tricks":
        _detector("mask_cascade_rcnn_ResNeSt_200_FPN_dcn_syncBN_all_tricks_3x-e1901134.pth"),
    "panoptic_fpn_resnest200_3x_tricks": _detector("panoptic_ResNeSt_200_FPN_syncBN_tricks_3x-43f8b731.pth"),
    "fcn_resnest50-d8_4xb4-paper_ade20k-480x480": _segmentor("4aba491a"),
    "deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480": _segmentor("2225f09d"),
    "deeplabv3_resnest101-d8_4xb4-paper_ade20k-480x480": _segmentor("06ca799c"),
    "deeplabv3_resnest200-d8_4xb4-paper_ade20k-480x480": _segmentor("7b9e7d3e"),
    "deeplabv3_resnest269-d8_4xb4-paper_ade20k-480x480": _segmentor("0074dd10"),
    "fcn_resnest50-d8_4xb4-paper_pascal_context_59-480x480": _segmentor("77a2161d"),
    "deeplabv3_resnest50-d8_4xb4-paper_pascal_context_59-480x480": _segmentor("08dccbc4"),
    "deeplabv3_resnest101-d8_4xb4-paper_pascal_context_59-480x480": _segmentor("faf58418"),
    "deeplabv3_resnest200-d8_4xb4-paper_pascal_context_59-480x480": _segmentor("fe76a265"),
    "deeplabv3_resnest269-d8_4xb4-paper_pascal_context_59-480x480": _segmentor("b661fd26"),
    "faster_rcnn_resnest50_fpn_1x_mmdet":
        _mmdet("faster_rcnn_s50_fpn_syncbn-backbone+head_mstrain-range_1x_coco_20200926_125502-20289c16.pth"),
    "faster_rcnn_resnest101_fpn_1x_mmdet":
        _mmdet("faster_rcnn_s101_fpn_syncbn-backbone+head_mstrain-range_1x_coco_20201006_021058-421517f1.pth"),
    "mask_rcnn_resnest50_fpn_1x_mmdet":
        _mmdet("mask_rcnn_s50_fpn_syncbn-backbone+head_mstrain_1x_coco_20200926_125503-8a2c3d47.pth"),
    "mask_rcnn_resnest101_fpn_1x_mmdet":
        _mmdet("mask_rcnn_s101_fpn_syncbn-backbone+head_mstrain_1x_coco_20201005_215831-af60cdf9.pth"),
    "cascade_rcnn_resnest50_fpn_1x_mmdet":
        _mmdet("cascade_rcnn_s50_fpn_syncbn-backbone+head_mstrain-range_1x_coco_20201122_213640-763cc7b5.pth"),
    "cascade_rcnn_resnest101_fpn_1x_mmdet":
        _mmdet("cascade_rcnn_s101_fpn_syncbn-backbone+head_mstrain-range_1x_coco_20201005_113242-b9459f8f.pth"),
    "mask_cascade_rcnn_resnest50_fpn_1x_mmdet":
        _mmdet("cascade_mask_rcnn_s50_fpn_syncbn-backbone+head_mstrain_1x_coco_20201122_104428-99eca4c7.pth"),
    "mask_cascade_rcnn_resnest101_fpn_1x_mmdet":
        _mmdet("cascade_mask_rcnn_s101_fpn_syncbn-backbone+head_mstrain_1x_coco_20201005_113243-42607475.pth"),
    "fcn_resnest101-d8_4xb4-160k_ade20k-512x512":
        _mmseg("fcn_s101-d8_512x512_160k_ade20k_20200807_145416-d3160329.pth"),
    "pspnet_resnest101-d8_4xb4-160k_ade20k-512x512":
        _mmseg("pspnet_s101-d8_512x512_160k_ade20k_20200807_145416-a6daa92a.pth"),
    "deeplabv3_resnest101-d8_4xb4-160k_ade20k-512x512":
        _mmseg("deeplabv3_s101-d8_512x512_160k_ade20k_20200807_144503-17ecabe5.pth"),
    "deeplabv3plus_resnest101-d8_4xb4-160k_ade20k-512x512":
        _mmseg("deeplabv3plus_s101-d8_512x512_160k_ade20k_20200807_144503-27b26226.pth"),
    "fcn_resnest101-d8_4xb2-80k_cityscapes-512x1024":
        _mmseg("fcn_s101-d8_512x1024_80k_cityscapes_20200807_140631-f8d155b3.pth"),
    "pspnet_resnest101-d8_4xb2-80k_cityscapes-512x1024":
        _mmseg("pspnet_s101-d8_512x1024_80k_cityscapes_20200807_140631-c75f3b99.pth"),
    "deeplabv3_resnest101-d8_4xb2-80k_cityscapes-512x1024":
        _mmseg("deeplabv3_s101-d8_512x1024_80k_cityscapes_20200807_144429-b73c4270.pth"),
    "deeplabv3plus_resnest101-d8_4xb2-80k_cityscapes-512x1024":
        _mmseg("deeplabv3plus_s101-d8_512x1024_80k_cityscapes_20200807_144429-1239eb43.pth"),
})  # fmt: skip


Record = WeightRecord | PublishedFile


def digests(file: Path | str, kinds: tuple[str, ...]) -> dict[str, str]:
    """Compute the hexadecimal digests of a file by several algorithms in one pass."""
    computed = {kind: hashlib.new(kind) for kind in kinds}
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            for digest in computed.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in computed.items()}


def find_published(file_name: str) -> PublishedFile | None:
    """Return the trained model whose name a file has; None for all other names.

    All sources named theirs ``NAME-HASH.pth``, after the first eight digits of the hash; that ending decides, as the
    names of some are not known.
    """
    files = (file for file in PUBLISHED.values() if file.hash_prefix)
    return next((file for file in files if file_name.endswith(f"-{file.hash_prefix}.pth")), None)


def get_record(name: str) -> Record:
    """Return the record of published weights, by ``NAME`` or ``resnest://NAME``: a network's, or a trained recipe's.

    Examples:
        >>> get_record("resnest://resnest50").filename
        'resnest50-528c19ca.pth'

    Raises:
        ConfigError: no weights were published under that name, or their server no longer answers.
    """
    short = name.removeprefix(SCHEME)
    if record := WEIGHTS.get(short):
        return record
    trained = PUBLISHED.get(short)
    if trained is None:
        known = f"{', '.join(WEIGHTS)}, and the trained models printed by `resnest-backbones list --trained`"
        living = [recipe for recipe, file in PUBLISHED.items() if file.server_answers]
        hint = did_you_mean(short, [*WEIGHTS, *living], f"available: {known}")
        raise ConfigError(f"no published weights are known for {name!r}; {hint}")
    if not trained.server_answers:
        file = trained.name or f"a file whose {trained.hash_kinds[0]} begins with {trained.hash_prefix}"
        raise ConfigError(
            f"the published file of {short} cannot be downloaded, because {trained.server} is offline; if you have a "
            f"copy ({file}), pass its path"
        )
    return trained
