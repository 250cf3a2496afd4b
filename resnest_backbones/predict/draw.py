"""Predictions and labels drawn over their image: masks, boxes and names, or the colours of classes with a legend.

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
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from resnest_backbones.data import make_palette
from resnest_backbones.predict.predictor import Detections

_OPACITY = 0.5
_MIN_SIDE = 480  # pixels of the longer side that small images are enlarged to
_MIN_FONT, _MAX_FONT = 13, 40  # pixels
_MAX_NAME = 32  # letters of a class's name in a legend

Palette = Sequence[Sequence[int]]  # [R, G, B] in 0..255 of each class


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    classes: Sequence[str],
    palette: Palette | None = None,
    *,
    opacity: float = _OPACITY,
    show_scores: bool = True,
) -> Image.Image:
    """Draw masks, boxes and names over an image; those with the highest scores come on top.

    Args:
        image: (H, W, 3), uint8 RGB.
        detections: in the image, sorted by score.
        classes: names.
        palette: colours of the classes; ``make_palette``'s if None.
        opacity: of masks, 0 to 1.
        show_scores: write the score behind the name; ground truth has none.
    """
    palette = palette or make_palette(len(classes))
    colors = [_rgb(palette[label]) for label in detections.classes[::-1]]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if detections.masks:
        masks = torch.from_numpy(np.stack(detections.masks[::-1]))
        pixels = draw_segmentation_masks(pixels, masks, alpha=opacity, colors=list(colors))
    picture = enlarge(_picture(pixels), Image.Resampling.LANCZOS)
    if not colors:
        return picture
    size = _font_size(picture)
    boxes = torch.from_numpy(detections.boxes[::-1] * (picture.width / image.shape[1]))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    picture = _picture(draw_bounding_boxes(pixels, boxes, colors=list(colors), width=max(2, size // 7)))
    pen = ImageDraw.Draw(picture)
    pen.font = _font(size)
    for box, color, label, score in zip(
        boxes.tolist(), colors, detections.classes[::-1], detections.scores[::-1], strict=True
    ):
        _write(pen, f"{classes[label]} {score:.0%}" if show_scores else classes[label], box, color, picture.size)
    return picture


def draw_label_map(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Palette | None = None,
    *,
    opacity: float = _OPACITY,
    legend: bool = True,
) -> Image.Image:
    """Draw the colours of a label map over its image, and a legend below it, the largest class first.

    Args:
        image: (H, W, 3), uint8 RGB.
        labels: (H, W) integers, from 0; those that are not of a class, such as -1 or 255, are not coloured.
        classes: names.
        palette: colours of the classes; ``make_palette``'s if None.
        opacity: of the colours, 0 to 1.
        legend: add the legend.
    """
    palette = palette or make_palette(len(classes))
    picture = enlarge(Image.fromarray(image), Image.Resampling.LANCZOS)
    factor = picture.width // image.shape[1]
    counts = np.bincount(labels[(labels >= 0) & (labels < len(classes))], minlength=len(classes))
    present = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    if present:
        large = torch.from_numpy(labels.astype(np.int64).repeat(factor, axis=0).repeat(factor, axis=1))
        masks = torch.stack([large == label for label in present])
        colors = [_rgb(palette[label]) for label in present]
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        picture = _picture(draw_segmentation_masks(pixels, masks, alpha=opacity, colors=list(colors)))
    if not legend:
        return picture
    names = [f"{_shorten(classes[label])}  {counts[label] / labels.size:.1%}" for label in present]
    plate = draw_legend(names, [palette[label] for label in present], picture.width)
    page = Image.new("RGB", (max(picture.width, plate.width), picture.height + plate.height), "white")
    page.paste(picture)
    page.paste(plate, (0, picture.height))
    return page


def draw_legend(names: Sequence[str], palette: Palette, width: int) -> Image.Image:
    """Draw patches of colour with names beside them, in as many equal columns as fit into the width in pixels."""
    size = _font_size(Image.new("1", (width, 1)))
    font, row, gap = _font(size), round(1.6 * size), round(0.5 * size)
    column = max((int(font.getlength(name)) for name in names), default=0) + row + 3 * gap
    columns = max(1, min(width // column, len(names)))
    rows = math.ceil(len(names) / columns)
    legend = Image.new("RGB", (columns * column, rows * row + 2 * gap), "white")
    pen = ImageDraw.Draw(legend)
    for number, (name, color) in enumerate(zip(names, palette, strict=True)):
        x, y = gap + number // rows * column, gap + number % rows * row
        pen.rectangle((x, y + 2, x + row, y + row - 2), fill=_rgb(color), outline="black")
        pen.text((x + row + gap, y + row / 2), name, fill="black", anchor="lm", font=font)
    return legend


def enlarge(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    """Enlarge a small image by a whole number."""
    factor = max(1, math.ceil(_MIN_SIDE / max(image.size)))
    return image if factor == 1 else image.resize((image.width * factor, image.height * factor), resampling)


def _write(
    pen: ImageDraw.ImageDraw, text: str, box: Sequence[float], color: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """Write on a plate below the box, so that nothing in it is hidden, or above it at the lower end of the image."""
    _, _, width, height = pen.textbbox((2, 2), text, anchor="lt")
    x = max(0, min(box[0], size[0] - width - 3))
    y = box[3] + 1 if box[3] + 5 + height <= size[1] else max(0, box[1] - height - 4)
    pen.rectangle((x, y, x + width + 3, y + height + 4), fill=color)
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 140
    pen.text((x + 2, y + 2), text, fill="black" if bright else "white", anchor="lt")


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _font_size(image: Image.Image) -> int:
    return min(max(max(image.size) // 50, _MIN_FONT), _MAX_FONT)


def _rgb(color: Sequence[int]) -> tuple[int, int, int]:
    return int(color[0]), int(color[1]), int(color[2])


def _picture(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
