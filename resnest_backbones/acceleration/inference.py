"""Trained models made fast for inference, equal to rounding, with the same interface.

Each batch norm is folded into the convolution before it (other norms stay), images and features are channels-last in
memory, on a CPU what follows a convolution is computed in the same pass (``fused.py``), and on request the trunk
computes in bfloat16 or float16, or is compiled.
"""

from __future__ import annotations

import copy
import importlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from resnest_backbones.acceleration.compilation import lay_channels_last
from resnest_backbones.acceleration.fused import fuse, norms_of
from resnest_backbones.errors import ExportError
from resnest_backbones.models.layers import ConvNorm
from resnest_backbones.models.norms import is_constant
from resnest_backbones.models.resnest import ResNeSt
from resnest_backbones.models.split_attention import SplitAttentionConv2d

__all__ = ["ExportError", "optimize_for_inference"]

logger = logging.getLogger(__name__)

_Model = TypeVar("_Model", bound=nn.Module)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def optimize_for_inference(
    model: _Model, *, dtype: torch.dtype | None = None, compile: bool | Mapping[str, Any] = False
) -> _Model:
    """Copy a model that holds a ResNeSt, and make the copy fast for inference.

    Args:
        model: a trunk, or any model that holds one, such as a Detectron2 detector or an MMSegmentation segmentor. Its
            batch norms become constants, as they are in evaluation.
        dtype: what the trunk computes in; the model's own type where None. Images come and features go in the model's
            own type, and what stands on the trunk keeps it.
        compile: compile the trunk with its weights as constants when it is first called: True, or a dict of arguments
            for ``torch.compile``. Without gradients only: call the model in ``torch.no_grad()``. PyTorch compiles
            the first size of the images as it is, and from the second size on one graph for all.

    Returns:
        A model of the same class, in evaluation mode, whose parameters need no gradient. Its state dict has no norms:
        save the original.

    Raises:
        ExportError: there is no ResNeSt in the model.
        ValueError: ``dtype`` is not float32, bfloat16 or float16.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, _DTYPES))}, got {dtype}")
    names = [name for name, module in model.named_modules() if isinstance(module, ResNeSt)]
    if not names:
        raise ExportError(f"the model must contain a ResNeSt from resnest_backbones, {type(model).__name__} has none")
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    _fold_all_norms(fast)
    _warn_of_other_norms(fast, names)
    fast.to(memory_format=torch.channels_last)
    for name in names:
        trunk: Any = fast.get_submodule(name)
        if dtype is not None:
            trunk.register_forward_hook(partial(_cast_features, dtype=next(trunk.parameters()).dtype))
            trunk.to(dtype)
        if compile:  # the compiler joins what follows a convolution to it by itself
            trunk.compile(**({"options": {"freezing": True}} if compile is True else compile))
        else:
            fuse(trunk)
        # Not before the trunk: there the compiler would make a graph of its own of it.
        trunk.stem.register_forward_pre_hook(partial(lay_channels_last, dtype=dtype))
    return fast


def _warn_of_other_norms(model: nn.Module, trunks: Sequence[str]) -> None:
    """Say which norms of the trunks stay: their blocks compute as before."""
    left = Counter(
        type(norm).__name__
        for trunk in trunks
        for module in model.get_submodule(trunk).modules()
        for norm in norms_of(module)
    )
    if left:
        logger.warning(
            "%s are kept, and their blocks are not optimized: only batch norms with running statistics (BN, SyncBN, "
            "FrozenBN) can be folded into convolutions",
            ", ".join(f"{number} {kind}" for kind, number in left.items()),
        )


def _fold(conv: Any, norm: Any) -> None:
    """Fold a batch norm into a convolution's weight, (out, in / groups, h, w), and bias, in place."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.weight, conv.bias = (nn.Parameter(value.detach(), requires_grad=False) for value in (weight, bias))


def _fold_all_norms(model: nn.Module) -> None:
    """Fold the norms of our own convolutions, of Detectron2's (``Conv2d.norm``) and of MMCV's (``ConvModule``)."""
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d) and is_constant(getattr(module, "norm", None)):
            _fold(module, module.norm)
            # Detectron2's asks for None, ours calls it.
            setattr(module, "norm", nn.Identity() if isinstance(module, ConvNorm) else None)  # noqa: B010
        elif isinstance(module, SplitAttentionConv2d):
            for conv, norm in (("conv", "bn0"), ("fc1", "bn1")):
                if is_constant(getattr(module, norm)):
                    _fold(getattr(module, conv), getattr(module, norm))
                    setattr(module, norm, nn.Identity())
    if any(type(module).__module__.startswith("mmcv.cnn") for module in model.modules()):
        importlib.import_module("mmcv.cnn.utils").fuse_conv_bn(model)


def _cast_features(module: nn.Module, args: tuple[Tensor, ...], output: Any, *, dtype: torch.dtype) -> Any:
    """Give a trunk's features the type that comes after it."""
    if isinstance(output, dict):
        return {name: feature.to(dtype) for name, feature in output.items()}
    return tuple(feature.to(dtype) for feature in output)
