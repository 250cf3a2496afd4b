"""One record per published ImageNet weight file, and the resolver of ``resnest://NAME`` that all plugins share.

The records are facts of github.com/zhanghang1989/ResNeSt (README.md, ablation.md); the eight hexadecimal digits in a
file's name begin the sha256 of the whole file.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

import torch
from filelock import FileLock

from resnest_backbones.download import ContentError, download
from resnest_backbones.errors import WeightsError

logger = logging.getLogger(__name__)

SCHEME = "resnest://"
MIRROR_VARIABLE = "RESNEST_BACKBONES_MIRROR"
_RELEASE = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1"
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


_ROWS = (
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

WEIGHTS: dict[str, WeightRecord] = {row.name: row for row in _ROWS}


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
# published detector needs just these numbers. The YAML configs repeat them, since YAML cannot import; a test holds them
# to this record.
DETECTOR_PIXELS = PixelNormalization(
    mean=(123.68, 116.779, 103.939),
    std=(58.393, 57.12, 57.375),
    channel_order="RGB",
    source="github.com/zhanghang1989/ResNeSt d2/configs",
)


def get_record(name: str) -> WeightRecord:
    """The record of a published weight file, by ``NAME`` or ``resnest://NAME``.

    Examples:
        >>> get_record("resnest://resnest50").filename
        'resnest50-528c19ca.pth'

    Raises:
        ValueError: no weights were published under that name.
    """
    short = name.removeprefix(SCHEME)
    if short not in WEIGHTS:
        raise ValueError(f"no published weights are known for {name!r}; there are some for {', '.join(WEIGHTS)}")
    return WEIGHTS[short]


def default_cache_dir() -> Path:
    """PyTorch Hub's checkpoint folder, which the original and timm use too (``TORCH_HOME`` moves it)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def has_sha256_prefix(file: Path, prefix: str) -> bool:
    """Whether the sha256 of the whole file begins with ``prefix``."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest().startswith(prefix.lower())


def fetch(record: WeightRecord, *, cache_dir: Path | str | None = None, progress: bool = True) -> Path:
    """The path of a published weight file in the cache, downloaded where it is not there yet, and verified.

    A download goes to a temporary name and is renamed after its hash was checked; several processes wait for one of
    them to fetch it. A cached file is checked as well, and fetched anew when it is not whole.

    Raises:
        WeightsError: the server does not answer, or what it sent is not the published file; the message names the url.
    """
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    file = folder / record.filename
    if file.exists() and has_sha256_prefix(file, record.sha256_prefix):
        return file  # before locking: a shared cache may be read-only
    with _alone(file):
        if file.exists():
            if has_sha256_prefix(file, record.sha256_prefix):
                return file
            logger.warning("%s is not the published file (its sha256 does not begin with %s): fetching it anew", file,
                           record.sha256_prefix)  # fmt: skip
        logger.info("Downloading %s to %s", record.url, file)
        _download(record, file, progress)
    return file


def fetch_url(url: str, *, cache_dir: Path | str | None = None, progress: bool = True) -> Path:
    """The path of a file of another project in the cache, downloaded where it is not there yet; it is not verified.

    Raises:
        WeightsError: the url names no file, or its server does not answer; the message names it.
    """
    name = Path(urlparse(url).path).name
    if not name:
        raise WeightsError(f"{url} names no file")
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    file = folder / name
    if not file.exists():
        with _alone(file):
            if not file.exists():
                logger.info("Downloading %s to %s", url, file)
                _download_to(url, file, None, progress, f"Put the file at {file} yourself")
    return file


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Let one process at a time fetch a file; its folder is made where it is not there."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{file}.lock")
        lock.acquire()
    except OSError as error:
        raise WeightsError(
            f"{file} is not there, and the folder cannot be written to fetch it: {error.strerror or error}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _download(record: WeightRecord, file: Path, progress: bool) -> None:
    hint = (
        f"Put the file at {file} yourself, or name a mirror of the folder in the environment variable {MIRROR_VARIABLE}"
    )
    _download_to(record.url, file, record.sha256_prefix, progress, hint)


def _download_to(url: str, file: Path, sha256_prefix: str | None, progress: bool, hint: str) -> None:
    try:
        download(url, file, sha256_prefix=sha256_prefix, progress=progress)
    except ContentError as error:
        raise WeightsError(f"{url} sent something else than the file: {error}. Nothing was kept. {hint}") from error
    except HTTPError as error:
        raise WeightsError(f"{url} answered {error.code} {error.reason}. {hint}") from error
    except TimeoutError as error:
        raise WeightsError(f"{url} stopped answering: nothing came for a while. Nothing was kept. {hint}") from error
    except (URLError, OSError, HTTPException, ValueError) as error:  # ValueError: a mirror that is no url
        raise WeightsError(f"{url} could not be downloaded: {error!r}. Nothing was kept. {hint}") from error
