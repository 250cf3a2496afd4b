"""Published files in the cache: downloaded once, whole, verified, by one process at a time."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException, IncompleteRead
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

from resnest_backbones.errors import WeightsError
from resnest_backbones.weights.records import MIRROR_VARIABLE, Record, digests

logger = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds to connect, and then without a byte
_HUB, _HUB_FILE = "https://huggingface.co", "model.safetensors"


def default_cache_dir() -> Path:
    """Return PyTorch Hub's checkpoint folder, which the original and timm use too (``TORCH_HOME`` moves it)."""
    from torch.hub import get_dir  # not at the top: a command line shows its help before PyTorch is imported

    return Path(get_dir()) / "checkpoints"


def fetch(record: Record, *, cache_dir: Path | str | None = None, progress: bool = True) -> Path:
    """Return the path of a published file in the cache; download it if it is missing, and verify it.

    Where a place answers with an error or another file, or not at all, a warning says so and the next one is tried; the
    last is the Hugging Face hub, with its own cache, for records that name a repository there and where
    ``huggingface_hub`` is installed. Several processes wait for one of them to fetch a file. A cached file is checked
    as well, and fetched again if it is damaged.

    Args:
        record: as ``get_record`` returns it.
        cache_dir: folder of the file; PyTorch Hub's, and the hub's own, if None.
        progress: show a bar.

    Raises:
        WeightsError: no server has it; the message names the urls, and what each of them answered.
    """
    file = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / record.filename
    if _is_published(file, record):
        return file  # before locking: a shared cache may be read-only
    has_hub = bool(record.hub) and not os.environ.get(MIRROR_VARIABLE)  # a mirror replaces all other places
    from_hub = partial(_fetch_from_hub, record.hub, cache_dir, progress=progress)
    use_hub = has_hub and all(map(find_spec, ("huggingface_hub", "safetensors")))
    if use_hub:
        with suppress(WeightsError):
            return from_hub(cached_only=True)
    with _lock(file):
        if _is_published(file, record):
            return file
        if file.exists():
            logger.warning("%s is not the published file (its sha256 does not begin with %s): downloading it "
                           "again", file,
                           record.sha256_prefix)  # fmt: skip
        places: dict[str, Callable[[], Path]] = {
            url: partial(_download, url, file, record.sha256_prefix, progress) for url in record.urls
        }
        places |= {f"{_HUB}/{record.hub}": from_hub} if use_hub else {}
        remedy = f"Put the file at {file} yourself, or set {MIRROR_VARIABLE} to a mirror of the folder"
        remedy += f"; with the extra 'hub' installed, it can come from {_HUB}/{record.hub}" * (has_hub and not use_hub)
        return _from_first(places, remedy)


def _from_first(places: Mapping[str, Callable[[], Path]], remedy: str) -> Path:
    """Return the file of the first place that has it."""
    names, errors = [*places], []
    for number, get in enumerate(places.values(), start=1):
        try:
            return get()
        except WeightsError as error:
            errors.append(error)
            if number < len(names):
                logger.warning("%s; trying %s", error, names[number])
    raise WeightsError(f"{'; '.join(map(str, errors))}. Nothing was kept. {remedy}") from errors[-1]


def _fetch_from_hub(
    repository: str, cache_dir: Path | str | None, *, progress: bool, cached_only: bool = False
) -> Path:
    """Return the weights in a repository of the Hugging Face hub, by its client, which keeps and resumes them.

    Their sha256 must be the one that the hub names its content after; no other one was published.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url

    bar = None if progress else _NoBar
    for again in (False,) if cached_only else (False, True):
        try:
            if not cached_only:  # without an answer, the hub's client would ask again for half a minute
                urlopen(Request(hf_hub_url(repository, _HUB_FILE), method="HEAD"), timeout=TIMEOUT).close()
            file = hf_hub_download(
                repository, _HUB_FILE, cache_dir=cache_dir, tqdm_class=bar, local_files_only=cached_only,
                force_download=again,
            )  # fmt: skip
        except Exception as error:  # of several libraries
            reason = str(error).split("\n")[0].rstrip(".")
            raise WeightsError(f"{_HUB}/{repository} could not be downloaded: {reason}") from error
        name = Path(file).resolve().name
        if not re.fullmatch("[0-9a-f]{64}", name) or digests(file, ("sha256",))["sha256"] == name:
            return Path(file)
    raise WeightsError(f"{file} of {_HUB}/{repository} is damaged: its sha256 is not {name}")


class _NoBar(tqdm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def fetch_url(url: str, *, cache_dir: Path | str | None = None, progress: bool = True) -> Path:
    """Return the path of a file of another project in the cache; download it if it is missing. It is not verified.

    Raises:
        WeightsError: the url names no file, or its server does not answer; the message names it.
    """
    name = Path(urlparse(url).path).name
    if not name:
        raise WeightsError(f"{url} does not name a file")
    file = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / name
    if not file.exists():
        with _lock(file):
            if not file.exists():
                _from_first({url: partial(_download, url, file, "", progress)}, f"Put the file at {file} yourself")
    return file


def _is_published(file: Path, record: Record) -> bool:
    return file.exists() and digests(file, ("sha256",))["sha256"].startswith(record.sha256_prefix.lower())


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Let one process at a time fetch a file; create its folder."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{file}.lock")
        lock.acquire()
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"{file} does not exist, and its folder is not writable for a download: {reason}") from error
    try:
        yield
    finally:
        lock.release()


def _download(url: str, file: Path, sha256_prefix: str, progress: bool) -> Path:
    """Download to a temporary name beside ``file``, and rename it when it is whole and its hash is right."""
    # torch.hub.download_url_to_file waits forever for a silent server, and keeps what came before a connection broke.
    logger.info("Downloading %s to %s", url, file)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        request = Request(url, headers={"User-Agent": "resnest_backbones"})
        with open(temporary, "wb") as stream, urlopen(request, timeout=TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise WeightsError(f"{url} sent a web page instead of the file")
            total = int(response.headers.get("Content-Length") or 0)
            with tqdm.wrapattr(stream, "write", total=total or None, desc=file.name, disable=not progress) as shown:
                shutil.copyfileobj(response, shown, 1 << 17)
            stream.flush()
            os.fsync(stream.fileno())
            if stream.tell() < total:  # Python's own client is silent about a connection that ended early
                raise IncompleteRead(b"", total - stream.tell())
        digest = digests(temporary, ("sha256",))["sha256"]
        if not digest.startswith(sha256_prefix.lower()):
            wrong = f"its sha256 begins with {digest[:8]} instead of {sha256_prefix}"
            raise WeightsError(f"{url} sent a different file: {wrong}")
        os.replace(temporary, file)
    except HTTPError as error:
        raise WeightsError(f"{url} answered {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise WeightsError(f"{url} did not respond for {TIMEOUT:g} s") from error
    except (URLError, OSError, HTTPException, ValueError) as error:  # ValueError: a mirror that is not a url
        raise WeightsError(f"{url} could not be downloaded: {error!r}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return file
