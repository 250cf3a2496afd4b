"""Models from the configs of either framework, ready to be exported."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from torch import nn

from resnest_backbones import model_zoo
from resnest_backbones.data import read_classes
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
        classes: a file of the classes' names, see ``read_classes``.

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
    names = None if classes is None else read_classes(classes, max_classes=None)
    builder = importlib.import_module(f"resnest_backbones.export.{_BUILDERS[framework]}")
    built: BuiltModel = builder.build(model_zoo.get_config_file(model), checkpoint, options=options, classes=names)
    return built
