"""Published files in the cache: downloaded once, whole, verified, by one process at a time."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from tqdm import tqdm

from resnest_backbones.errors import WeightsError

if TYPE_CHECKING:
    from resnest_backbones.weights.records import WeightRecord

logger = logging.getLogger(__name__)

MIRROR_VARIABLE = "RESNEST_BACKBONES_MIRROR"
TIMEOUT = 60.0  # seconds to connect, and then without a byte
_BLOCK = 1 << 20


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
    return file.exists() and digests(file, ("sha256",))["sha256"].startswith(record.sha256_prefix.lower())


def digests(file: Path | str, kinds: tuple[str, ...]) -> dict[str, str]:
    """Compute the hexadecimal digests of a file by several algorithms in one pass."""
    computed = {kind: hashlib.new(kind) for kind in kinds}
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            for digest in computed.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in computed.items()}


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
