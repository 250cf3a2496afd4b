"""The command line of ``tools/visualize.py``."""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

import jinja2

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.data import read_image
from resnest_backbones.errors import ExportError, add_verbose
from resnest_backbones.export.exportable import DETECTION
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor
from visualization.attention import draw_attention, find_trunk, recording
from visualization.detection import visualize_detector


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Draw what a model finds beside the ground truth: false positives, misses, precision and recall, "
        "confusion, and split attention.",
        epilog="""
Examples:

  python tools/visualize.py --config output/config.yaml --checkpoint output/model_final.pth \\
      --val-json val.json --val-images val --classes train.json
  python tools/visualize.py --config CONFIG.py --checkpoint iter_20000.pth \\
      --val-images my_data/images/validation --val-label-maps my_data/annotations/validation

Writes pictures/NAME.png, precision.png of a detector, confusion.png of a segmentor, attention/NAME.png, and index.html,
which contains all of them.
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    model, truth = (parser.add_mutually_exclusive_group(required=True) for _ in range(2))
    model.add_argument("--config", metavar="CONFIG", help="a config of Detectron2 or MMSegmentation")
    add("--checkpoint", metavar="FILE", help="checkpoint of --config")
    text = "instead of both: a file that tools/export.py wrote; without attention"
    model.add_argument("--model", metavar="FILE", help=text)
    truth.add_argument("--val-json", type=Path, metavar="FILE", help="annotations in COCO format, for a detector")
    add("--val-images", type=Path, metavar="DIR", required=True, help="folder of the images")
    text = "label maps (PNG), for a segmentor: n is the n-th class, 0 is unlabelled"
    truth.add_argument("--val-label-maps", type=Path, metavar="DIR", help=text)
    add("--pictures", type=int, default=8, metavar="N", help="draw the first N images (default: %(default)s)")
    text = "draw attention for the first N images (default: %(default)s)"
    add("--attention", type=int, default=2, metavar="N", help=text)
    add("--max-images", type=int, metavar="N", help="predict only the first N images (default: all)")
    add("--min-score", type=float, default=0.5, metavar="S", help="minimum score of drawn boxes (default: %(default)s)")
    add("--min-iou", type=float, default=0.5, metavar="IOU", help="minimum IoU of a correct box (default: %(default)s)")
    add("--classes", metavar="FILE", help="names of the classes: one per line, or a JSON in COCO's format")
    add("--framework", choices=("detectron2", "mmseg"), help="framework of the config (default: detected)")
    add("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="config overrides: a.b=c")
    add("--device", default="cpu", help="device for --config, such as cuda (default: %(default)s)")
    add("--output-dir", type=Path, default=Path("visualized"), metavar="DIR", help="default: %(default)s")
    add_verbose(parser)
    return parser


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check what the parser cannot, and end with its error."""
    if args.config and not args.checkpoint:
        parser.error("--config needs --checkpoint")
    for path in (args.val_json, args.val_images, args.val_label_maps):
        if path is not None and not path.exists():
            parser.error(f"{path} does not exist")
    for name in ("min_score", "min_iou"):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f"--{name.replace('_', '-')} must be from 0 to 1, got {getattr(args, name)}")
    for name, least in (("pictures", 0), ("attention", 0), ("max_images", 1)):
        if (value := getattr(args, name)) is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more, got {value}")


def import_visualize_segmentor() -> Any:
    """Return ``visualize_segmentor``; detectors do not need what it imports."""
    try:
        from visualization.segmentation import visualize_segmentor
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}: pip install '.[demo]'") from error
    return visualize_segmentor


def visualize(args: argparse.Namespace) -> Path:
    """Draw what the options of ``build_argument_parser`` ask for, and return the HTML file."""
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
        attended.append((args.output_dir / "attention" / f"{file.stem}.png", file.name))
        draw_attention(weights, *attended[-1])
        return found

    sections, facts = draw(args, predictor, look)
    if attended:
        text = (
            "Each channel of a block's 3x3 convolution comes in several splits. Attention weighs them for each image, "
            "with weights that sum to one. Rows are blocks and, within them, splits; columns are channels, sorted by "
            "the weight of the first split. At the dotted line, the splits are averaged."
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
