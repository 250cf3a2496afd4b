"""Several processes over gloo on this machine, which tests compare with one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

# Started anew, each process would take many seconds to import them. What is not installed is passed over.
multiprocessing.set_forkserver_preload(["pytest", "torchvision", "resnest_backbones.models"])


def _enter(rank: int, work: Callable[..., Any], size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=size)
    torch.save(work(rank), folder / f"result_{rank}.pth")
    distributed.barrier()
    distributed.destroy_process_group()


def run_processes(work: Callable[[int], Any], *, folder: Path, size: int = 2) -> list[Any]:
    """What ``work(rank)``, a function of a module, returns in each of the processes of a group.

    An error in one of them ends all, and is raised here with its traceback.
    """
    multiprocessing.start_processes(_enter, (work, size, folder), nprocs=size, start_method="forkserver")
    return [torch.load(folder / f"result_{rank}.pth", weights_only=True) for rank in range(size)]
