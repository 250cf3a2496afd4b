"""Downloading a file such that it is there whole or not at all, and that a server that falls silent ends it."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tqdm import tqdm

TIMEOUT = 60.0  # seconds without a byte, or until a connection stands
_BLOCK = 1 << 17


class ContentError(RuntimeError):
    """What came is not the file: it has another sha256, or is a web page."""


def download(
    url: str, file: Path, *, sha256_prefix: str | None = None, progress: bool = True, timeout: float | None = None
) -> None:
    """Download to a temporary name beside ``file``, and rename what is whole.

    ``torch.hub.download_url_to_file`` waits for ever for a server that stops sending, and takes what came before a
    connection broke for the file; hence not that one.

    Args:
        url: where from.
        file: final name.
        sha256_prefix: how the sha256 of the whole file must begin, in hexadecimal digits; not checked where None.
        progress: show a bar on stderr.
        timeout: seconds to wait for the connection, and then for each piece; ``TIMEOUT`` where None.

    Raises:
        ContentError: the sha256 is another, or a web page came, as of a login or an error.
        OSError: no connection, an answer of an error, fewer bytes than announced, silence (``TimeoutError``), or the
            file cannot be written. ``http.client.HTTPException`` where the server speaks no HTTP, ``ValueError`` where
            ``url`` is none.
    """
    request = Request(url, headers={"User-Agent": "resnest_backbones"})
    temporary = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as stream, urlopen(request, timeout=timeout or TIMEOUT) as answer:
            digest = _copy(answer, stream, file.name, progress)
            stream.flush()
            os.fsync(stream.fileno())
        if sha256_prefix is not None and not digest.startswith(sha256_prefix.lower()):
            raise ContentError(f"its sha256 does not begin with {sha256_prefix} but with {digest[:8]}")
        os.replace(temporary, file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _copy(answer: Any, stream: Any, name: str, progress: bool) -> str:
    """Copy all that was announced; the sha256 of it."""
    if answer.headers.get_content_type() == "text/html" and "Content-Type" in answer.headers:
        raise ContentError("it is a web page")
    announced = answer.headers.get("Content-Length")
    total = int(announced) if announced is not None else None
    digest, received = hashlib.sha256(), 0
    with tqdm(total=total, desc=name, disable=not progress, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        while block := answer.read(_BLOCK):
            stream.write(block)
            digest.update(block)
            received += len(block)
            bar.update(len(block))
    # Python's own client is silent about a connection that ended early.
    if total is not None and received < total:
        raise IncompleteRead(b"", total - received)
    return digest.hexdigest()
