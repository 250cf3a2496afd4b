"""What the user of a long run sees: which row and command is under way, and now and then how far it is."""

from __future__ import annotations

import re
import shutil
import sys
import time

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# What of a line of either framework says how far it is.
_PROGRESS = re.compile(r"eta: .*|Inference done .*|(?:Iter|Epoch)\((?:train|val|test)\).*")


class Console:
    """Prints a row's messages with its place among the rows.

    Args:
        every: seconds between two lines of progress.
        verbose: print all that the commands print.
    """

    def __init__(self, *, every: float = 30.0, verbose: bool = False) -> None:
        self._every = every
        self._verbose = verbose
        self._place = ""
        self._last = time.monotonic()

    def begin(self, number: int, count: int, row: str) -> None:
        """Say which row comes now."""
        self._place = f"[{number}/{count}] "
        print(f"{self._place}{row}", flush=True)

    def say(self, text: str) -> None:
        """Say something of the row."""
        self._last = time.monotonic()
        print(f"{self._place}  {text}", flush=True)

    def see(self, step: str, line: bytes) -> None:
        """Take notice of a line that a command printed."""
        text = plain(line.decode(errors="replace")).rstrip()
        if self._verbose:
            print(f"{self._place}{step} | {text}", flush=True)
            return
        progress = _PROGRESS.search(text)
        if progress and time.monotonic() - self._last >= self._every:
            width = shutil.get_terminal_size().columns - len(self._place) - 2 if sys.stdout.isatty() else None
            self.say(f"{step}: {' '.join(progress[0].split())}"[:width])


def plain(text: str) -> str:
    """A line without colours; of what was drawn over and over, such as a progress bar, the last."""
    return _COLOURS.sub("", text).rstrip("\r\n").rpartition("\r")[2]
