"""Small things that several test files share."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_backbones import model_zoo
from resnest_backbones.weights import records

if TYPE_CHECKING:
    from tests.network import Machine

ROOT = Path(__file__).resolve().parents[1]

# Keys that shrink a recipe's detector until one iteration on a CPU takes about a second; the network stays a ResNeSt
# with FPN, RPN and the recipe's heads.
_TINY_KEYS = {
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.DEPTH": 14,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 30,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,  # after few iterations, scores are low
    "INPUT.MIN_SIZE_TRAIN": "(96,128)",
    "INPUT.MIN_SIZE_TEST": 96,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.STEPS": "(100,)",
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "DATALOADER.NUM_WORKERS": 0,
}
TINY_DETECTOR = [str(word) for pair in _TINY_KEYS.items() for word in pair]


class Tally:
    """What went right of the configs of a zoo, by family; printed, a Markdown table.

    Attributes:
        rows: family -> how many configs, and what of them went right.
        failed: the others, with what went wrong.
        others: configs that are none of the question.
    """

    def __init__(self, *columns: str) -> None:
        self.columns, self.rows = columns, {}
        self.failed: list[str] = []
        self.others: list[str] = []

    def add(self, family: str, column: str, config: str, is_right: bool) -> bool:
        """Count a config in a column; return whether it is the first of its family in the first column."""
        row = self.rows.setdefault(family, dict.fromkeys(("configs", *self.columns), 0))
        row["configs"] += column == self.columns[0]
        row[column] += is_right
        if not is_right:
            self.failed.append(f"{config}: {column}")
        return row["configs"] == 1

    @contextmanager
    def expecting(self, config: str) -> Iterator[None]:
        """Count an error inside as what went wrong."""
        try:
            yield
        except Exception as error:
            self.failed.append(f"{config}: {type(error).__name__}: {str(error)[:200]}")

    def __str__(self) -> str:
        names = ("configs", *self.columns)
        total = {name: sum(row[name] for row in self.rows.values()) for name in names}
        lines = ["| family | " + " | ".join(names) + " |", "|" + " --- |" * (len(names) + 1)]
        for family, row in [*self.rows.items(), ("all", total)]:
            lines.append(f"| {family} | " + " | ".join(str(row[name]) for name in names) + " |")
        return "\n".join([*lines, f"{len(self.others)} without a ResNet or not possible: {', '.join(self.others)}"])


def recorded(function: Callable, names: list[str]) -> Callable:
    """The function, whose name each call adds to ``names``."""

    def call(*args: object, **kwargs: object) -> object:
        names.append(function.__name__)
        return function(*args, **kwargs)

    return call


def flat(node: Mapping, prefix: str = "") -> dict[str, object]:
    """The keys of a nested config, with dots, and its values without types of their own for sequences."""
    keys = {}
    for key, value in node.items():
        keys |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: plain(value)}
    return keys


def plain(value: object) -> object:
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def subset_of_coco(source: Path, target: Path, num_images: int) -> Path:
    """Write a COCO json with the first images of another that have at least two annotations."""
    content = json.loads(source.read_text())
    counts = {image["id"]: 0 for image in content["images"]}
    for annotation in content["annotations"]:
        counts[annotation["image_id"]] += 1
    images = [image for image in content["images"] if counts[image["id"]] >= 2][:num_images]
    kept = {image["id"] for image in images}
    annotations = [a for a in content["annotations"] if a["image_id"] in kept]
    target.write_text(json.dumps({**content, "images": images, "annotations": annotations}))
    return target


def environment() -> dict[str, str]:
    """The environment of a subprocess that runs a tool of this checkout, on one thread."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tools'}"
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def start_tool(
    name: str,
    *arguments: object,
    machine: Machine | None = None,
    launcher: Sequence[object] = (),
    stdout: Any = subprocess.PIPE,
) -> subprocess.Popen:
    """Start ``tools/NAME.py``, after the words of a launcher, in a session of its own.

    It runs on one of ``tests.network.two_machines`` where that is given.
    """
    prefix, variables = (machine.prefix, machine.environment) if machine else ((), {})
    words = [*prefix, sys.executable, *launcher, ROOT / "tools" / f"{name}.py", *arguments]
    return subprocess.Popen(
        [*map(str, words)],
        env=environment() | variables,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def wait_for(file: Path, process: subprocess.Popen, seconds: float = 300) -> None:
    """Wait until a file is there, which a process must write before it ends."""
    deadline = time.monotonic() + seconds
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"{file} was not written: {process.communicate()[0]}")
        time.sleep(0.02)


def kill_after(file: Path, process: subprocess.Popen) -> None:
    """Kill a tool, and its workers, as soon as a file is there."""
    wait_for(file, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@contextmanager
def interrupted_at(file: Path) -> Iterator[None]:
    """Interrupt this process, as Ctrl-C does, as soon as a file is there."""
    ended = threading.Event()

    def interrupt() -> None:
        while not file.exists():
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    # A shell lets what it runs in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


def run_tool(name: str, *arguments: object, timeout: float = 300) -> tuple[int, str]:
    """Run ``tools/NAME.py``; its exit status, and all that it printed."""
    process = start_tool(name, *arguments)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, output


def error_of(run: Callable[[list[str]], object], *arguments: object) -> str:
    """Run a tool that must end with an error of one line, and return it."""
    with pytest.raises(SystemExit) as raised:
        run([str(argument) for argument in arguments])
    message = str(raised.value.code)
    assert "error: " in message and "\n" not in message, message
    return message


def indented_block(beginning: str, file: str = "README.md") -> str:
    """The indented block of a page that begins so."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return textwrap.dedent(re.search(rf"^    {re.escape(beginning)}.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)[0])


class Payload:
    """Creates a file when it is unpickled without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.file}",)


class FileServer(http.server.ThreadingHTTPServer):
    """Serves ``content`` under any name, in the way that ``behaviour`` says, and keeps the paths asked for."""

    daemon_threads = True

    def __init__(self, content: bytes, behaviour: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content, self.behaviour, self.requests = content, behaviour, []
        self.wait_for = lambda: None
        self.ended = threading.Event()


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.wait_for()
        content, behaviour = self.server.content, self.server.behaviour
        if behaviour == "missing":
            self.send_error(404, "Not Found")
            return
        if behaviour == "no http":
            self.wfile.write(b"220 this is something else\r\n")
            return
        self.send_response(200)
        if behaviour == "a web page":
            self.send_header("Content-Type", "text/html; charset=utf-8")
        if behaviour == "broken off in chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % len(content) + content[:1000])
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = behaviour in ("broken off", "falls silent")
        self.wfile.write(content[: len(content) // 2] if half else content)
        if behaviour == "falls silent":
            self.wfile.flush()
            self.server.ended.wait(120)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(content: bytes, behaviour: str = "whole") -> Iterator[FileServer]:
    """A server of one file on the loopback interface."""
    server = FileServer(content, behaviour)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def publishing(
    name: str, content: Mapping[str, object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FileServer]:
    """A server of one file, known as the published one of a network or a trained recipe; the cache is a new folder."""
    file = folder / "published.pth"
    torch.save(OrderedDict(content), file)
    monkeypatch.delenv(records.MIRROR_VARIABLE, raising=False)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    with serving(file.read_bytes()) as server:
        digits = hashlib.sha256(server.content).hexdigest()[:8]
        known = records.get_record(name)
        if isinstance(known, records.WeightRecord):
            server.record = replace(known, sha256_prefix=digits, base_url=server.url, other_urls=(), hub="")
            monkeypatch.setitem(records.WEIGHTS, name, server.record)
        else:
            server.record = replace(known, name=f"a+b-{digits}.pth", hash_prefix=digits, server=server.url)
            for module in (records, model_zoo):
                monkeypatch.setattr(module, "PUBLISHED", {**records.PUBLISHED, name: server.record})
        server.cache = folder / "torch" / "hub" / "checkpoints"
        yield server


@contextmanager
def _mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """A file system mounted at a folder, which only root may do, and not in every container."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounts are not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def small_disk(folder: Path, kilobytes: int) -> AbstractContextManager[Path]:
    """A disk of that size at a folder."""
    return _mounted(folder, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder, with what is in it, made read-only, for root too."""
    with _mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield folder


def _turn(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number  # orientation; 6 is a quarter turn
    return exif


# Kinds of images that are welcome in a training: how they are made of random bytes (H, W, 4), and how they are saved.
_KINDS: dict[str, tuple[Callable[[np.ndarray], Image.Image], str, dict[str, Any]]] = {
    "plain": (lambda p: Image.fromarray(p[..., :3]), "png", {}),
    "one pixel": (lambda p: Image.fromarray(p[:1, :1, :3]), "png", {}),
    "grey": (lambda p: Image.fromarray(p[..., 0]), "png", {}),
    "rgba": (lambda p: Image.fromarray(p), "png", {}),
    "cmyk": (lambda p: Image.fromarray(p[..., :3]).convert("CMYK"), "jpg", {}),
    "turned by exif": (lambda p: Image.fromarray(p[..., :3]), "jpg", {"exif": _turn(6)}),
    "palette": (lambda p: Image.fromarray(p[..., :3]).convert("P"), "png", {}),
    "16 bits": (lambda p: Image.fromarray(p[..., 0].astype(np.uint16) * 257), "png", {}),
    "odd size": (lambda p: Image.fromarray(p[:61, :93, :3]), "png", {}),
}
ODD_IMAGES = list(_KINDS)
# More of them, which the reader is tested on alone.
_TWO = {"append_images": [Image.new("RGB", (96, 64), "red")]}
_KINDS |= {
    "1 bit": (lambda p: Image.fromarray(p[..., 0] > 127), "png", {}),
    "grey with alpha": (lambda p: Image.fromarray(np.ascontiguousarray(p[..., :2])), "png", {}),
    "transparent palette": (lambda p: Image.fromarray(p[..., :3]).convert("P"), "png", {"transparency": 3}),
    "cmyk tiff": (Image.fromarray, "tif", {}),
    "16 bits tiff": (lambda p: Image.fromarray(p[..., 0].astype(np.uint16) * 257), "TIFF", {}),
    "turned tiff": (lambda p: Image.fromarray(p[..., :3]), "tif", {"exif": _turn(8)}),
    "bmp": (lambda p: Image.fromarray(p[..., :3]), "BMP", {}),
    "animated": (lambda p: Image.fromarray(p[..., :3]), "webp", {"save_all": True, "lossless": True, **_TWO}),
}
MORE_ODD_IMAGES = list(_KINDS)
_KINDS |= {
    "wide": (lambda p: Image.fromarray(p[..., :3]).resize((5000, 1)), "png", {}),
    "truncated": (lambda p: Image.fromarray(p[..., :3]), "jpg", {}),
    "web page": (lambda p: Image.fromarray(p[..., :3]), "png", {}),
}


def odd_image(name: str, folder: Path) -> tuple[Path, int, int]:
    """Write an image of that kind; its file, and the width and height that a COCO json should say."""
    make, suffix, options = _KINDS[name]
    image = make(np.random.default_rng(0).integers(0, 256, (64, 96, 4), dtype=np.uint8))
    file = folder / f"{name.replace(' ', '_')}.{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)
    if name == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif name == "web page":
        file.write_text("<html>not found</html>")
    return (file, image.height, image.width) if name.startswith("turned") else (file, image.width, image.height)
