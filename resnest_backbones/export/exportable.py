"""What the formats take: a network from one tensor to a tuple of tensors, and the metadata in its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

BACKBONE, DETECTION, SEGMENTATION = "backbone", "detection", "segmentation"


@dataclass(frozen=True)
class Exportable:
    """A network to be exported.

    Attributes:
        module: in evaluation mode, on the CPU, in float32: the input tensor -> a tuple of output tensors.
        input_name: of the input.
        output_names: of the outputs, in order.
        example: an input that the network is traced with.
        dynamic: dimensions of the input that may have other sizes -> their names.
        metadata: what a user of the file needs to prepare images and to read the outputs, in JSON's types. ``task`` is
            one of ``backbone``, ``detection``, ``segmentation``.
        program: returns the module that ``torch.export`` takes if it cannot trace ``module``; it computes the same.
            Raises ``ExportError`` if the example is not suited.
        rows: the first dimension of the outputs is the number of detections, which depends on the image.
    """

    module: nn.Module
    input_name: str
    output_names: tuple[str, ...]
    example: Tensor
    dynamic: Mapping[int, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    program: Callable[[], nn.Module] | None = None
    rows: bool = False
