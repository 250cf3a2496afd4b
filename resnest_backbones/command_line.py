"""What the command lines of ``tools/`` have in common: errors of one line, ``--verbose``, the command to run next."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def python_command(*words: str | Path) -> str:
    """A command line of this Python; paths as one would type them here."""
    return shlex.join([shorten(sys.executable), *(shorten(word) if isinstance(word, Path) else word for word in words)])


def shorten(path: str | Path) -> str:
    """A path as one would type it here: relative if it lies below the current folder."""
    path = Path(os.path.abspath(path))  # not resolved: the Python of an environment is a link to another one
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def print_next(what: str, *words: str | Path) -> None:
    """Tell the user what could be done next, and the command that does it.

    Args:
        what: for example "evaluate the saved model".
        words: of the command, from the tool on; words in capitals stand for what the user has to name.
    """
    print(f"Next, {what}:\n  {python_command(*words)}", flush=True)
