"""A model from the config of either framework, and what of it is exported."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from torch import nn

from resnest_backbones import model_zoo
from resnest_backbones.data import read_classes
from resnest_backbones.errors import DatasetError, ExportError
from resnest_backbones.export.exportable import Exportable

DETECTRON2, MMSEG = "detectron2", "mmseg"
# Imported when they are needed: each needs its framework.
_BUILDERS = {DETECTRON2: "detectors", MMSEG: "segmentors"}


class MakeExportable(Protocol):
    """Makes what is exported of a model."""

    def __call__(self, size: Sequence[int] | None = None, *, fixed: bool = False) -> Exportable:
        """The example image has ``size``, (height, width); with ``fixed`` the file takes no other."""


@dataclass(frozen=True)
class BuiltModel:
    """A model, in evaluation mode on the CPU.

    Attributes:
        model: the framework's own.
        exportable: makes what is exported of it.
    """

    model: nn.Module
    exportable: MakeExportable


def config_file(model: str) -> str:
    """The path of a config that is given as a path, or as the name of a packaged one.

    Raises:
        ExportError: it is neither.
    """
    if Path(model).is_file():
        return model
    if model in model_zoo.list():
        return model_zoo.get_config_file(model)
    raise ExportError(f"MODEL must be a network such as resnest50, a config file or a packaged config, got {model}")


def framework_of(model: str) -> str:
    """Return ``detectron2`` or ``mmseg``, whose config it is."""
    return model_zoo.framework_of(config_file(model))


def build_model(
    model: str, checkpoint: str | None, *, framework: str, options: Sequence[str] = (), classes: str | None = None
) -> BuiltModel:
    """Build the model of a config and fill it.

    Args:
        model: a config file, or the name of a packaged config.
        checkpoint: a file; None leaves the model random.
        framework: ``detectron2`` or ``mmseg``.
        options: changes of the config, as the framework writes them.
        classes: a file of the classes' names, see ``read_class_names``.

    Raises:
        ExportError: the model is of a kind that is not exported; or a file or an option is wrong.
        resnest_backbones.checkpoint.CheckpointError: the checkpoint does not fill the model.
        ImportError: the framework is not installed.
    """
    if find_spec(framework) is None:
        raise ImportError(f"{model} needs {framework}, which is not installed (see README.md)")
    names = None if classes is None else read_class_names(classes)
    builder = importlib.import_module(f"resnest_backbones.export.{_BUILDERS[framework]}")
    built: BuiltModel = builder.build(config_file(model), checkpoint, options=options, classes=names)
    return built


def read_class_names(file: str) -> Sequence[str]:
    """Return the names in a class file, or those of the categories of a COCO JSON in the order of their ids.

    Raises:
        DatasetError: the file cannot be read, or has no names.
    """
    if not file.endswith(".json"):
        return read_classes(file, max_classes=None)
    try:
        categories = json.loads(Path(file).read_text(encoding="utf-8-sig"))["categories"]
        names = [category["name"] for category in sorted(categories, key=lambda category: category["id"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"the class file {file} cannot be read as a COCO JSON: {error}") from error
    if not names:
        raise DatasetError(f"the class file {file} has no categories")
    return names
