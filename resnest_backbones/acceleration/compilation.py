"""Trunks made faster for training: channels-last memory and compilation, equal to rounding, checkpoints unchanged.

A compiled trunk is safe with images of varying size: PyTorch compiles the first size as it is, and from the second size
on a graph whose height and width are variables, or a few where the compiler sums large maps in another way. Inductor
does so in backward only when told to keep to channels-last memory (PyTorch 2.14); it would compile every size anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch._inductor
from torch import Tensor, nn

from resnest_backbones.models.resnest import ResNeSt

__all__ = ["accelerate"]


def accelerate(trunk: ResNeSt, *, channels_last: bool = False, compile: bool | str | Mapping[str, Any] = False) -> None:
    """Change in place how a trunk computes; its parameters, their names and its interface stay.

    Args:
        trunk: a core ``ResNeSt``, or a plugin's.
        channels_last: images and weights lie in memory with their channels side by side, and so do the features. The
            shapes stay. Of a trunk that Inductor compiles they always do.
        compile: compile the trunk when it is first called: True, the name of a backend of ``torch.compile``, or a dict
            of its keyword arguments, such as ``dict(mode="max-autotune-no-cudagraphs")``. A copy of the trunk, by
            ``deepcopy`` or pickle, is not compiled.

    Raises:
        ValueError: ``compile`` names no backend or mode of this PyTorch, or is of another type.
    """
    options = _compile_options(compile)
    with_inductor = options is not None and options.get("backend", "inductor") == "inductor"
    if channels_last or with_inductor:
        trunk.to(memory_format=torch.channels_last)
        # Not before the trunk: there the compiler would make a graph of its own of it.
        trunk.stem.register_forward_pre_hook(lay_channels_last)
    if options is not None:
        # In place and not ``torch.compile(trunk)``, which would put ``_orig_mod.`` before each name in a checkpoint.
        trunk.compile(**options)


def lay_channels_last(
    module: nn.Module, args: tuple[Tensor, ...], dtype: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """Give a trunk's images to it with their channels side by side, and of another type: a hook before ``forward``."""
    images = args[0] if dtype is None else args[0].to(dtype)
    return (images.contiguous(memory_format=torch.channels_last), *args[1:])


def _compile_options(compile: bool | str | Mapping[str, Any]) -> dict[str, Any] | None:
    """Return keyword arguments for ``nn.Module.compile``; None where nothing is compiled."""
    if compile is False:
        return None
    options = {} if compile is True else {"backend": compile} if isinstance(compile, str) else compile
    if not isinstance(options, Mapping):
        raise ValueError(
            f"compile must be a boolean, a backend name or a dict of torch.compile arguments, got {compile!r}"
        )
    backend = options.get("backend", "inductor")
    if isinstance(backend, str) and backend not in torch.compiler.list_backends(exclude_tags=()):
        names = ", ".join(torch.compiler.list_backends())
        raise ValueError(f"compile must name one of torch.compile's backends ({names}), got {backend!r}")
    return _with_open_sizes(options) if backend == "inductor" else dict(options)


def _with_open_sizes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with which Inductor keeps to channels-last memory in backward, too, where it finds no convolutions.

    Those of a ``mode`` are spelled out, since PyTorch takes a mode or options, not both.
    """
    mode = options.get("mode") or "default"
    modes = torch._inductor.list_mode_options()
    if mode not in modes:
        raise ValueError(f"the mode of compile must be one of {', '.join(modes)}, got {mode!r}")
    of_mode = torch._inductor.list_mode_options(mode, options.get("dynamic"))
    arguments = {name: value for name, value in options.items() if name != "mode"}
    return arguments | {"options": {"force_layout_optimization": True, **of_mode, **(options.get("options") or {})}}
