"""Predictions and labels drawn over their image: masks, boxes and names, or the colors of classes with a legend.

Small images are enlarged by a whole number, so that names can be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from resnest_backbones.data import palette_of
from resnest_backbones.predict.predictor import Detections

Color = tuple[int, ...]  # red, green, blue in 0..255
Palette = Sequence[Sequence[int]]  # the color of each class

_MIN_SIDE = 480  # pixels of the longer side; smaller images are enlarged
_FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
_MIN_FONT, _MAX_FONT = 13, 40  # pixels
_MAX_NAME = 32  # letters of a class's name in a legend


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    classes: Sequence[str],
    palette: Palette | None = None,
    *,
    opacity: float = 0.5,
    show_scores: bool = True,
) -> Image.Image:
    """Draw masks, boxes and names over an image; those with the highest scores come on top.

    Args:
        image: (H, W, 3), uint8 RGB.
        detections: in the image, sorted by score.
        classes: names.
        palette: colors of the classes; ``palette_of``'s if None.
        opacity: of masks, 0 to 1.
        show_scores: write the score behind the name; ground truth has none.
    """
    of_classes = _colors(palette, classes)
    labels, scores = detections.classes[::-1].tolist(), detections.scores[::-1].tolist()
    colors = [of_classes[label] for label in labels]
    picture = _enlarge(image)
    if not labels:
        return picture
    if detections.masks:
        masks, factor = np.stack(detections.masks[::-1]), picture.height // image.shape[0]
        large = torch.from_numpy(masks.repeat(factor, axis=1).repeat(factor, axis=2))
        picture = to_pil_image(draw_segmentation_masks(pil_to_tensor(picture), large, alpha=opacity, colors=colors))
    size = _font_size(picture.size)
    boxes = torch.from_numpy(detections.boxes[::-1] * (picture.width / image.shape[1]))
    picture = to_pil_image(draw_bounding_boxes(pil_to_tensor(picture), boxes, colors=colors, width=max(2, size // 7)))
    pen = ImageDraw.Draw(picture)
    pen.font = ImageFont.truetype(_FONT, size)
    for box, color, label, score in zip(boxes.tolist(), colors, labels, scores, strict=True):
        _write(pen, f"{classes[label]} {score:.0%}" if show_scores else classes[label], box, color, picture.size)
    return picture


def draw_label_map(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Palette | None = None,
    *,
    opacity: float = 0.5,
    legend: bool = True,
) -> Image.Image:
    """Draw the colors of a label map over its image, and a legend below it, the largest class first.

    Args:
        image: (H, W, 3), uint8 RGB.
        labels: (H, W) integers, from 0; those that are not of a class, such as -1 or 255, are not colored.
        classes: names.
        palette: colors of the classes; ``palette_of``'s if None.
        opacity: of the colors, 0 to 1.
        legend: add the legend.
    """
    colors, picture = _colors(palette, classes), _enlarge(image)
    known = (labels >= 0) & (labels < len(classes))
    counts = np.bincount(labels[known], minlength=len(classes))
    present = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    painted, where = (
        Image.fromarray(pixels).resize(picture.size, Image.Resampling.NEAREST)
        for pixels in (np.array(colors, dtype=np.uint8)[np.where(known, labels, 0)], known)
    )
    picture = Image.composite(Image.blend(picture, painted, opacity), picture, where)
    if not legend:
        return picture
    shorter = [name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…" for name in classes]
    names = [f"{shorter[label]}  {counts[label] / labels.size:.1%}" for label in present]
    below = draw_legend(names, [colors[label] for label in present], picture.width)
    page = Image.new("RGB", (max(picture.width, below.width), picture.height + below.height), "white")
    page.paste(picture)
    page.paste(below, (0, picture.height))
    return page


def draw_legend(names: Sequence[str], palette: Palette, width: int) -> Image.Image:
    """Draw patches of color with names beside them, in as many equal columns as fit into the width in pixels."""
    size = _font_size((width,))
    font, row, gap = ImageFont.truetype(_FONT, size), round(1.6 * size), round(0.5 * size)
    column = max((int(font.getlength(name)) for name in names), default=0) + row + 3 * gap
    columns = max(1, min(width // column, len(names)))
    rows = math.ceil(len(names) / columns)
    legend = Image.new("RGB", (columns * column, rows * row + 2 * gap), "white")
    pen = ImageDraw.Draw(legend)
    for number, (name, color) in enumerate(zip(names, palette, strict=True)):
        x, y = gap + number // rows * column, gap + number % rows * row
        pen.rectangle((x, y + 2, x + row, y + row - 2), fill=tuple(color), outline="black")
        pen.text((x + row + gap, y + row / 2), name, fill="black", anchor="lm", font=font)
    return legend


def _colors(palette: Palette | None, classes: Sequence[str]) -> list[Color]:
    return [tuple(map(int, color)) for color in palette or palette_of(classes)]


def _enlarge(image: np.ndarray) -> Image.Image:
    height, width = image.shape[:2]
    factor = max(1, math.ceil(_MIN_SIDE / max(height, width)))
    return Image.fromarray(image).resize((factor * width, factor * height), Image.Resampling.LANCZOS)


def _write(pen: ImageDraw.ImageDraw, text: str, box: Sequence[float], color: Color, size: tuple[int, int]) -> None:
    """Write on a plate below the box, so that nothing in it is hidden, or above it at the lower end of the image."""
    _, _, width, height = pen.textbbox((2, 2), text, anchor="lt")
    x = max(0, min(box[0], size[0] - width - 3))
    y = box[3] + 1 if box[3] + 5 + height <= size[1] else max(0, box[1] - height - 4)
    pen.rectangle((x, y, x + width + 3, y + height + 4), fill=color)
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 140
    pen.text((x + 2, y + 2), text, fill="black" if bright else "white", anchor="lt")


def _font_size(sides: Sequence[int]) -> int:
    return min(max(max(sides) // 50, _MIN_FONT), _MAX_FONT)
