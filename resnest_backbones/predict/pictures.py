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
_CONTRAST = 0.4  # of the image below the colours of label maps
_OPACITY = 0.85  # of those colours
_GREY_OF_TAB10 = 7
FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf"))
_FONT_SIZE = 17


# The curves


def read_metrics(*files: str | Path, key: str = "iteration") -> dict[str, tuple[list[int], list[float]]]:
    """The curves in logs of one JSON record per line: name -> (iterations in order, values).

    A resumed training logs again what came after its checkpoint: the last value of an iteration is taken. A line that
    an interruption cut off is left out.

    Args:
        files: of one training, in the order of time: Detectron2's ``metrics.json``, MMEngine's ``scalars.json``.
        key: the iteration's name in a record.
    """
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (line for file in files for line in Path(file).read_text().splitlines()):
        try:
            record = json.loads(line)
            iteration = record.pop(key)
        except (ValueError, LookupError, AttributeError, TypeError):
            continue
        for name, value in record.items():
            curves[name][iteration] = value
    return {name: (sorted(points), [points[i] for i in sorted(points)]) for name, points in curves.items()}


def plot_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    file: str | Path,
    *,
    losses: Mapping[str, str],
    figures: Mapping[str, str],
    title: str,
) -> None:
    """Draw the losses, and beside them the figures on held-out images, over the iterations.

    Args:
        curves: what ``read_metrics`` returns; what is named below and not there is left out.
        file: the PNG to write.
        losses: names in ``curves`` -> names in the picture; the first is the main one.
        figures: likewise, of what is in percent.
        title: what the figures are.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(title="training loss", xlabel="iteration")
    right.set(title=f"{title} on held-out images", xlabel="iteration", ylabel="percent", ylim=(0, 100))
    for axes, names, mark in ((left, losses, ""), (right, figures, "o")):
        for name in filter(curves.__contains__, names):
            iterations, values = curves[name]
            # A single point makes no line.
            marker = mark or ("o" if len(iterations) == 1 else "")
            axes.plot(iterations, values, marker=marker, linewidth=1 if axes.lines else 2, label=names[name])
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
    colours = dict(zip(names, distinct_colours(len(names)), strict=True))
    predictions = [p for p in json.loads(Path(predictions_file).read_text()) if p["score"] >= _MIN_SCORE]
    truth_of, predictions_of = _by_image(content["annotations"]), _by_image(predictions)
    folder.mkdir(parents=True, exist_ok=True)
    files, pictures = [], []
    for entry in content["images"][:_PICTURES]:
        with Image.open(Path(image_root) / entry["file_name"]) as opened:
            image = opened.convert("RGB")
        panels = [
            draw_boxes(image, "ground truth", truth_of[entry["id"]], names, colours),
            draw_boxes(image, "prediction", predictions_of[entry["id"]], names, colours),
        ]
        files.append(folder / Path(entry["file_name"]).with_suffix(".png").name)
        pictures.append(side_by_side(panels))
        pictures[-1].save(files[-1])
    _draw_sheet(pictures).save(sheet)
    return files


def draw_label_maps(
    images: Sequence[Path],
    truth: Path,
    predicted: Path,
    *,
    names: Sequence[str],
    background: str,
    sheet: Path,
    folder: Path,
) -> list[Path]:
    """Draw image | ground truth | prediction of the first images, with a legend of the classes.

    Args:
        images: files; their label maps have the same name with the ending .png.
        truth: folder of label maps, uint8 with label n for the n-th class and 0 for none.
        predicted: folder of label maps in the same convention.
        names: of the classes.
        background: the class that gets no colour: there the image shows, in pale grey.
        sheet: PNG to write all pictures to.
        folder: for the single PNGs, named as the images; made anew or filled.

    Returns:
        The single pictures.
    """
    shown = [name for name in names if name != background]
    entries = dict(zip(shown, distinct_colours(len(shown), on_grey=True), strict=True))
    colours = {names.index(name): colour for name, colour in entries.items()}
    folder.mkdir(parents=True, exist_ok=True)
    files, pictures = [], []
    for file in images[:_PICTURES]:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        panels = [with_title(enlarge(image, Image.Resampling.LANCZOS), "image")]
        for root, title in ((truth, "ground truth"), (predicted, "prediction")):
            drawn = colour_labels(image, read_label_map(root / f"{file.stem}.png"), colours)
            panels.append(with_title(enlarge(drawn, Image.Resampling.NEAREST), title))
        files.append(folder / f"{file.stem}.png")
        pictures.append(side_by_side(panels))
        stack([pictures[-1], draw_legend(entries, pictures[-1].width)]).save(files[-1])
    drawn = _draw_sheet(pictures)
    stack([draw_legend(entries, drawn.width), drawn]).save(sheet)
    return files


def read_label_map(file: Path) -> np.ndarray:
    """Indices of classes (H, W) in int64; -1 where there is none."""
    with Image.open(file) as opened:
        return np.asarray(opened).astype(np.int64) - 1


def colour_labels(image: Image.Image, labels: np.ndarray, colours: Mapping[int, Sequence[int]]) -> Image.Image:
    """The colours of labels (H, W) over the image in pale grey."""
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    canvas = np.repeat((255 - _CONTRAST * (255 - grey))[..., None], 3, axis=2)
    for label, colour in colours.items():
        mixed = (1 - _OPACITY) * canvas + _OPACITY * np.asarray(colour, dtype=np.float64)
        canvas = np.where((labels == label)[..., None], mixed, canvas)
    return Image.fromarray(canvas.round().astype(np.uint8))


def draw_legend(entries: Mapping[str, tuple[int, int, int]], width: int) -> Image.Image:
    """Names on plates of their colour, in as many lines as it takes."""
    legend = Image.new("RGB", (width, 2 * len(entries) * _FONT_SIZE + _FONT_SIZE), "white")
    draw = ImageDraw.Draw(legend)
    draw.font = ImageFont.truetype(FONT, _FONT_SIZE)
    gap, line = _FONT_SIZE // 2, 2 * _FONT_SIZE
    x, y = gap, gap
    for name, colour in entries.items():
        plate = int(draw.textlength(name)) + 2 * gap
        if x > gap and x + plate > width:
            x, y = gap, y + line
        draw.rectangle((x, y, x + plate, y + line - gap), fill=colour)
        draw.text((x + plate / 2, y + (line - gap) / 2), name, fill=_readable_on(colour), anchor="mm")
        x += plate + gap
    return legend.crop((0, 0, width, y + line))


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """One above the other; they are equally wide."""
    stacked = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures)), "white")
    y = 0
    for picture in pictures:
        stacked.paste(picture, (0, y))
        y += picture.height
    return stacked


def _by_image(annotations: Sequence[dict[str, Any]]) -> defaultdict[int, list[dict[str, Any]]]:
    grouped: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        grouped[annotation["image_id"]].append(annotation)
    return grouped


def distinct_colours(count: int, *, on_grey: bool = False) -> list[tuple[int, int, int]]:
    """RGB; as different as ten or fewer can be, else evenly spread over the hues; without grey if they are on grey."""
    ten = [matplotlib.colormaps["tab10"](i)[:3] for i in range(10)]
    if on_grey:
        ten[_GREY_OF_TAB10] = (0.0, 0.0, 0.0)
    colours = ten[:count] if count <= 10 else [hsv_to_rgb((i / count, 1, 1)) for i in range(count)]
    return [(int(255 * c[0]), int(255 * c[1]), int(255 * c[2])) for c in colours]


def draw_boxes(
    image: Image.Image,
    title: str,
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    colours: Mapping[int, tuple[int, int, int]],
) -> Image.Image:
    """The image, enlarged, with boxes and labels, above a title."""
    panel = enlarge(image, Image.Resampling.LANCZOS)
    factor = panel.width // image.width
    draw = ImageDraw.Draw(panel)
    draw.font = ImageFont.truetype(FONT, _FONT_SIZE)
    annotations = sorted(annotations, key=lambda a: a.get("score", 1.0))  # the most certain on top of the others
    boxes = [
        (factor * x, factor * y, factor * (x + w), factor * (y + h)) for x, y, w, h in (a["bbox"] for a in annotations)
    ]
    for annotation, box in zip(annotations, boxes, strict=True):
        draw.rectangle(box, outline=colours[annotation["category_id"]], width=3)
    for annotation, box in zip(annotations, boxes, strict=True):
        category = annotation["category_id"]
        score = f" {annotation['score']:.0%}" if "score" in annotation else ""
        draw_label(draw, names[category] + score, box, colours[category], panel.size)
    return with_title(panel, title)


def enlarge(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    """By a whole number, to at least the size of a panel."""
    factor = max(1, math.ceil(_PANEL / max(image.size)))
    return image.resize((image.width * factor, image.height * factor), resampling)


def with_title(image: Image.Image, title: str) -> Image.Image:
    """The image above a line of text."""
    panel = Image.new("RGB", (image.width, image.height + 2 * _FONT_SIZE), "white")
    panel.paste(image)
    draw = ImageDraw.Draw(panel)
    draw.font = ImageFont.truetype(FONT, _FONT_SIZE)
    draw.text((image.width / 2, image.height + _FONT_SIZE), title, fill="black", anchor="mm")
    return panel


def draw_label(
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
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 2, y + 2), label, fill=_readable_on(colour), anchor="lt")


def _readable_on(colour: tuple[int, int, int]) -> str:
    return "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else "white"


def side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height, from left to right."""
    gap = 6
    picture = Image.new("RGB", (sum(p.width + gap for p in panels) - gap, panels[0].height), "white")
    for number, panel in enumerate(panels):
        picture.paste(panel, (number * (panel.width + gap), 0))
    return picture


def _draw_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """All pictures in a few columns, at half their size."""
    halves = [picture.reduce(2) for picture in pictures]
    columns, margin = min(_SHEET_COLUMNS, len(halves)), 16
    width, height = (max(half.size[axis] for half in halves) + margin for axis in (0, 1))
    sheet = Image.new("RGB", (columns * width + margin, math.ceil(len(halves) / columns) * height + margin), "white")
    for number, half in enumerate(halves):
        row, column = divmod(number, columns)
        sheet.paste(half, (margin + column * width, margin + row * height))
    return sheet
