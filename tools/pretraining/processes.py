"""The processes of a training, as ``torchrun`` starts them, and the type that each computes in."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from resnest_backbones.acceleration.device import resolve_device


class Processes(NamedTuple):
    """This process among others: where it computes, its number, and how many there are."""

    device: torch.device
    rank: int = 0
    number: int = 1


def join(device: str | None) -> Processes:
    """Meet the other processes of ``torchrun``; return this one alone where there are none."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Processes(torch.device(resolve_device(device)))
    wanted = device or (f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu")
    own = torch.device(resolve_device(wanted))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    return Processes(own, dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share_buffers(net: nn.Module) -> None:
    """Give all processes the first one's running statistics: each has its own, of its own images."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)


def autocast(device: torch.device, on: bool) -> torch.autocast:
    """Return the context of mixed precision: bfloat16, or float16 on GPUs without it."""
    return torch.autocast(device.type, dtype=half_type(device), enabled=on)


def half_type(device: torch.device) -> torch.dtype:
    """Return the type of mixed precision."""
    return torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
