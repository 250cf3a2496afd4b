"""Several processes over gloo on this machine, which tests compare with one process."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def _enter(work: Callable[..., Any], arguments: tuple, rank: int, size: int, meeting_point: Path, results: Any) -> None:
    torch.set_num_threads(1)
    try:
        distributed.init_process_group("gloo", init_method=meeting_point.as_uri(), rank=rank, world_size=size)
        result = work(rank, *arguments)
        distributed.barrier()
        results.put((rank, result, None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
        os._exit(1)
    distributed.destroy_process_group()


def run_processes(work: Callable[..., Any], *arguments: Any, folder: Path, size: int = 2) -> list[Any]:
    """What ``work(rank, *arguments)``, a function of a module, returns in each of the processes of a group."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_enter, args=(work, arguments, rank, size, folder / "meeting point", results))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    deadline = time.monotonic() + 280
    try:
        while len(found) < size:
            assert time.monotonic() < deadline, "the processes did not end"
            if results.empty():
                time.sleep(0.05)
                assert any(p.is_alive() for p in processes) or not results.empty(), "a process died"
                continue
            rank, result, error = results.get()
            assert error is None, error
            found[rank] = result
        for process in processes:
            process.join(60)
    finally:
        for process in processes:
            process.kill()
    return [found[rank] for rank in range(size)]
