"""Curves of a training: its losses, and its metrics on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from matplotlib.figure import Figure

from resnest_backbones.outputs import Curve


def draw_curves(
    curves: Mapping[str, Curve],
    file: Path | BinaryIO,
    *,
    losses: Mapping[str, str],
    metrics: Mapping[str, str],
    title: str,
    published: Mapping[str, float] | None = None,
) -> None:
    """Draw losses and metrics over the iterations, as PNG.

    Args:
        curves: from ``read_metrics``; names below that it lacks are left out.
        file: where to write.
        losses: names in ``curves`` -> names in the picture; the first is the main one.
        metrics: names in ``curves`` -> names in the picture; in percent.
        title: of the metrics.
        published: name in ``metrics`` -> value to compare with, a dashed line.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(title="training loss", xlabel="iteration")
    right.set(title=title, xlabel="iteration", ylabel="percent")
    for axes, names in ((left, losses), (right, metrics)):
        for name in filter(curves.__contains__, names):
            marker = "o" if axes is right or len(curves[name][0]) == 1 else ""  # a single point makes no line
            (line,) = axes.plot(*curves[name], marker=marker, linewidth=1 if axes.lines else 2, label=names[name])
            if (value := (published or {}).get(name)) is not None:
                axes.axhline(value, color=line.get_color(), linestyle="--", label=f"published {value:g}")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    left.set_ylim(bottom=0)
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
