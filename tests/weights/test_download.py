"""Fetching published files from a server on the loopback interface."""

import hashlib
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_backbones.errors import WeightsError
from resnest_backbones.weights import MIRROR_VARIABLE, WeightRecord, download, fetch, fetch_url, get_record
from tests.helpers import ROOT, FileServer, read_only, serving, small_disk

CONTENT = bytes(range(256)) * 10_000  # more than one block of reading
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_mirror_and_no_proxy(monkeypatch):
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def record_at(url: str) -> WeightRecord:
    return replace(get_record("resnest50"), base_url=url, sha256_prefix=SHA256[:8], other_urls=(), hub="")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fetched(record: WeightRecord, cache: Path) -> bytes:
    return fetch(record, cache_dir=str(cache), progress=False).read_bytes()


def assert_refused(record: WeightRecord, cache: Path, message: str) -> str:
    """The error names the url, and nothing is kept."""
    with pytest.raises(WeightsError, match=message) as error:
        fetch(record, cache_dir=cache, progress=False)
    assert record.url in str(error.value)
    assert names(cache) <= {f"{record.filename}.lock"}
    return str(error.value)


def test_a_file_is_downloaded_whole_and_then_needs_no_server(cache):
    with serving(CONTENT) as server:
        record = record_at(server.url)
        file = fetch(record, cache_dir=cache, progress=False)
    assert file == cache / f"resnest50-{SHA256[:8]}.pth"
    assert file.read_bytes() == fetched(record, cache) == CONTENT
    assert server.requests == [f"/{record.filename}"]
    assert names(cache) <= {file.name, f"{file.name}.lock"}


def test_a_damaged_cached_file_is_fetched_anew(cache, caplog):
    cache.mkdir()
    with serving(CONTENT) as server, caplog.at_level(logging.WARNING):
        record = record_at(server.url)
        (cache / record.filename).write_bytes(CONTENT[:-1])
        assert fetched(record, cache) == CONTENT
    assert len(server.requests) == 1
    assert f"{cache / record.filename} is not the published file" in caplog.text


@pytest.mark.parametrize("behaviour", ["broken off", "wrong content"])
@pytest.mark.fault("a download with a wrong hash", "refused, nothing kept")
def test_what_is_not_the_published_file_is_not_kept(behaviour, cache):
    with serving(CONTENT, behaviour) as server:
        if behaviour == "wrong content":
            server.content = CONTENT + b"!"
        record = record_at(server.url)
        message = assert_refused(record, cache, SHA256[:8])
        assert MIRROR_VARIABLE in message and str(cache / record.filename) in message
        server.behaviour, server.content = "whole", CONTENT
        assert fetched(record, cache) == CONTENT, "the next attempt succeeds"


@pytest.mark.parametrize(
    ("behaviour", "message"), [("missing", "answered 404 Not Found"), ("no http", "BadStatusLine")]
)
def test_a_server_that_has_no_file_is_named(behaviour, message, cache):
    with serving(CONTENT, behaviour) as server:
        assert_refused(record_at(server.url), cache, message)


FETCHERS = {
    "published": lambda url, cache: fetch(record_at(url), cache_dir=cache, progress=False),
    "any url": lambda url, cache: fetch_url(f"{url}/model.pth", cache_dir=cache, progress=False),
}


@pytest.mark.parametrize("fetcher", FETCHERS.values(), ids=FETCHERS)
@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("broken off", "IncompleteRead"),
        ("broken off in chunks", "IncompleteRead"),
        ("falls silent", "did not respond"),
        ("a web page", "sent a web page instead of the file"),
    ],
)
@pytest.mark.fault(
    "a download truncated, stalled, or a web page", "an error names the url, nothing stays, the next attempt succeeds"
)
def test_no_half_of_a_file_is_kept_and_none_is_waited_for_for_ever(behaviour, message, fetcher, cache, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    with serving(CONTENT, behaviour) as server:
        start = time.monotonic()
        with pytest.raises(WeightsError, match=message) as error:
            fetcher(server.url, cache)
        assert time.monotonic() - start < 30
        assert server.url in str(error.value)
        assert not [name for name in names(cache) if not name.endswith(".lock")]
        server.behaviour = "whole"
        assert fetcher(server.url, cache).read_bytes() == CONTENT


@pytest.mark.fault("a server that never answers", "given up after the time-out")
def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        record = record_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert_refused(record, cache, "timed out|did not respond")


@pytest.mark.fault("a full disk in a download", "the reason is said, nothing half-written stays")
def test_a_full_disk_is_named_and_nothing_half_written_stays(cache):
    with serving(CONTENT) as server, small_disk(cache, 256):
        assert_refused(record_at(server.url), cache, "No space left on device")


@pytest.mark.fault("a read-only cache", "named, unless the file is in it")
def test_a_read_only_cache_is_named_unless_the_file_is_in_it(cache):
    with serving(CONTENT) as server:
        record = record_at(server.url)
        cache.mkdir()
        with read_only(cache), pytest.raises(WeightsError, match=r"folder is not writable .*: Read-only file system"):
            fetch(record, cache_dir=cache, progress=False)
        fetch(record, cache_dir=cache, progress=False)
        with read_only(cache):
            assert fetched(record, cache) == CONTENT


@pytest.mark.fault("SIGKILL in a download", "nothing under the final name, the next attempt succeeds")
def test_a_process_killed_in_a_download_leaves_nothing_under_the_final_name(cache, tmp_path):
    with serving(CONTENT, "falls silent") as server:
        process = start_fetching(server, cache, tmp_path / "ready")
        deadline = time.monotonic() + 120
        while not [*cache.glob("*.partial")] and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        process.kill()
        process.communicate()
        assert [*cache.glob("*.partial")] and not [*cache.glob("*.pth")]
        server.behaviour = "whole"
        assert fetched(record_at(server.url), cache) == CONTENT


def test_a_refused_connection_names_the_url_and_the_mirror(cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        record = record_at(f"http://127.0.0.1:{free.getsockname()[1]}")
        assert MIRROR_VARIABLE in assert_refused(record, cache, "Connection refused")


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_mirror_variable_replaces_the_folder(slash, cache, monkeypatch):
    with serving(CONTENT) as server:
        monkeypatch.setenv(MIRROR_VARIABLE, f"{server.url}/files{slash}")
        record = record_at("http://127.0.0.1:1/never-asked")
        assert fetched(record, cache) == CONTENT
    assert server.requests == [f"/files/{record.filename}"]


def test_an_empty_mirror_variable_is_none_and_one_that_is_no_url_is_named(cache, monkeypatch):
    monkeypatch.setenv(MIRROR_VARIABLE, "")
    assert get_record("resnest50").url.startswith("https://github.com/")
    monkeypatch.setenv(MIRROR_VARIABLE, "my-mirror")
    assert_refused(get_record("resnest50"), cache, r"my-mirror/resnest50-.*unknown url type")


@pytest.mark.parametrize("progress", [True, False])
def test_the_progress_bar_is_shown_where_asked_for(progress, cache, capfd):
    with serving(CONTENT) as server:
        fetch(record_at(server.url), cache_dir=cache, progress=progress)
    shown = capfd.readouterr().err
    assert ("100%" in shown) == progress
    assert bool(shown) == progress


PROCESS = """
import sys
from dataclasses import replace
from pathlib import Path
from resnest_backbones.weights import fetch, get_record
url, prefix, cache, ready = sys.argv[1:]
record = replace(get_record("resnest50"), base_url=url, sha256_prefix=prefix, other_urls=(), hub="")
Path(ready).touch()
print(fetch(record, cache_dir=cache, progress=False))
"""


def start_fetching(server: FileServer, cache: Path, ready: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment}
    return subprocess.Popen([sys.executable, "-c", PROCESS, server.url, SHA256[:8], cache, ready], **options)


@pytest.mark.fault("two processes that download the same file at once", "one download, both have it")
@pytest.mark.slow
def test_two_processes_at_once_download_once(cache, tmp_path):
    """The server answers only when both processes are about to fetch."""
    ready = [tmp_path / "ready0", tmp_path / "ready1"]

    def wait_for_both() -> None:
        deadline = time.monotonic() + 120
        while not all(path.exists() for path in ready) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)

    with serving(CONTENT) as server:
        server.wait_for = wait_for_both
        processes = [start_fetching(server, cache, path) for path in ready]
        results = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert all(path.exists() for path in ready)
    assert len(server.requests) == 1
    file = cache / f"resnest50-{SHA256[:8]}.pth"
    assert {out.strip() for out, _ in results} == {str(file)}
    assert file.read_bytes() == CONTENT
    assert names(cache) <= {file.name, f"{file.name}.lock"}
