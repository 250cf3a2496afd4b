"""What a training of either framework says when something beside the program is wrong: losses, images, folders."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from resnest_backbones.checkpoint import SaveError

# Where one of our errors stands in the traceback that a worker or another process sent.
_OURS = re.compile(r"^resnest_backbones\.\S+Error: (.*)", re.MULTILINE | re.DOTALL)
_MOST = 16  # images named


class DivergedError(FloatingPointError):
    """A loss is no finite number; the message names it, the iteration, the learning rate and the images."""


def check_finite(losses: Mapping[str, float], *, iteration: int, images: Iterable[str], rates: Iterable[float]) -> None:
    """Refuse losses that are NaN or infinite.

    Args:
        losses: by name.
        iteration: number of the iteration, from 0.
        images: what the losses are of.
        rates: learning rates in use.

    Raises:
        DivergedError: one is.
    """
    if all(math.isfinite(value) for value in losses.values()):
        return
    values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    raise diverged(f"the loss is no finite number: {values}", iteration=iteration, images=images, rates=rates)


def diverged(what: str, *, iteration: int, images: Iterable[str], rates: Iterable[float]) -> DivergedError:
    """An error that says where a training diverged; arguments as of ``check_finite``."""
    images = list(images)
    more = f" and {len(images) - _MOST} more" if len(images) > _MOST else ""
    return DivergedError(
        f"the training diverged in iteration {iteration}, at learning rate "
        f"{', '.join(f'{rate:.6g}' for rate in sorted(set(rates)))}, with the images "
        f"{', '.join(images[:_MOST])}{more}: {' '.join(what.split())}"
    )


def check_writable(folder: str | Path) -> None:
    """Make a folder, and try whether files can be written there, before hours of training find out.

    Raises:
        SaveError: they cannot; the message names the folder.
    """
    probe = Path(folder) / ".probe.partial"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise SaveError(f"the output folder {folder} cannot be written: {error.strerror or error}") from error


def message_of(error: BaseException) -> str:
    """What an error says, in its own words also where it came through a worker, which sends its traceback."""
    found = _OURS.search(str(error))
    return (found[1] if found else str(error)).strip()
