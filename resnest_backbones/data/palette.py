"""Colours of classes, for all pictures."""

from __future__ import annotations

import colorsys

_GOLDEN_RATIO = 0.618034  # successive multiples of it lie far apart on the circle of hues
# (saturation, value), in the order that keeps the nearest of the first 20 and of the first 40 colours farthest apart
_TONES = ((0.85, 0.95), (1.0, 1.0), (1.0, 0.45), (0.95, 0.65), (0.55, 1.0))


def make_palette(num_classes: int) -> list[list[int]]:
    """Make colours [R, G, B], 0..255, as different as their number allows; the first ones do not depend on it.

    >>> make_palette(2)
    [[242, 36, 36], [0, 74, 255]]
    """
    colours = []
    for number in range(num_classes):
        saturation, value = _TONES[number % len(_TONES)]
        rgb = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, saturation, value)
        colours.append([int(255 * channel) for channel in rgb])
    return colours
