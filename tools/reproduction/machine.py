"""What a run says of the machine and the software that it ran on."""

from __future__ import annotations

import os

import torch

from machine import installed_versions, processor_name
from reproduction.launch import Launch
from resnest_backbones.model_zoo import Recipe

# Framework -> its packages; of several names of one package, one is installed.
_PACKAGES = {
    "detectron2": ("detectron2",),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation", "mmengine", "onedl-mmengine", "mmcv", "onedl-mmcv"),
}


def machine_here(launch: Launch) -> str:
    """What a row runs on: kind and number of GPUs, or the processor."""
    machines = f" on {launch.num_machines} machines" if launch.num_machines > 1 else ""
    if torch.cuda.is_available():
        return f"{launch.world_size} x {torch.cuda.get_device_name(0)}{machines}"
    return f"CPU: {processor_name()}, {os.cpu_count()} cores, {launch.world_size} processes{machines}"


def versions_of(recipe: Recipe) -> dict[str, str]:
    """Versions of Python, PyTorch, this package and the packages of a row's framework."""
    return installed_versions(("torch", "torchvision", "resnest_backbones", *_PACKAGES[recipe.framework]))
