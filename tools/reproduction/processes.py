"""Running a command with its output under way, and ending it with all that it started."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import IO, Protocol

_GRACE = 45.0  # seconds between asking a command to end and ending it; torchrun gives its processes 30
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

# Imported once for all commands that are forked; what is not installed is passed over. Of Detectron2 only what does not
# register its data sets: that reads DETECTRON2_DATASETS, which each command has its own of.
_PRELOADED = (
    "resnest_backbones.mmseg.engine.train",
    "torch.utils.tensorboard",
    "torchvision",
    "matplotlib.figure",
    "pycocotools.cocoeval",
    "shapely.geometry",
    "hydra",
    "omegaconf",
    "detectron2.config",
    "detectron2.layers",
    "detectron2.structures",
)


class Running(Protocol):
    """A command under way, the first of a process group of its own."""

    def lines(self) -> Iterator[bytes]:
        """What it prints, line by line, errors as well, to its end."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit status, negative for a signal; None where it has not ended in that many seconds."""

    @property
    def pid(self) -> int:
        """Number of the process, and of its group."""


# Words of a command, and its environment -> it, started.
Start = Callable[[Sequence[str], Mapping[str, str]], Running]


def stop(running: Running) -> None:
    """End a command and all that it started: asked to first, at once where it takes long."""
    _signal_group(running, signal.SIGTERM)
    running.wait(_GRACE)
    _signal_group(running, signal.SIGKILL)
    running.wait()


def _signal_group(running: Running, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(running.pid, number)


def _end_with_parent() -> None:
    """Let the kernel end this process when the one that started it is killed, which cannot do so then. On Linux only.

    Otherwise a training would go on unseen, and the same command would start another one in its folder.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class _Program:
    """A command as a program of its own."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def lines(self) -> Iterator[bytes]:
        assert self._process.stdout is not None
        yield from self._process.stdout

    def wait(self, timeout: float | None = None) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


def start_program(words: Sequence[str], environment: Mapping[str, str]) -> Running:
    """Start a command as a program of its own."""
    return _Program(words, environment)


class _Fork:
    """A Python command in a process forked from one that has imported the frameworks: it starts at once."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        reader, writer = context.Pipe(duplex=False)
        self._output: IO[bytes] = os.fdopen(os.dup(reader.fileno()), "rb")
        reader.close()
        self._process = context.Process(target=_run_tool, args=(list(words), dict(environment), writer))
        self._process.start()
        writer.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def lines(self) -> Iterator[bytes]:
        with self._output:
            yield from self._output

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


def start_fork(words: Sequence[str], environment: Mapping[str, str]) -> Running:
    """Start a command ``python TOOL ARGUMENTS...`` without waiting for the import of the frameworks each time.

    It has a process of its own all the same: one that fails, or is killed, leaves the others as they are. For commands
    on the CPU, since a process that is forked cannot use a GPU that the first one has begun to use.
    """
    return _Fork(words, environment)


def _run_tool(words: list[str], environment: dict[str, str], writer: Connection) -> None:
    os.setsid()
    for stream in (1, 2):
        os.dup2(writer.fileno(), stream)
    writer.close()
    os.environ.clear()
    os.environ.update(environment)
    tool = words[1]
    sys.argv = words[1:]
    runpy.run_path(tool, run_name="__main__")
