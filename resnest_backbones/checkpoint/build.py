"""A network by its name, with weights or without."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from resnest_backbones.checkpoint.files import load_checkpoint
from resnest_backbones.models.arguments import ResNeStOptions
from resnest_backbones.models.resnest import ResNeSt
from resnest_backbones.models.variants import get_variant

if TYPE_CHECKING:
    from typing_extensions import Unpack


def build(name: str, *, weights: str | PathLike[str] | None = None, **options: Unpack[ResNeStOptions]) -> ResNeSt:
    """Build a published network by name.

    Args:
        name: one of ``list_variants()``.
        weights: ``resnest://NAME`` or a file, as in ``load_checkpoint``, adapted to ``in_channels`` and
            ``num_classes``, which a warning says; random weights where None.
        **options: those of ``ResNeSt``.

    Examples:
        >>> import torch
        >>> net = build("resnest14", out_features=("res2", "res5"))
        >>> {name: tuple(x.shape) for name, x in net(torch.zeros(2, 3, 64, 96)).items()}
        {'res2': (2, 256, 16, 24), 'res5': (2, 2048, 2, 3)}

    Raises:
        ValueError: the name or an option is outside what is allowed; the message names it.
        CheckpointError: the weights cannot be read or do not fit; the message names the file.
        WeightsError: the published file could not be had.
    """
    net = ResNeSt(get_variant(name), **options)
    if weights is not None:
        load_checkpoint(net, weights, adapt=True)
    return net
