"""What a measurement says about where it was taken."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Of several names of one package, one is installed.
_PACKAGES = (
    "torch", "torchvision", "timm", "resnest", "onedl-mmsegmentation", "mmsegmentation", "onedl-mmcv", "mmcv",
    "onedl-mmengine", "mmengine", "sal-detectron2", "detectron2", "resnest_backbones",
)  # fmt: skip


def describe_machine(device: torch.device | None = None) -> dict[str, Any]:
    """Return what to record with a measurement on ``device``; None: all GPUs, or the processor where there is none."""
    import torch

    on_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    today = datetime.date.today().isoformat()
    machine = _gpus(device) if on_gpu else _processor()
    return {"machine": machine, "threads": torch.get_num_threads(), "date": today, "versions": versions}


def _gpus(device: torch.device | None) -> str:
    import torch

    count = torch.cuda.device_count() if device is None else 1
    return f"{f'{count} x ' if count > 1 else ''}{torch.cuda.get_device_name(device)}"


def _processor() -> str:
    import torch

    info, name = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
