"""Label maps as pictures: the colours of the classes, drawn over the image, with a legend. Needs no framework."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
_MIN_FONT, _MAX_FONT = 12, 40
_MAX_NAME = 32  # letters of a class's name in the legend


def draw_label_map(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    opacity: float,
) -> Image.Image:
    """The colours of a label map over its image, and below a legend of the classes in it, the largest first.

    Args:
        image: (H, W, 3), uint8 RGB.
        labels: (H, W), from 0; those beyond the classes are not coloured.
        classes: names.
        palette: their colours, [R, G, B] in 0..255.
        opacity: of the colours, 0 to 1.
    """
    counts = np.bincount(labels.ravel(), minlength=len(classes))[: len(classes)]
    colours = np.concatenate([np.asarray(palette, dtype=np.float64), np.zeros((256, 3))])[labels]
    share = np.where(labels < len(classes), opacity, 0.0)[..., None]
    mixed = Image.fromarray((image * (1 - share) + colours * share).round().astype(np.uint8))
    present = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    entries = [
        (f"{_shortened(classes[label])}  {100 * counts[label] / labels.size:.1f}%", tuple(palette[label]))
        for label in present
    ]
    legend = _draw_legend(entries, mixed.width, _font_size(mixed))
    picture = Image.new("RGB", (max(mixed.width, legend.width), mixed.height + legend.height), "white")
    picture.paste(mixed)
    picture.paste(legend, (0, mixed.height))
    return picture


def _font_size(image: Image.Image) -> int:
    return min(max(max(image.size) // 45, _MIN_FONT), _MAX_FONT)


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def _draw_legend(entries: Sequence[tuple[str, tuple[int, ...]]], width: int, size: int) -> Image.Image:
    """Patches of colour with names beside them, in as many equal columns as fit into the width."""
    font = ImageFont.truetype(_FONT, size)
    row, gap = round(1.6 * size), round(0.5 * size)
    column = max((int(font.getlength(text)) for text, _ in entries), default=0) + row + 3 * gap
    columns = max(1, min(width // column, len(entries)))
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (columns * column, rows * row + 2 * gap), "white")
    draw = ImageDraw.Draw(legend)
    for number, (text, colour) in enumerate(entries):
        x, y = gap + number // rows * column, gap + number % rows * row
        draw.rectangle((x, y + 2, x + row, y + row - 2), fill=colour, outline="black")
        draw.text((x + row + gap, y + row / 2), text, fill="black", anchor="lm", font=font)
    return legend
