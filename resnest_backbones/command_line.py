"""What the command lines of ``tools/`` have in common: errors of one line, ``--verbose``, the command to run next."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from resnest_backbones.faults import message_of


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add ``--verbose``, which ``one_line_errors`` takes."""
    parser.add_argument("--verbose", action="store_true", help="of an error, also print where it came from")


@contextlib.contextmanager
def one_line_errors(program: str, *errors: type[BaseException], verbose: bool = False) -> Iterator[None]:
    """End the program with status 1 and one line where the input is wrong; all other errors keep their traceback.

    Args:
        program: name that the line begins with.
        errors: what is raised for wrong input.
        verbose: print the traceback of these too, before the line.
    """
    try:
        yield
    except errors as error:
        if verbose:
            traceback.print_exc()
        sys.exit(f"{program}: error: {message_of(error)}")


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
