"""Label maps held against ground truth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from resnest_backbones.predict.pictures import colour_labels, enlarge, side_by_side, with_title

TITLES = ("image", "ground truth", "prediction", "false positives", "misses")


def draw(
    image: Image.Image, truth: np.ndarray, found: np.ndarray, colours: Mapping[int, tuple[int, int, int]]
) -> Image.Image:
    """Five panels: image, ground truth, prediction, and the wrong pixels by the class found and by the true one.

    Args:
        image: RGB.
        truth: indices of classes (H, W); those without a colour, and -1, stay grey.
        found: likewise.
        colours: of classes.
    """
    wrong = (truth != found) & (truth >= 0)
    maps = (truth, found, np.where(wrong, found, -1), np.where(wrong, truth, -1))
    panels = [with_title(enlarge(image, Image.Resampling.LANCZOS), TITLES[0])]
    share = wrong.sum() / max((truth >= 0).sum(), 1)
    for title, labels in zip(TITLES[1:], maps, strict=True):
        drawn = enlarge(colour_labels(image, labels, colours), Image.Resampling.NEAREST)
        panels.append(with_title(drawn, f"{title}: {share:.1%} wrong" if title == TITLES[3] else title))
    return side_by_side(panels)
