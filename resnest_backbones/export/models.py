"""Models from the configs of either framework, ready to be exported."""

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
from resnest_backbones.errors import DatasetError
from resnest_backbones.export.exportable import Exportable

# Imported when they are needed: each needs its framework.
_BUILDERS = {"detectron2": "detectors", "mmseg": "segmentors"}


class MakeExportable(Protocol):
    """Makes a model ready to be exported."""

    def __call__(self, size: Sequence[int] | None = None, *, fixed: bool = False) -> Exportable:
        """Trace with an image of ``size``, (height, width); with ``fixed`` the file takes no other."""


@dataclass(frozen=True)
class BuiltModel:
    """A model, in evaluation mode on the CPU.

    Attributes:
        model: the framework's own.
        exportable: makes it ready to be exported.
    """

    model: nn.Module
    exportable: MakeExportable


def build_model(
    model: str,
    checkpoint: str | None,
    *,
    framework: str | None = None,
    options: Sequence[str] = (),
    classes: str | None = None,
) -> BuiltModel:
    """Build the model of a config and fill it from a checkpoint.

    Args:
        model: a config file, or the name of a packaged config.
        checkpoint: a file; None leaves the model random.
        framework: ``detectron2`` or ``mmseg``; detected from the config if None.
        options: config overrides, in the framework's syntax.
        classes: a file of the classes' names, see ``read_class_names``.

    Raises:
        ConfigError: there is no such config.
        ExportError: this kind of model cannot be exported, or the config cannot be used with the options.
        DatasetError: the class file is wrong.
        CheckpointError: the checkpoint does not fill the model.
        ImportError: the framework is not installed.
    """
    framework = framework or model_zoo.framework_of(model)
    if find_spec(framework) is None:
        raise ImportError(f"{model} needs {framework}, which is not installed (see README.md)")
    names = None if classes is None else read_class_names(classes)
    builder = importlib.import_module(f"resnest_backbones.export.{_BUILDERS[framework]}")
    built: BuiltModel = builder.build(model_zoo.get_config_file(model), checkpoint, options=options, classes=names)
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
