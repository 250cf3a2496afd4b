"""Pictures of what was trained: curves from a log, predictions beside ground truth. Needs no framework."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

_PICTURES = 12
_SHEET_COLUMNS = 2
_PANEL = 480  # an image is enlarged to at least about so many pixels, for labels that can be read
_MIN_SCORE = 0.5
_FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf"))
_FONT_SIZE = 17


# The curves


def read_metrics(file: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """The curves in a ``metrics.json`` of Detectron2: name -> (iterations in order, values).

    A resumed training logs again what came after its checkpoint: the last value of an iteration is taken. A line that
    an interruption cut off is left out.
    """
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for line in Path(file).read_text().splitlines():
        try:
            record = json.loads(line)
            iteration = record.pop("iteration")
        except (ValueError, LookupError, AttributeError, TypeError):
            continue
        for name, value in record.items():
            curves[name][iteration] = value
    return {name: (sorted(points), [points[i] for i in sorted(points)]) for name, points in curves.items()}


def plot_curves(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], file: str | Path) -> None:
    """Draw the losses, and beside them the AP, over the iterations.

    Args:
        curves: what ``read_metrics`` returns; of it ``total_loss``, ``loss_*``, ``bbox/AP``, ``bbox/AP50`` and
            ``bbox/AP75`` are drawn, those that are there.
        file: the PNG to write.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(title="training loss", xlabel="iteration")
    right.set(title="box AP on held-out images", xlabel="iteration", ylabel="percent", ylim=(0, 100))
    losses = ["total_loss", *sorted(name for name in curves if name.startswith("loss_"))]
    for axes, names, mark in ((left, losses, ""), (right, ["bbox/AP50", "bbox/AP", "bbox/AP75"], "o")):
        for name in filter(curves.__contains__, names):
            iterations, values = curves[name]
            main_curve = name in ("total_loss", "bbox/AP50", "bbox/AP")
            # A single point makes no line.
            marker = mark or ("o" if len(iterations) == 1 else "")
            axes.plot(iterations, values, marker=marker, linewidth=2 if main_curve else 1, label=name.split("/")[-1])
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    left.set_ylim(bottom=0)
    figure.savefig(file, dpi=120)


# The pictures


def draw_predictions(
    json_file: str | Path, image_root: str | Path, predictions_file: str | Path, *, sheet: Path, folder: Path
) -> list[Path]:
    """Draw the predictions for the first images of a data set beside its ground truth.

    Args:
        json_file: COCO instances.
        image_root: folder of its images.
        predictions_file: predictions in COCO's result format, as ``COCOEvaluator`` writes them; those below a score of
            0.5 are not drawn.
        sheet: PNG to write all pictures to.
        folder: for the single PNGs, named as the images; made anew or filled.

    Returns:
        The single pictures.
    """
    content = json.loads(Path(json_file).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    colours = dict(zip(names, _distinct_colours(len(names)), strict=True))
    predictions = [p for p in json.loads(Path(predictions_file).read_text()) if p["score"] >= _MIN_SCORE]
    truth_of, predictions_of = _by_image(content["annotations"]), _by_image(predictions)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for entry in content["images"][:_PICTURES]:
        with Image.open(Path(image_root) / entry["file_name"]) as opened:
            image = opened.convert("RGB")
        panels = [
            _draw_panel(image, "ground truth", truth_of[entry["id"]], names, colours),
            _draw_panel(image, "prediction", predictions_of[entry["id"]], names, colours),
        ]
        files.append(folder / Path(entry["file_name"]).with_suffix(".png").name)
        _side_by_side(panels).save(files[-1])
    _draw_sheet(files).save(sheet)
    return files


def _by_image(annotations: Sequence[dict[str, Any]]) -> defaultdict[int, list[dict[str, Any]]]:
    grouped: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        grouped[annotation["image_id"]].append(annotation)
    return grouped


def _distinct_colours(count: int) -> list[tuple[int, int, int]]:
    """RGB; as different as ten or fewer can be, else evenly spread over the hues."""
    colours = [matplotlib.colormaps["tab10"](i) if count <= 10 else hsv_to_rgb((i / count, 1, 1)) for i in range(count)]
    return [(int(255 * c[0]), int(255 * c[1]), int(255 * c[2])) for c in colours]


def _draw_panel(
    image: Image.Image,
    title: str,
    annotations: Sequence[dict[str, Any]],
    names: Mapping[int, str],
    colours: Mapping[int, tuple[int, int, int]],
) -> Image.Image:
    """The image, enlarged, with boxes and labels, under a title."""
    factor = max(1, math.ceil(_PANEL / max(image.size)))
    size = (image.width * factor, image.height * factor)
    panel = Image.new("RGB", (size[0], size[1] + 2 * _FONT_SIZE), "white")
    panel.paste(image.resize(size, Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(panel)
    draw.font = ImageFont.truetype(_FONT, _FONT_SIZE)
    annotations = sorted(annotations, key=lambda a: a.get("score", 1.0))  # the most certain on top of the others
    boxes = [
        (factor * x, factor * y, factor * (x + w), factor * (y + h)) for x, y, w, h in (a["bbox"] for a in annotations)
    ]
    for annotation, box in zip(annotations, boxes, strict=True):
        draw.rectangle(box, outline=colours[annotation["category_id"]], width=3)
    for annotation, box in zip(annotations, boxes, strict=True):
        category = annotation["category_id"]
        score = f" {annotation['score']:.0%}" if "score" in annotation else ""
        _draw_label(draw, names[category] + score, box, colours[category], size)
    draw.rectangle((0, size[1], *panel.size), fill="white")  # over labels, if any reach so far down
    draw.text((size[0] / 2, size[1] + _FONT_SIZE), title, fill="black", anchor="mm")
    return panel


def _draw_label(
    draw: ImageDraw.ImageDraw,
    label: str,
    box: tuple[float, float, float, float],
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """Write on a plate below the box, so that nothing in it is hidden; above it where the image (w, h) ends there."""
    _, _, width, height = draw.textbbox((2, 2), label, anchor="lt")
    width, height = width + 3, height + 4
    x = max(0, min(box[0], size[0] - width))
    y = box[3] + 1 if box[3] + 1 + height <= size[1] else max(0, box[1] - height)
    luma = np.dot(colour, (0.299, 0.587, 0.114))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 2, y + 2), label, fill="black" if luma > 140 else "white", anchor="lt")


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    gap = 6
    picture = Image.new("RGB", (sum(p.width + gap for p in panels) - gap, panels[0].height), "white")
    for number, panel in enumerate(panels):
        picture.paste(panel, (number * (panel.width + gap), 0))
    return picture


def _draw_sheet(files: Sequence[Path]) -> Image.Image:
    """All pictures in a few columns, at half their size."""
    pictures = []
    for file in files:
        with Image.open(file) as opened:
            pictures.append(opened.reduce(2))
    columns, margin = min(_SHEET_COLUMNS, len(pictures)), 16
    width, height = (max(p.size[axis] for p in pictures) + margin for axis in (0, 1))
    sheet = Image.new("RGB", (columns * width + margin, math.ceil(len(pictures) / columns) * height + margin), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (margin + column * width, margin + row * height))
    return sheet
