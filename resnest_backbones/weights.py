"""One record per published file, and the resolver of ``resnest://NAME`` that all plugins share.

The ImageNet records are facts of github.com/zhanghang1989/ResNeSt (README.md, ablation.md); the eight hexadecimal
digits in a file's name begin the sha256 of the whole file. The trained detectors and segmentors are no longer on their
server: their records tell whether a copy is the published file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from tqdm import tqdm

from resnest_backbones.errors import CheckpointError, WeightsError

logger = logging.getLogger(__name__)

SCHEME = "resnest://"
MIRROR_VARIABLE = "RESNEST_BACKBONES_MIRROR"
TIMEOUT = 60.0  # seconds to connect, and then without a byte
_RELEASE = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1"
_BUCKET = "https://s3.us-west-1.wasabisys.com"
_BLOCK = 1 << 20


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

    @property
    def filename(self) -> str:
        """Name of the published file."""
        return f"{self.name}-{self.sha256_prefix}.pth"

    @property
    def url(self) -> str:
        """Where the file is fetched from: its publisher, or the mirror in ``RESNEST_BACKBONES_MIRROR``."""
        return f"{(os.environ.get(MIRROR_VARIABLE) or self.base_url).rstrip('/')}/{self.filename}"


_IMAGENET = (
    WeightRecord("resnest50", "528c19ca", crop=224, top1=81.03),
    WeightRecord("resnest101", "22405ba7", crop=256, top1=82.83),
    WeightRecord("resnest200", "75117900", crop=320, top1=83.84),
    WeightRecord("resnest269", "0cc87c48", crop=416, top1=84.54),
    WeightRecord("resnest50_fast_1s1x64d", "d8fbf808", crop=224, top1=80.33),
    WeightRecord("resnest50_fast_2s1x64d", "44938639", crop=224, top1=80.53),
    WeightRecord("resnest50_fast_4s1x64d", "f74f3fc3", crop=224, top1=80.76),
    WeightRecord("resnest50_fast_1s2x40d", "32830b84", crop=224, top1=80.59),
    WeightRecord("resnest50_fast_2s2x40d", "9d126481", crop=224, top1=80.61),
    WeightRecord("resnest50_fast_4s2x40d", "41d14ed0", crop=224, top1=81.14),
    WeightRecord("resnest50_fast_1s4x24d", "d4a4f76f", crop=224, top1=80.99),
)

WEIGHTS: dict[str, WeightRecord] = {record.name: record for record in _IMAGENET}


@dataclass(frozen=True)
class PixelNormalization:
    """How images become a network's input: ``(image - mean) / std``, images in [0, 255].

    Attributes:
        mean: of each channel, in ``channel_order``.
        std: standard deviation of each channel, likewise.
        channel_order: order of the image's channels.
        source: where these facts were published.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: str
    source: str


# What the published detectors were trained with: up to half a grey level off the mean of their ImageNet weights, so a
# published detector needs just these numbers. YAML configs repeat them, since YAML cannot import; a test compares.
DETECTOR_PIXELS = PixelNormalization(
    mean=(123.68, 116.779, 103.939),
    std=(58.393, 57.12, 57.375),
    channel_order="RGB",
    source="github.com/zhanghang1989/ResNeSt d2/configs",
)


@dataclass(frozen=True)
class PublishedFile:
    """A trained detector or segmentor that the authors published.

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
        """Return the algorithm by which a file is the published one; "" where no hash was published.

        Raises:
            CheckpointError: it is another file, or not whole; the message names it, and what its hash should begin
                with.
        """
        if not self.hash_prefix:
            return ""
        digests = _digests(file, self.hash_kinds)
        for kind, digest in digests.items():
            if digest.startswith(self.hash_prefix):
                return kind
        found = " and ".join(f"{kind} {digest[:8]}..." for kind, digest in digests.items())
        raise CheckpointError(
            f"{file} is not the published {self.name or 'file'}: its {' or '.join(self.hash_kinds)} must begin with "
            f"{self.hash_prefix}, got {found}"
        )


def _detector(name: str) -> PublishedFile:
    digits = re.search(r"-([0-9a-f]{8})\.pth$", name)
    return PublishedFile(name, digits[1] if digits else "", ("sha256", "sha1"), f"{_BUCKET}/resnest/detectron")


def _segmentor(sha1: str) -> PublishedFile:
    # The toolkit's own list of files has two of these, as {deeplab_resnest50_ade}-{sha1}.pth; the others are not named.
    return PublishedFile("", sha1, ("sha1",), f"{_BUCKET}/encoding/models")


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
})  # fmt: skip


def find_published(file_name: str) -> PublishedFile | None:
    """Return the trained model whose name a file has; None for all other names.

    Both sources named theirs ``NAME-HASH.pth``, after the first eight digits of the hash; that ending decides, as the
    names of some are not known.
    """
    files = (file for file in PUBLISHED.values() if file.hash_prefix)
    return next((file for file in files if file_name.endswith(f"-{file.hash_prefix}.pth")), None)


def get_record(name: str) -> WeightRecord:
    """Return the record of published ImageNet weights, by ``NAME`` or ``resnest://NAME``.

    Examples:
        >>> get_record("resnest://resnest50").filename
        'resnest50-528c19ca.pth'

    Raises:
        ValueError: no weights were published under that name.
    """
    short = name.removeprefix(SCHEME)
    if short not in WEIGHTS:
        raise ValueError(f"no published weights are known for {name!r}; available: {', '.join(WEIGHTS)}")
    return WEIGHTS[short]


def default_cache_dir() -> Path:
    """Return PyTorch Hub's checkpoint folder, which the original and timm use too (``TORCH_HOME`` moves it)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(record: WeightRecord, *, cache_dir: Path | str | None = None, progress: bool = True) -> Path:
    """Return the path of a published weight file in the cache; download it if it is missing, and verify it.

    Several processes wait for one of them to fetch it. A cached file is checked as well, and fetched again if it is
    damaged.

    Raises:
        WeightsError: the server does not answer, or what it sent is not the published file; the message names the url.
    """
    file = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / record.filename
    if _is_published(file, record):
        return file  # before locking: a shared cache may be read-only
    with _lock(file):
        if _is_published(file, record):
            return file
        if file.exists():
            logger.warning("%s is not the published file (its sha256 does not begin with %s): fetching it again", file,
                           record.sha256_prefix)  # fmt: skip
        remedy = f"Put the file at {file} yourself, or name a mirror of the folder in {MIRROR_VARIABLE}"
        _download(record.url, file, record.sha256_prefix, progress, remedy)
    return file


def fetch_url(url: str, *, cache_dir: Path | str | None = None, progress: bool = True) -> Path:
    """Return the path of a file of another project in the cache; download it if it is missing. It is not verified.

    Raises:
        WeightsError: the url names no file, or its server does not answer; the message names it.
    """
    name = Path(urlparse(url).path).name
    if not name:
        raise WeightsError(f"{url} names no file")
    file = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / name
    if not file.exists():
        with _lock(file):
            if not file.exists():
                _download(url, file, "", progress, f"Put the file at {file} yourself")
    return file


def _is_published(file: Path, record: WeightRecord) -> bool:
    return file.exists() and _digests(file, ("sha256",))["sha256"].startswith(record.sha256_prefix.lower())


def _digests(file: Path | str, kinds: tuple[str, ...]) -> dict[str, str]:
    """Compute the hexadecimal digests of a file by several algorithms in one pass."""
    digests = {kind: hashlib.new(kind) for kind in kinds}
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            for digest in digests.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Let one process at a time fetch a file; create its folder."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{file}.lock")
        lock.acquire()
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"{file} does not exist, and its folder cannot be written to fetch it: {reason}") from error
    try:
        yield
    finally:
        lock.release()


def _download(url: str, file: Path, sha256_prefix: str, progress: bool, remedy: str) -> None:
    """Download to a temporary name beside ``file``, and rename it when it is whole and its hash is right."""
    # torch.hub.download_url_to_file waits forever for a silent server, and keeps what came before a connection broke.
    logger.info("Downloading %s to %s", url, file)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.partial")
    remedy = f"Nothing was kept. {remedy}"
    try:
        request = Request(url, headers={"User-Agent": "resnest_backbones"})
        with open(temporary, "wb") as stream, urlopen(request, timeout=TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise WeightsError(f"{url} sent a web page instead of the file. {remedy}")
            digest = _copy(response, stream, file.name, progress)
            stream.flush()
            os.fsync(stream.fileno())
        if not digest.startswith(sha256_prefix.lower()):
            wrong = f"its sha256 begins with {digest[:8]} instead of {sha256_prefix}"
            raise WeightsError(f"{url} sent another file: {wrong}. {remedy}")
        os.replace(temporary, file)
    except HTTPError as error:
        raise WeightsError(f"{url} answered {error.code} {error.reason}. {remedy}") from error
    except TimeoutError as error:
        raise WeightsError(f"{url} stopped answering for {TIMEOUT:g} s. {remedy}") from error
    except (URLError, OSError, HTTPException, ValueError) as error:  # ValueError: a mirror that is not a url
        raise WeightsError(f"{url} could not be downloaded: {error!r}. {remedy}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _copy(response: Any, stream: Any, name: str, progress: bool) -> str:
    """Copy all that was announced; return its sha256."""
    announced = response.headers.get("Content-Length")
    total = int(announced) if announced is not None else None
    digest, received = hashlib.sha256(), 0
    with tqdm(total=total, desc=name, disable=not progress, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        while block := response.read(_BLOCK >> 3):
            stream.write(block)
            digest.update(block)
            received += len(block)
            bar.update(len(block))
    # Python's own client is silent about a connection that ended early.
    if total is not None and received < total:
        raise IncompleteRead(b"", total - received)
    return digest.hexdigest()
