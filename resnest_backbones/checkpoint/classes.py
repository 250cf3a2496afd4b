"""Do the classes of a trained model fit the data? The one answer of both plugins and of ``predict``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from resnest_backbones.errors import DatasetError

logger = logging.getLogger(__name__)

_MAX_NAMES = 8  # of a list, in a message


def match_classes(of_model: Sequence[str] | None, of_data: Sequence[str] | None) -> list[int] | None:
    """Return the place of each of a model's classes among those of the data to evaluate on; None where it is the same.

    A line of the log says where the order differs, or names do that may mean the same. Unknown names fit.

    Raises:
        DatasetError: there are more classes or fewer, or some are at other places and others have other names; the
            message has both lists.
    """
    of_model, of_data = as_list(of_model), as_list(of_data)
    if not of_model or not of_data or of_model == of_data:
        return None
    lists = f"{_listed(of_model)} in the model, {_listed(of_data)} in the data"
    if len(of_model) != len(of_data):
        raise DatasetError(f"the evaluation data has different classes than the model: {lists}")
    if sorted(of_model) == sorted(of_data):
        logger.warning("The data lists the model's classes in a different order; they are matched by name: %s", lists)
        return [of_data.index(name) for name in of_model]
    if moved := [name for at, name in enumerate(of_model) if name in of_data and of_data[at] != name]:
        raise DatasetError(
            f"the evaluation data has some of the model's classes at other positions, such as {moved[0]}, and lacks "
            f"others: {lists}"
        )
    logger.warning("The class names of the evaluation data differ from the model's; they are matched by position: "
                   "%s", lists)  # fmt: skip
    return None


def check_resumed_classes(of_run: Sequence[str] | None, of_data: Sequence[str] | None, file: str) -> None:
    """Check that a training goes on with the classes that it began with; unknown names fit.

    Raises:
        DatasetError: their number, names or order differ; the message has both lists.
    """
    of_run, of_data = as_list(of_run), as_list(of_data)
    if of_run and of_data and of_run != of_data:
        raise DatasetError(
            f"--resume continues from {file}, whose classes differ from the training data: {_listed(of_run)} there, "
            f"{_listed(of_data)} in the data; train without --resume, or use another output folder"
        )


def known_classes(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``classes`` and ``palette`` that a checkpoint holds, each None where it does not.

    It may be of MMEngine's or MMCV's runner, of ``tools/train_net.py`` (as MMCV's) or of ``tools/pretrain.py``.
    """
    meta = content["meta"] if isinstance(content.get("meta"), Mapping) else {}
    names = content.get("classes")
    names = names if isinstance(names, (list, tuple)) else meta.get("CLASSES")
    return meta.get("dataset_meta") or {"classes": names, "palette": meta.get("PALETTE")}


def as_list(names: Sequence[str] | None) -> list[str]:
    """Return names as a list: some projects write a single one as a string."""
    return [names] if isinstance(names, str) else list(names or [])


def _listed(names: Sequence[str]) -> str:
    """Return how many names there are, and the first few."""
    shown = ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
    return f"{len(names)} ({shown})"
