"""Precision over recall, and the confusion of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_MOST = 20  # classes that are told apart in one drawing


def draw_precision(
    precision: np.ndarray, recalls: Sequence[float], thresholds: Sequence[float], names: Sequence[str], file: Path
) -> None:
    """Precision over recall: of each class at the first threshold, and the mean of the classes at several.

    Args:
        precision: (thresholds, recalls, classes); NaN for a class that is nowhere.
        recalls: of the second axis.
        thresholds: of IoU, of the first axis.
        names: of the classes. Of more than 20, the ten best and the ten worst are drawn.
        file: the PNG to write.
    """
    means = precision[0].mean(axis=0)
    there = [index for index in np.argsort(-means, kind="stable") if not np.isnan(means[index])]
    shown = there if len(there) <= _MOST else [*there[: _MOST // 2], *there[-_MOST // 2 :]]
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index in shown:
        left.plot(recalls, precision[0, :, index], label=f"{names[index]} {means[index]:.0%}")
    for number in range(0, len(thresholds), 2):
        if there:
            mean = precision[number][:, there].mean(axis=1)
            right.plot(recalls, mean, label=f"IoU {thresholds[number]:.2f}: {mean.mean():.0%}")
    rest = f", {len(shown)} of {len(there)}" if len(shown) < len(there) else ""
    left.set_title(f"per class at an IoU of {thresholds[0]:.2f}, with its AP{rest}")
    right.set_title("mean of the classes, with its AP")
    for axes in (left, right):
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(file, dpi=110)


def draw_confusion(confusion: np.ndarray, names: Sequence[str], file: Path) -> None:
    """The share of each class's pixels that went to each class.

    Args:
        confusion: pixels (true classes, found classes). Of more than 20 classes, the 20 that occur most are drawn.
        names: of the classes.
        file: the PNG to write.
    """
    order = np.argsort(-confusion.sum(axis=1), kind="stable")
    shown = np.sort(order[:_MOST])
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)[np.ix_(shown, shown)]
    side = max(4.5, 0.45 * len(shown) + 2.5)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [names[index] for index in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=90 if len(shown) > 4 else 0)
    axes.set_yticks(range(len(shown)), labels)
    rest = f" (the {len(shown)} most frequent of {len(names)})" if len(shown) < len(names) else ""
    axes.set(xlabel="found", ylabel="true", title=f"where the pixels of a class go{rest}")
    for row, column in np.argwhere(shares >= 0.005):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{shares[row, column]:.0%}", ha="center", va="center", color=colour, fontsize="small")
    figure.colorbar(drawn, shrink=0.8)
    figure.savefig(file, dpi=110)
