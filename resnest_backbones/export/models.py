"""What the formats take, a network from one tensor to a tuple of tensors, and how a trunk or a config becomes one."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from resnest_backbones import model_zoo
from resnest_backbones.data import read_classes
from resnest_backbones.errors import ExportError
from resnest_backbones.models.resnest import ResNeSt

BACKBONE, DETECTION, SEGMENTATION = "backbone", "detection", "segmentation"
_AXES = {0: "batch", 2: "height", 3: "width"}  # of images
# Imported when they are needed: each needs its framework.
_BUILDERS = {"detectron2": "detectors", "mmseg": "segmentors"}


@dataclass(frozen=True)
class Exportable:
    """A network to be exported."""

    module: nn.Module  # in evaluation mode, on the CPU, in float32: the input tensor -> a tuple of output tensors
    input_name: str
    output_names: tuple[str, ...]  # in order
    example: Tensor  # an input that the network is traced with
    dynamic: Mapping[int, str]  # dimensions of the input that may have other sizes -> their names
    # What a user of the file needs to prepare images and to read the outputs, in JSON's types. ``task`` is one of the
    # names above.
    metadata: Mapping[str, Any] = field(default_factory=dict)
    # Returns the module that ``torch.export`` takes if it cannot trace ``module``; it computes the same. Raises
    # ``ExportError`` if the example is not suited.
    program: Callable[[], nn.Module] | None = None
    rows: bool = False  # the first dimension of the outputs is the number of detections, which depends on the image


class _Features(nn.Module):
    """A trunk whose features come as a tuple: the core and Detectron2 have a dict, MMSegmentation a tuple already."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk(images)
        return tuple(features.values() if isinstance(features, Mapping) else features)


def export_backbone(model: nn.Module, size: Sequence[int] = (224, 224), *, fixed: bool = False) -> Exportable:
    """Return the ResNeSt of a model, ready to be exported.

    Args:
        model: a trunk, or a model that contains one, such as a detector or a segmentor.
        size: height and width in pixels of the images that the network is traced with.
        fixed: the file takes exactly two images of that size, instead of any number and size.

    Returns:
        Images (N, channels, H, W), normalized as the weights expect -> one feature map for each of ``out_features``.

    Raises:
        ExportError: the model contains no ResNeSt, or more than one.
    """
    trunks = [module for module in model.modules() if isinstance(module, ResNeSt)]
    if len(trunks) != 1:
        raise ExportError(
            f"the model must contain one ResNeSt from resnest_backbones, {type(model).__name__} has {len(trunks)}"
        )
    (trunk,) = trunks
    names = tuple(trunk.out_features)
    channels = next(module for module in trunk.modules() if isinstance(module, nn.Conv2d)).in_channels
    return Exportable(
        _Features(copy.deepcopy(trunk)).cpu().float().eval(),
        "images",
        names,
        torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0)) - 0.5,
        {} if fixed else _AXES,
        {
            "task": BACKBONE,
            "network": trunk.spec.name,
            "strides": dict(trunk.feature_strides),
            "channels": dict(trunk.feature_channels),
        },
    )


@dataclass(frozen=True)
class BuiltModel:
    """A model of a framework, in evaluation mode on the CPU.

    ``exportable(size=None, *, fixed=False)`` makes it ready to be exported, traced with an image of ``size``, (height,
    width); with ``fixed`` the file takes no other.
    """

    model: nn.Module
    exportable: Callable[..., Exportable]


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
        ResNeStError: the config, its options, the class file or the checkpoint cannot be used; the message says why.
        ImportError: the framework is not installed.
    """
    framework = framework or model_zoo.framework_of(model)
    if find_spec(framework) is None:
        raise ImportError(f"{model} needs {framework}, which is not installed (see README.md)")
    names = None if classes is None else read_classes(classes, max_classes=None)
    builder = importlib.import_module(f"resnest_backbones.export.{_BUILDERS[framework]}")
    built: BuiltModel = builder.build(model_zoo.get_config_file(model), checkpoint, options=options, classes=names)
    return built
