"""Which of the weights in a file are meant: of a training's own containers, and of averages beside the weights."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnest_backbones.checkpoint.layouts import is_average, split_networks, summarize_keys

logger = logging.getLogger(__name__)

KeyPath = tuple[str, ...]

_MARK = "#"  # FILE#PART names one of several networks in a file
# What a state dict lies under, in the files of trainings; the first that a file has is taken.
_CONTAINERS = ("model", "state_dict", "model_state", "net", "network", "model_ema", "state_dict_ema", "ema", "module")


def split_part(name: str) -> tuple[str, str]:
    """Return the file and the part of ``FILE#PART``; the part is "" where none is named."""
    file, mark, part = name.rpartition(_MARK)
    is_file = os.path.exists(name) or not ("://" in name or os.path.exists(file))
    return (file, part) if mark and not is_file else (name, "")


def extract_state_dict(
    content: Mapping[str, Any], *, part: str = "", file: str = "the checkpoint"
) -> dict[str, Tensor]:
    """Return the weights in a checkpoint's content: those of its ResNeSt, wherever they lie.

    Where there are several, they are the part asked for, or else the first that is no running average of another; a
    line of the log says which, and how to ask for the others. Without a ResNeSt, they lie under ``model``,
    ``state_dict`` and the like.

    Args:
        content: what ``read_checkpoint`` returns.
        part: the name of one of several, or a word of it: ``ema`` for ``state_dict_ema``.
        file: its name in the log.

    Raises:
        ValueError: there are no tensors, or none under ``part``; the message names what there is.
    """
    return choose_weights(content, part, file)[1]


def choose_weights(content: Mapping[str, Any], part: str, file: str) -> tuple[str, dict[str, Tensor]]:
    """Return the name of the part that ``extract_state_dict`` takes, "" for the whole content, and its tensors."""
    networks: dict[str, dict[str, Tensor]] = {}
    for path, inner in _inner_dicts((), content):
        tensors = {key: tensor for key, value in inner.items() if isinstance(tensor := _as_tensor(value), Tensor)}
        for outer, state in split_networks(tensors).items():
            networks[".".join(filter(None, (*path, outer)))] = state
    names = ", ".join(name or "its top level" for name in networks) or "none"
    if part:
        fits = (lambda n: n == part), (lambda n: n.endswith(f".{part}")), (lambda n: part in re.split("[._]", n))
        fitting = next(filter(None, ([name for name in networks if fit(name)] for fit in fits)), [])
        if len(fitting) != 1:
            raise ValueError(f"{_MARK}{part} must name one of the ResNeSts in the file: {names}")
        return fitting[0], networks[fitting[0]]
    if not networks:
        return _without_network(content)
    chosen = min(networks, key=is_average)
    if others := [name for name in networks if name != chosen]:
        asked_for, used = " or ".join(f"{file}{_MARK}{name}" for name in others if name), chosen or "its top level"
        logger.warning(
            "%s has several sets of weights (%s): using %s; for others, pass %s", file, names, used, asked_for
        )
    return chosen, networks[chosen]


def _inner_dicts(path: KeyPath, content: Mapping[Any, Any]) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """Yield the dicts in a dict with string keys, itself included, and their paths; none of an optimizer."""
    if content and all(isinstance(key, str) for key in content):
        yield path, content
        for key, value in content.items():
            if isinstance(value, Mapping) and "optim" not in key:
                yield from _inner_dicts((*path, key), value)


def _without_network(content: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    path = []
    while key := next((key for key in _CONTAINERS if isinstance(content.get(key), Mapping)), None):
        content = content[key]
        path.append(key)
    tensors = {key: _as_tensor(value) for key, value in content.items()}
    wrong = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if wrong or not tensors:
        raise ValueError(f"not a state dict: {f'no tensors under {summarize_keys(wrong)}' if wrong else 'it is empty'}")
    return ".".join(path), tensors


def _as_tensor(value: Any) -> Any:
    """Return a numpy array or scalar of numbers as a tensor; anything else as it is."""
    numeric = isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8
    return torch.as_tensor(value.astype(value.dtype.newbyteorder("="))) if numeric else value
