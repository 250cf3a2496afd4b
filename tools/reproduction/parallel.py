"""The same work on many files: several processes, and a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 16  # items that a process is given at a time
_MOST_WORKERS = 8  # by default; disks seldom serve more


def default_workers() -> int:
    """Processes to use where nobody says otherwise: one per processor, eight at most."""
    return min(_MOST_WORKERS, os.cpu_count() or 1)


def map_files(
    function: Callable[[Item], Result], items: Sequence[Item], *, title: str, workers: int, progress: bool
) -> list[Result]:
    """``function`` of each item, in their order; what it raises is raised here and ends the rest.

    Args:
        function: of a module's top level, or a ``partial`` of one, so that other processes know it.
        items: what it is called with.
        title: of the progress bar.
        workers: processes; 1 does everything in this one.
        progress: show a progress bar.

    Raises:
        ValueError: ``workers`` is less than 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    show = {"total": len(items), "desc": title, "unit": "file", "disable": not progress}
    if workers == 1 or len(items) <= _CHUNK:
        return [function(item) for item in tqdm(items, **show)]
    executor = ProcessPoolExecutor(min(workers, -(-len(items) // _CHUNK)))
    try:
        return list(tqdm(executor.map(function, items, chunksize=_CHUNK), **show))
    finally:
        executor.shutdown(cancel_futures=True)
