"""Detectron2's detectors in a form that ``torch.export`` can trace.

While it traces, some sizes are unknown: that of the image, and the number of boxes left after each step. In a few
places Detectron2 branches on such a number, only to skip work when there is nothing to remove. These places are patched
during tracing so that they do not branch. The results are the same; non-maximum suppression by class, done as
torchvision does it for few boxes and in ONNX, may round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.ops import nms

_PROPOSALS = "detectron2.modeling.proposal_generator.proposal_utils"
_POOLERS = "detectron2.modeling.poolers"
_LENGTHS = ("detectron2.structures.instances", _POOLERS)
_MINIMA = (_PROPOSALS, "detectron2.modeling.meta_arch.dense_detector")


class TraceableDetector(nn.Module):
    """A detector from the pixels of one image to a tuple of tensors.

    Args:
        model: Detectron2's, in evaluation mode.
        detect: the model and Detectron2's inputs -> the ``Instances`` of the image.
        fields: of the ``Instances``, in the order of the outputs.
    """

    def __init__(self, model: nn.Module, detect: Callable[[Any, Any], Any], fields: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._detect = detect
        self._fields = fields

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the fields, each with a row for every detection in the image (3, H, W), and (H, W)."""
        with _unknown_sizes():
            found = self._detect(self.model, [{"image": image}])
        values = (found.get(field) for field in self._fields)
        size = [torch.scalar_tensor(side, dtype=torch.int64) for side in image.shape[1:]]
        return (*(value.tensor if isinstance(value, Boxes) else value for value in values), torch.stack(size))


@contextmanager
def _unknown_sizes() -> Iterator[None]:
    """Patch Detectron2 so that it does not branch on sizes; not for two threads at once."""
    with ExitStack() as stack:
        stack.enter_context(patch_builtin_len(_LENGTHS))
        for owner, name, value in (
            (Boxes, "__init__", _set_boxes),
            (Boxes, "clip", _clip_boxes),
            (ImageList, "from_tensors", staticmethod(_pad_image)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(mock.patch(f"{_PROPOSALS}._is_tracing", lambda: True))  # removes empty boxes, if any
        stack.enter_context(mock.patch("detectron2.modeling.anchor_generator._create_grid_offsets", _place_anchors))
        stack.enter_context(mock.patch(f"{_POOLERS}.convert_boxes_to_pooler_format", _number_boxes))
        stack.enter_context(mock.patch("torchvision.ops.boxes.batched_nms", _suppress_by_class))
        for module in _MINIMA:
            stack.enter_context(mock.patch(f"{module}.min", torch.sym_min, create=True))
        stack.enter_context(_NeverAll())
        yield


class _NeverAll(TorchFunctionMode):
    """Answers ``x.all()`` with False: boxes that are not finite are removed unconditionally."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.all and len(args) == 1 and not kwargs:
            return False
        return func(*args, **(kwargs or {}))


def _set_boxes(boxes: Boxes, tensor: Tensor) -> None:
    boxes.tensor = tensor.to(torch.float32)


def _clip_boxes(boxes: Boxes, size: tuple[int, int]) -> None:
    height, width = size
    x1, y1, x2, y2 = boxes.tensor.unbind(-1)
    sides = (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height))
    boxes.tensor = torch.stack(sides, dim=-1)


def _pad_image(
    tensors: Sequence[Tensor],
    size_divisibility: int = 0,
    pad_value: float = 0.0,
    padding_constraints: Mapping[str, int] | None = None,
) -> ImageList:
    """Pad one image at the lower and right edge as ``ImageList.from_tensors`` does."""
    (image,) = tensors
    height, width = image.shape[-2:]
    constraints = padding_constraints or {}
    divisor = max(constraints.get("size_divisibility", size_divisibility), 1)
    square = constraints.get("square_size", 0)
    below, right = (((square - side) if square > 0 else 0) for side in (height, width))
    below, right = (pad + (-(side + pad)) % divisor for pad, side in ((below, height), (right, width)))
    return ImageList(F.pad(image, (0, right, 0, below), value=pad_value)[None], [(height, width)])


def _place_anchors(size: Sequence[int], stride: int, offset: float, target_device_tensor: Tensor) -> tuple[Tensor, ...]:
    """Return x and y of the anchors' centers in pixels, (H x W,) each, for a feature map of height and width ``size``.

    Detectron2 steps from center to center with ``arange``, whose length PyTorch knows as a rounded quotient only.
    """
    device = target_device_tensor.device
    y, x = ((torch.arange(side, dtype=torch.float32, device=device) + offset) * stride for side in size)
    height, width = size
    return x[None].expand(height, width).reshape(-1), y[:, None].expand(height, width).reshape(-1)


def _number_boxes(boxes: Sequence[Boxes]) -> Tensor:
    """Return the boxes of one image as (M, 5): the number of the image, 0, and the corners."""
    (of_image,) = boxes
    return torch.cat([torch.zeros_like(of_image.tensor[:, :1]), of_image.tensor], dim=1)


def _suppress_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Suppress boxes as ``torchvision.ops.batched_nms`` does, without its branch on the number of boxes.

    Boxes of different classes are moved apart, so that they cannot overlap. This rounds coordinates by some thousandths
    of a pixel for 80 classes and 1333 pixels.
    """
    apart = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
    return nms(boxes + (classes.to(boxes) * apart)[:, None], scores, threshold)
