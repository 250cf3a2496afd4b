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
    """Draw losses and metrics, in percent, over the iterations, as PNG; what is ``published`` is a dashed line.

    ``losses`` and ``metrics`` have names in ``curves`` (from ``read_metrics``; others are left out) -> names in the
    picture. The first loss is the main one; the title is of the metrics.
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
