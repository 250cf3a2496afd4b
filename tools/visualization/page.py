"""What ``tools/visualize.py`` does: predict, draw, and write one page of all pictures."""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

import jinja2

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.data import read_image
from resnest_backbones.errors import ExportError
from resnest_backbones.export.models import DETECTION
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor
from visualization.attention import draw_attention, find_trunk, recording
from visualization.detection import visualize_detector
from visualization.panels import picture_file


def import_visualize_segmentor() -> Any:
    """Return ``visualize_segmentor``; detectors do not need what it imports."""
    try:
        from visualization.segmentation import visualize_segmentor
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}: pip install '.[demo]'") from error
    return visualize_segmentor


def visualize(args: argparse.Namespace) -> Path:
    """Draw what the options of ``tools/visualize.py`` ask for, and return the HTML file."""
    if args.model:
        predictor = Predictor.from_file(args.model)
    else:
        given = {"framework": args.framework, "options": args.opts, "classes": args.classes, "device": args.device}
        predictor = Predictor.from_config(args.config, args.checkpoint, **given)
    if (predictor.task == DETECTION) != bool(args.val_json):
        wanted = "--val-json" if predictor.task == DETECTION else "--val-label-maps"
        raise ExportError(f"the model is for {predictor.task}: {wanted} must be given")
    draw = visualize_detector if predictor.task == DETECTION else import_visualize_segmentor()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    trunk = find_trunk(predictor.module)
    attended: list[tuple[Path, str]] = []

    def look(file: Path) -> Detections | LabelMap:
        if trunk is None or len(attended) >= args.attention:
            return predictor(read_image(file))
        with recording(trunk) as weights:
            found = predictor(read_image(file))
        attended.append((picture_file(args.output_dir / "attention", file, args.val_images), file.name))
        draw_attention(weights, *attended[-1])
        return found

    sections, facts = draw(args, predictor, look)
    if attended:
        text = (
            "Each channel of a block's 3x3 convolution has several splits. Attention combines them with per-image "
            "weights that sum to one. Rows are blocks and, within them, splits; columns are channels, sorted by the "
            "weight of the first split. At the dotted line, the splits are averaged."
        )
        sections.append(("Split attention", text, attended))
    facts = {"model": args.model or f"{args.config}, {args.checkpoint}", "images in": str(args.val_images), **facts}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["base64"] = lambda file: base64.b64encode(file.read_bytes()).decode()
    title = "What the model finds, and what it misses"
    html = environment.get_template("page.html.j2").render(title=title, facts=facts, sections=sections)
    page: Path = args.output_dir / "index.html"
    write_atomically(page, lambda stream: stream.write(html.encode()))
    return page
