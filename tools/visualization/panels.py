"""Images side by side on one sheet, with titles and a legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from resnest_backbones.data import IMAGE_SUFFIXES
from resnest_backbones.predict.draw import draw_label_map

Panel = tuple[np.ndarray, str]  # an image (H, W, 3), uint8 RGB, and its title

_DPI = 100
_PANEL, _SMALL_PANEL = 480, 260  # longer side in pixels: at least, in one column; exactly, in several
_TITLE, _GAP = 32, 6  # height of a title, space between panels
_ENTRY, _LINE = 170, 26  # width and height of an entry of the legend
_CONTRAST, _OPACITY = 0.4, 0.75  # of the image below the colors of label maps, and of the colors


def picture_file(folder: Path, image: Path, images: Path) -> Path:
    """Return the PNG in ``folder`` for an image, at its place below ``images``: names in sub-folders may be equal.

    Images of one folder that differ in their suffix alone keep it.
    """
    place = image.relative_to(images) if image.is_relative_to(images) and ".." not in image.parts else Path(image.name)
    twins = [file for file in image.parent.iterdir() if file.stem == image.stem]
    has_twin = sum(file.suffix.lower() in IMAGE_SUFFIXES for file in twins) > 1
    return folder / (place.with_name(f"{place.name}.png") if has_twin else place.with_suffix(".png"))


def draw_panels(
    rows: Sequence[Sequence[Panel]], file: Path, *, columns: int = 1, legend: Mapping[str, Sequence[int]] | None = None
) -> None:
    """Draw rows of panels, of equal length, into a PNG whose folder is created; with columns of rows they are smaller.

    The legend has the color [R, G, B], 0..255, of each name.
    """
    columns = min(columns, len(rows))
    across, down = columns * len(rows[0]), math.ceil(len(rows) / columns)
    panels = [panel for row in rows for panel in row]
    sides = np.max([image.shape[:2] for image, _ in panels], axis=0)
    height, width = sides * (max(1, _PANEL / sides.max()) if columns == 1 else _SMALL_PANEL / sides.max())
    full_width = across * width + (across - 1) * _GAP
    entries = max(1, int(full_width // _ENTRY))
    legend_height = _LINE * math.ceil(len(legend) / entries) + _LINE // 2 if legend else 0
    full_height = down * (height + _TITLE) + legend_height

    figure = Figure(figsize=(full_width / _DPI, full_height / _DPI), dpi=_DPI)
    axes = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(
        *(0, legend_height / full_height, 1, 1 - _TITLE / full_height), wspace=_GAP / width, hspace=_TITLE / height
    )
    for each in axes.flat:
        each.axis("off")
    for each, (image, title) in zip(axes.flat, panels, strict=False):
        each.imshow(image)
        each.set_title(title, fontsize=10 if columns == 1 else 8)
    if legend:
        patches = [Patch(color=np.divide(color, 255), label=name) for name, color in legend.items()]
        figure.legend(handles=patches, loc="lower center", ncols=min(entries, len(patches)), frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def paint_labels(image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Return an image (H, W, 3), uint8 RGB, in pale gray under the colors of labels (H, W); -1 stays gray."""
    gray = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64)
    pale = (255 - _CONTRAST * (255 - gray)).round().astype(np.uint8)[..., None].repeat(3, axis=2)
    names = [""] * len(palette)
    return np.asarray(draw_label_map(pale, labels, names, palette, opacity=_OPACITY, legend=False))
