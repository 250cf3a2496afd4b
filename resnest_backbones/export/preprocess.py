"""From an image to a network's input: its size, order of channels and type.

It does what the frameworks do (Detectron2's ``ResizeShortestEdge``, MMCV's ``Resize``), so that an exported file needs
neither of them. H and W are height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnest_backbones.export.models import DETECTION


def prepare_image(image: np.ndarray, metadata: Mapping[str, Any]) -> tuple[Tensor, tuple[int, int]]:
    """Resize an image and make it the input of a network.

    Args:
        image: (H, W, 3), uint8 RGB.
        metadata: of the network (``export.Exportable``).

    Returns:
        The input, float32 in 0..255 in the network's order of channels: (3, h, w) for a detector, (1, 3, h, w) for a
        segmentor; and (h, w).
    """
    resize = metadata.get("resize")
    if resize is not None:
        if metadata["task"] == DETECTION:
            image = resize_shortest(image, resize["shortest"], resize["longest"])
        else:
            image = resize_as_pipeline(image, resize)
    pixels = image if metadata["channel_order"] == "RGB" else image[..., ::-1]
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
    return x if metadata["task"] == DETECTION else x[None], (image.shape[0], image.shape[1])


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


def resize_as_pipeline(image: np.ndarray, resize: Mapping[str, Any]) -> np.ndarray:
    """Resize an image as the step ``Resize`` of a test pipeline of MMSegmentation does.

    Args:
        image: (H, W, 3), uint8.
        resize: ``scale``, [width, height]; ``keep_ratio``, which fits the image into that scale, either side up; and
            ``backend``, ``cv2`` or ``pillow``.
    """
    height, width = image.shape[:2]
    new_width, new_height = resize["scale"]
    if resize["keep_ratio"]:
        factor = min(max(resize["scale"]) / max(height, width), min(resize["scale"]) / min(height, width))
        new_width, new_height = int(width * factor + 0.5), int(height * factor + 0.5)
    if resize["backend"] == "pillow":
        return np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    import cv2

    return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
