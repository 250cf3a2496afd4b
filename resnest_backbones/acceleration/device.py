"""Where a model computes: the one answer for training, prediction and measurements."""

from __future__ import annotations

import torch

from resnest_backbones.errors import ConfigError


def resolve_device(wanted: str | None = None, option: str = "--device") -> str:
    """Return the wanted device, or a GPU if there is one, else the CPU.

    Args:
        wanted: as PyTorch names it, such as ``cpu`` or ``cuda:1``; None for the choice of this function.
        option: what an error calls it.

    Raises:
        ConfigError: there is no such device here.
    """
    if wanted is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"{option} must be a device such as cpu, cuda or cuda:1, got {wanted!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        there = f"only {found} (cuda:0 to cuda:{found - 1})" if found else "none"
        raise ConfigError(f"{option} {wanted} needs a GPU, but PyTorch finds {there}; use cpu to run on the CPU")
    if device.type == "meta":
        raise ConfigError(f"{option} must be a compute device such as cpu or cuda, got {wanted!r}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"{option} {wanted} cannot be used here; use cpu to run on the CPU") from error
    return wanted
