"""Predictions over their image: boxes, masks and names, or the colours of classes with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import draw_segmentation_masks

from resnest_backbones.data import make_palette
from resnest_backbones.export.label_maps import draw_label_map
from resnest_backbones.predict.pictures import FONT, draw_label, enlarge
from resnest_backbones.predict.predictor import Detections, LabelMap

_MASK_OPACITY = 0.5
_MIN_FONT, _MAX_FONT = 14, 40


def draw(
    image: np.ndarray,
    found: Detections | LabelMap,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    *,
    opacity: float = _MASK_OPACITY,
) -> Image.Image:
    """A picture of what was found; a small image is enlarged by a whole number, so that names can be read.

    Args:
        image: (H, W, 3), uint8 RGB.
        found: in it.
        classes: names.
        palette: their colours, [R, G, B] in 0..255; as different as possible where None.
        opacity: of masks and label maps, 0 to 1.
    """
    colours = palette or make_palette(len(classes))
    if isinstance(found, LabelMap):
        pixels = np.asarray(enlarge(Image.fromarray(image), Image.Resampling.LANCZOS))
        factor = pixels.shape[0] // image.shape[0]
        labels = found.labels.repeat(factor, axis=0).repeat(factor, axis=1)
        return draw_label_map(pixels, labels, classes, colours, opacity=opacity)
    return _draw_detections(image, found, classes, colours, opacity)


def _draw_detections(
    image: np.ndarray,
    found: Detections,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    opacity: float,
) -> Image.Image:
    colours = [(palette[label][0], palette[label][1], palette[label][2]) for label in found.classes]
    if found.masks:
        masks = torch.from_numpy(np.stack(found.masks))
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        # The most certain on top of the others, of masks and of boxes.
        pixels = draw_segmentation_masks(pixels, masks.flip(0), alpha=opacity, colors=colours[::-1])
        image = pixels.permute(1, 2, 0).numpy()
    picture = enlarge(Image.fromarray(image), Image.Resampling.LANCZOS)
    factor = picture.width / image.shape[1]
    pen = ImageDraw.Draw(picture)
    size = min(max(max(picture.size) // 50, _MIN_FONT), _MAX_FONT)
    pen.font = ImageFont.truetype(FONT, size)
    boxes = [(factor * x1, factor * y1, factor * x2, factor * y2) for x1, y1, x2, y2 in found.boxes.tolist()]
    things = list(zip(boxes, colours, found.classes, found.scores, strict=True))[::-1]
    for box, colour, _, _ in things:
        pen.rectangle(box, outline=colour, width=max(2, size // 7))
    for box, colour, label, score in things:
        draw_label(pen, f"{classes[label]} {score:.0%}", box, colour, picture.size)
    return picture
