"""The errors of this project, the checks that both trainings make, and how a command line shows what went wrong.

Every error that a user can mend is a ``ResNeStError``, an ``OSError`` or, of a missing package, an ``ImportError``: a
tool catches these, prints one line, and keeps the traceback for ``--verbose``.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import math
import multiprocessing
import os
import pydoc
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# An error in the traceback that a worker or another process sent.
_RAISED = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception|Exit|Expired|Interrupt))(?::|$)", re.MULTILINE)
_MAX_IMAGES = 16  # named in a message
# Framework -> the command that installs it.
INSTALL = {
    "detectron2": "pip install 'resnest-backbones[detectron2]' && resnest-backbones install-detectron2",
    "mmseg": "pip install 'resnest-backbones[mmseg]'",
}


class ResNeStError(Exception):
    """The base of all errors below; the message names what is wrong and, where there is one, the remedy."""


class CheckpointError(ResNeStError, ValueError):
    """A file is not a checkpoint, is not safe to load, or does not fit the model."""


class ConfigError(ResNeStError, ValueError):
    """A config, or an option of a command line, asks for something that cannot be built."""


class DatasetError(ResNeStError, ValueError):
    """An image, a label map, an annotation or a class file is missing or wrong."""


class DivergedError(ResNeStError, FloatingPointError):
    """A loss is not finite."""


class ExportError(ResNeStError, ValueError):
    """A model cannot be exported or optimized, or an exported file does not compute what the model computes."""


class WeightsError(ResNeStError, RuntimeError):
    """A published file could not be downloaded, or is not the one that was published."""


def check_finite(losses: Mapping[str, float], *, iteration: int, images: Iterable[str], rates: Iterable[float]) -> None:
    """Raise a ``DivergedError`` where a loss is NaN or infinite.

    The message names the losses, the iteration (from 0), the images of its batch, and the learning rates.
    """
    if all(math.isfinite(value) for value in losses.values()):
        return
    values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    raise diverged(f"the loss is not finite: {values}", iteration=iteration, images=images, rates=rates)


def diverged(reason: str, *, iteration: int, images: Iterable[str], rates: Iterable[float]) -> DivergedError:
    """Return an error that says where a training diverged; the arguments are those of ``check_finite``."""
    images = list(images)
    return DivergedError(
        f"training diverged at iteration {iteration}, at learning rate "
        f"{', '.join(f'{rate:.6g}' for rate in sorted(set(rates)))}, with the images "
        f"{name_first(images, _MAX_IMAGES)}: {' '.join(reason.split())}"
    )


def name_first(values: Sequence[Any], number: int = 3) -> str:
    """Return the first of many values, and how many more there are, for a message."""
    more = f" and {len(values) - number} more" if len(values) > number else ""
    return ", ".join(map(str, values[:number])) + more


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the end of a message about an unknown name: the nearest known ones in any case, or ``otherwise``."""
    names = {one.lower(): one for one in known}
    close = [names[one] for one in difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.75)]
    return f"did you mean {' or '.join(close)}?" if close else otherwise


@contextlib.contextmanager
def config_errors(explain: Callable[[str], str]) -> Iterator[None]:
    """Turn what a framework raises where it cannot build a config into a ``ConfigError`` of one line.

    Args:
        explain: the framework's message -> a better one.
    """
    try:
        yield
    except (ResNeStError, OSError):
        raise
    except (AssertionError, ImportError, LookupError, TypeError, ValueError) as error:
        said = " ".join(str(error.args[0] if error.args else "").split())
        said = said or f"{type(error).__name__} at {traceback.extract_tb(error.__traceback__)[-1].line}"
        raise ConfigError(f"the config cannot be used: {explain(said)}") from error


def require(package: str, framework: str) -> None:
    """Raise an ``ImportError`` that says how to install a framework that a plugin needs, unless it is installed."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(f"{package} is not installed: {INSTALL[framework]}", name=package) from error


def check_writable(folder: str | Path) -> None:
    """Create a folder, and write a probe to it, before hours of training are lost.

    Raises:
        OSError: it cannot be written; the message names the folder.
    """
    probe = Path(folder) / ".probe.partial"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise OSError(f"the output folder {folder} cannot be written: {error.strerror or error}") from error


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add ``--verbose``, which ``one_line_errors`` takes."""
    parser.add_argument("--verbose", action="store_true", help="print the full traceback of an error")


@contextlib.contextmanager
def one_line_errors(
    program: str,
    *others: type[BaseException],
    verbose: bool = False,
    interrupted: Callable[[], str] = lambda: "",
) -> Iterator[None]:
    """End the program with status 1 and one line on an error that a user can mend; others keep their traceback.

    Ctrl-C ends it with status 130 and one line; a reader of its output that leaves, as ``head`` does, with none.

    Args:
        program: name that the line begins with.
        others: further errors to treat the same way. Where another process sent its traceback, in PyTorch's
            ``ProcessRaisedException``, the error at its end must be an expected one.
        verbose: print the traceback as well, before the line.
        interrupted: returns what the line says after Ctrl-C: what was saved, and how to go on.
    """
    expected: tuple[type[BaseException], ...] = (ResNeStError, OSError, ImportError, *others)
    try:
        yield
        sys.stdout.flush()
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            sys.exit(128 + signal.SIGPIPE)
        of_process = type(error).__name__ == "ProcessRaisedException"  # importing it would import PyTorch
        message = _message_of(error, expected) if of_process or isinstance(error, expected) else None
        if message is None:
            raise
        if verbose:
            traceback.print_exc()
        sys.exit(f"{program}: error: {message}")
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():  # the signal may have come to this process alone
            child.terminate()
        if verbose:
            traceback.print_exc()
        print(f"\n{program}: {'; '.join(filter(None, ('interrupted', interrupted())))}", file=sys.stderr)
        sys.exit(130)  # as a shell has it: 128 and the number of SIGINT


def _reader_left() -> bool:
    """Return whether nobody reads what this process prints, and let it print to nowhere then."""
    with contextlib.suppress(OSError):  # of an output without a descriptor
        output = sys.stdout.fileno()
        poll = select.poll()
        poll.register(output, 0)
        if poll.poll(0):  # no event but an error is waited for
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # which Python flushes once more at its end
            return True
    return False


def _message_of(error: BaseException, expected: tuple[type[BaseException], ...]) -> str | None:
    """Return what an error says, or the last one of a traceback in it; None where that is not an expected one."""
    text = str(error)
    if "Traceback (most recent call last):" not in text:
        return text.strip()
    *_, raised = [None, *_RAISED.finditer(text)]
    kind = raised and pydoc.locate(raised[1])
    if not (raised and isinstance(kind, type) and issubclass(kind, expected)):
        return None
    return text[raised.end() :].strip()
