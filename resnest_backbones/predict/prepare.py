"""The way of an image to a network, and of its results back: sizes, windows, masks.

It does what the frameworks do (Detectron2's ``ResizeShortestEdge`` and ``detector_postprocess``, MMCV's ``Resize``,
MMSegmentation's ``slide_inference``), so that an exported file needs neither of them.

Shapes: H, W height and width; M detections; C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from resnest_backbones.export.exportable import DETECTION


def to_tensor(image: np.ndarray, channel_order: str) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32 in the order that a network wants, ``RGB`` or ``BGR``."""
    pixels = image if channel_order == "RGB" else image[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()


def prepare_image(image: np.ndarray, metadata: Mapping[str, Any]) -> tuple[Tensor, tuple[int, int]]:
    """An image as a network takes it.

    Args:
        image: (H, W, 3), uint8 RGB.
        metadata: of the network (``export.Exportable``).

    Returns:
        The input, (3, h, w) of a detector or (1, 3, h, w) of a segmentor, and its height and width.
    """
    resize = metadata.get("resize")
    if metadata["task"] == DETECTION:
        resized = image if resize is None else resize_shortest(image, resize["shortest"], resize["longest"])
        return to_tensor(resized, metadata["channel_order"]), resized.shape[:2]
    resized = resize_as_pipeline(image, resize)
    return to_tensor(resized, metadata["channel_order"])[None], resized.shape[:2]


# Detection


def resize_shortest(image: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """Resize an image so that its shorter side is ``shortest``, or its longer side ``longest`` if that is smaller.

    The rule and the rounding are those of Detectron2's ``ResizeShortestEdge``; a ``shortest`` of 0 changes nothing.
    """
    height, width = image.shape[:2]
    if shortest == 0:
        return image
    scale = shortest / min(height, width)
    sides = (shortest, scale * width) if height < width else (scale * height, shortest)
    if max(sides) > longest:
        factor = longest / max(sides)
        sides = (sides[0] * factor, sides[1] * factor)
    new_height, new_width = (int(side + 0.5) for side in sides)
    return np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))


def scale_boxes(boxes: Tensor, found_in: Sequence[int], size: Sequence[int]) -> Tensor:
    """Boxes (M, 4) in an image of one size, (height, width), brought to another, and cut at its borders."""
    (height, width), (from_height, from_width) = size, found_in
    scales = torch.tensor([width / from_width, height / from_height] * 2, dtype=boxes.dtype)
    borders = torch.tensor([width, height] * 2, dtype=boxes.dtype)
    return (boxes * scales).clamp(min=0).minimum(borders)


def paste_mask(mask: Tensor, box: Tensor, size: Sequence[int], threshold: float = 0.5) -> np.ndarray:
    """Lay a mask over the image that its box is in.

    Args:
        mask: (S, S), probabilities in the frame of the box.
        box: (4,), left, top, right, bottom in pixels.
        size: height and width of the image.
        threshold: from which probability on a pixel belongs to the object.

    Returns:
        (height, width), bool; pixels are sampled at their centres, as in Detectron2's ``paste_masks_in_image``.
    """
    height, width = size
    left, top = (max(int(value) - 1, 0) for value in box[:2].floor())
    right, bottom = (min(int(value) + 1, side) for value, side in zip(box[2:].ceil(), (width, height), strict=True))
    x = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    sampled = functional.grid_sample(mask[None, None], grid[None].to(mask.dtype), align_corners=False)
    pasted = np.zeros((height, width), dtype=bool)
    pasted[top:bottom, left:right] = (sampled[0, 0] >= threshold).numpy()
    return pasted


# Segmentation


def resize_as_pipeline(image: np.ndarray, resize: Mapping[str, Any] | None) -> np.ndarray:
    """Resize an image as the step ``Resize`` of a test pipeline does.

    Args:
        image: (H, W, 3), uint8.
        resize: ``scale``, [width, height]; ``keep_ratio``, which fits the image into that scale, either side up; and
            ``backend``, ``cv2`` or ``pillow``. None changes nothing.
    """
    if resize is None:
        return image
    height, width = image.shape[:2]
    new_width, new_height = resize["scale"]
    if resize["keep_ratio"]:
        factor = min(max(resize["scale"]) / max(height, width), min(resize["scale"]) / min(height, width))
        new_width, new_height = int(width * factor + 0.5), int(height * factor + 0.5)
    if resize["backend"] == "pillow":
        return np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    import cv2

    return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)


def scores_by_windows(run: Callable[[Tensor], Tensor], images: Tensor, window: Mapping[str, Sequence[int]]) -> Tensor:
    """Scores of an image that is looked at through overlapping windows; where they overlap, their mean.

    Args:
        run: images (N, 3, h, w) -> scores (N, C, h, w).
        images: (N, 3, H, W).
        window: ``size`` and ``stride``, each height and width; the last windows end where the image does.
    """
    spans = [
        _spans(side, size, stride)
        for side, size, stride in zip(images.shape[2:], window["size"], window["stride"], strict=True)
    ]
    total: Tensor | None = None
    count = images.new_zeros(1, 1, *images.shape[2:])
    for top, bottom in spans[0]:
        for left, right in spans[1]:
            scores = run(images[:, :, top:bottom, left:right])
            if total is None:
                total = scores.new_zeros(*scores.shape[:2], *images.shape[2:])
            total[:, :, top:bottom, left:right] += scores
            count[:, :, top:bottom, left:right] += 1
    if total is None:
        raise ValueError(f"images must have pixels, got the shape {tuple(images.shape)}")
    return total / count


def _spans(side: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Begin and end of the windows along a side."""
    number = max(side - size + stride - 1, 0) // stride + 1
    ends = [min(i * stride + size, side) for i in range(number)]
    return [(max(end - size, 0), end) for end in ends]


def labels_of(scores: Tensor, size: Sequence[int], *, align_corners: bool, threshold: float | None) -> np.ndarray:
    """The label map (height, width) of scores (1, C, H, W), brought to ``size``; a single class has a threshold."""
    scores = functional.interpolate(scores, tuple(size), mode="bilinear", align_corners=align_corners)[0]
    if threshold is not None:
        return (scores[0].sigmoid() > threshold).long().numpy()
    return scores.argmax(dim=0).numpy()
