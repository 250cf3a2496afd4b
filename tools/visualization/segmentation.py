"""A segmentor's label maps compared with the ground truth, and the confusion matrix."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay
from tqdm import tqdm

from resnest_backbones.data import read_image
from resnest_backbones.data.label_maps import read_labels
from resnest_backbones.predict.evaluate import confusion_of, label_map_pairs, metrics_of
from resnest_backbones.predict.predictor import Predictor
from visualization.detection import Section
from visualization.panels import Panel, draw_panels, paint_labels, picture_file

_BACKGROUND = "background"  # a class of this name stays gray
_MAX_CLASSES = 20  # in one drawing


def visualize_segmentor(
    args: argparse.Namespace, predictor: Predictor, look: Callable[[Path], Any]
) -> tuple[list[Section], dict[str, str]]:
    """Draw the label maps that ``look`` predicts for a file; return as ``visualize_detector`` does."""
    names = predictor.classes
    pairs, order = label_map_pairs(args.val_images, args.val_label_maps, names)
    pairs = pairs[: args.max_images]
    confusion = np.zeros((len(names),) * 2, dtype=np.int64)
    shown: list[tuple[Path, np.ndarray, np.ndarray]] = []
    for file, label_map in tqdm(pairs, desc="predicting"):
        found = look(file).labels
        truth = order[read_labels(label_map, file, found.shape, len(names))]
        confusion += confusion_of(truth, found, len(names))
        if len(shown) < args.pictures:
            shown.append((file, truth, found))

    occurring = {label for _, truth, found in shown for label in np.union1d(truth, found).tolist()}
    named = enumerate(zip(names, predictor.palette, strict=True))
    colors = {name: color for label, (name, color) in named if label in occurring}
    colors.pop(_BACKGROUND, None)
    pictures = []
    for file, truth, found in shown:
        picture = picture_file(args.output_dir / "pictures", file, args.val_images)
        pictures.append((picture, str(file.relative_to(args.val_images))))
        panels = compare(read_image(file), truth, found, names, predictor.palette)
        draw_panels([panels], pictures[-1][0], legend=colors)
    confusion_file = args.output_dir / "confusion.png"
    draw_confusion(confusion, names, confusion_file)
    text = "The last two panels show the wrong pixels by predicted class and by true class."
    if _BACKGROUND in names:
        text += " The background stays gray."
    sections: list[Section] = [
        ("Ground truth, prediction, false positives, misses", text, pictures),
        ("Confusion", "Over all labeled pixels.", [(confusion_file, "confusion matrix")]),
    ]
    metrics = {name: f"{value:.1f}" for name, value in metrics_of(confusion).items()}
    return sections, {"images": str(len(pairs)), **metrics}


def compare(
    image: np.ndarray,
    truth: np.ndarray,
    found: np.ndarray,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> list[Panel]:
    """Return five panels: image, ground truth, prediction, wrong pixels by the predicted and by the true class.

    The image is (H, W, 3), uint8 RGB; truth and found are indices of classes (H, W), -1 where nothing is labeled.
    """
    wrong = (truth != found) & (truth >= 0)
    share = wrong.sum() / max((truth >= 0).sum(), 1)
    maps = {
        "ground truth": truth,
        "prediction": found,
        f"false positives: {share:.1%} wrong": np.where(wrong, found, -1),
        "misses": np.where(wrong, truth, -1),
    }
    gray = [label for label, name in enumerate(names) if name == _BACKGROUND]
    drawn = {title: np.where(np.isin(labels, gray), -1, labels) for title, labels in maps.items()}
    return [(image, "image"), *((paint_labels(image, labels, palette), title) for title, labels in drawn.items())]


def draw_confusion(confusion: np.ndarray, names: Sequence[str], file: Path) -> None:
    """Draw which share of the pixels (true, predicted) of each class went to each; of many, the 20 most frequent."""
    shown = np.sort(np.argsort(-confusion.sum(axis=1), kind="stable")[:_MAX_CLASSES])
    shares = (confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1))[np.ix_(shown, shown)]
    side = max(4.5, 0.45 * len(shown) + 2.5)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(shares, display_labels=[names[index] for index in shown]).plot(
        ax=axes,
        cmap="Blues",
        values_format=".0%",
        xticks_rotation="vertical" if len(shown) > 4 else "horizontal",
        im_kw={"vmin": 0, "vmax": 1},
        text_kw={"fontsize": "small"},
    )
    for text in display.text_[shares < 0.005]:
        text.set_text("")
    rest = f" (the {len(shown)} most frequent of {len(names)})" if len(shown) < len(names) else ""
    axes.set(xlabel="predicted", ylabel="true", title=f"shares of each class's pixels{rest}")
    figure.savefig(file, dpi=110)
