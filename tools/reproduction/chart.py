"""Curves as SVG, to stand inside an HTML page, which gives it its colours.

Written here and not by matplotlib, whose SVG has fixed colours, so that no page can be dark, and which the report would
need for nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 40
_POINTS = 200  # a curve has no more: a page of all rows stays small, and no screen shows more
_MARKED_POINTS = 40  # a curve of no more has a mark on each

# The page colours the classes of curves; they differ in their dashes too, for eyes that see no difference of colour.
CURVE_CLASSES = ("curve-0", "curve-1", "curve-2")


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: what a reader calls it.
        points: (iteration, y), in growing iterations; finite.
        level: a published figure, drawn as a dashed line through the whole chart; None where there is none.
    """

    label: str
    points: Sequence[tuple[int, float]]
    level: float | None = None


def draw(identifier: str, title: str, description: str, x_label: str, lines: Sequence[Line]) -> str:
    """An ``<svg>`` element.

    Args:
        identifier: that no other element of the page has.
        title: for those who cannot see the chart, as is the description.
        description: what the chart shows.
        x_label: under the horizontal axis.
        lines: at least one, at most as many as ``CURVE_CLASSES``, each with at least one point.
    """
    if not 0 < len(lines) <= len(CURVE_CLASSES) or not all(line.points for line in lines):
        raise ValueError(f"lines must be 1 to {len(CURVE_CLASSES)} with at least one point each, got {len(lines)}")
    thinned = [thin(line.points) for line in lines]
    levels = [line.level for line in lines if line.level is not None]
    x_axis = _IterationAxis([x for points in thinned for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis([*(y for points in thinned for _, y in points), *levels], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg id="{escape(identifier)}" class="chart" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'aria-labelledby="{escape(identifier)}-title {escape(identifier)}-desc">',
        f'<title id="{escape(identifier)}-title">{escape(title)}</title>',
        f'<desc id="{escape(identifier)}-desc">{escape(description)}</desc>',
        *_grid(x_axis, y_axis, x_label),
    ]
    for kind, line, points in zip(CURVE_CLASSES, lines, thinned, strict=False):
        parts += _curve(kind, line, points, x_axis, y_axis)
    return "\n".join([*parts, "</svg>"])


def thin(points: Sequence[tuple[int, float]], most: int = _POINTS) -> list[tuple[float, float]]:
    """At most so many points: the means of neighbours, of equally many each.

    >>> thin([(1, 1.0), (2, 3.0), (3, 5.0), (4, 9.0)], most=2)
    [(1.5, 2.0), (3.5, 7.0)]
    """
    size = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, evenly spaced by 1, 2 or 5 times a power of ten.

    >>> ticks(0.0, 90000.0)
    [0.0, 20000.0, 40000.0, 60000.0, 80000.0, 100000.0]
    """
    if high - low < 1e-9 * max(1.0, abs(low), abs(high)):  # one value, as far as a picture shows
        margin = abs(low) / 2 if abs(low) > 1e-6 else 0.5
        low, high = low - margin, high + margin
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return [round(index * step, 12) for index in range(first, last + 1)]


class _Axis:
    """Where numbers stand in the picture: between two round ones."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.ticks = ticks(min(values), max(values))
        self._low, self._start = self.ticks[0], start
        self._scale = (end - start) / (self.ticks[-1] - self._low)

    def place(self, value: float) -> str:
        return f"{self._start + (value - self._low) * self._scale:.1f}"


class _IterationAxis(_Axis):
    """From zero to the last iteration, wherever round numbers are: the picture is filled."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        last = max(max(values), 1.0)
        self.ticks = [tick for tick in ticks(0.0, last) if tick <= last and tick.is_integer()]
        self._low, self._start = 0.0, start
        self._scale = (end - start) / last


def _grid(x_axis: _IterationAxis, y_axis: _Axis, x_label: str) -> list[str]:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 6}" y="{y}" dy="0.35em" text-anchor="end">{_short(tick)}</text>')
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        anchor = "end" if float(x) > right - 2 * _RIGHT else "middle"
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="{anchor}">{_short(tick)}</text>')
    middle = (left + right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    return parts


def _curve(kind: str, line: Line, points: Sequence[tuple[float, float]], x_axis: _Axis, y_axis: _Axis) -> list[str]:
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in points]
    parts = [f'<polyline class="{kind}" points="{" ".join(f"{x},{y}" for x, y in places)}"/>']
    if len(places) <= _MARKED_POINTS:
        parts += [f'<circle class="{kind}" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    if line.level is not None:
        y = y_axis.place(line.level)
        parts.append(f'<line class="{kind} published" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
    return parts


def _short(number: float) -> str:
    """A number as an axis shows it.

    >>> [_short(number) for number in (0.0, 0.25, 40.0, 20000.0, 1500.0)]
    ['0', '0.25', '40', '20k', '1.5k']
    """
    return f"{number / 1000:g}k" if abs(number) >= 1000 else f"{number:g}"
