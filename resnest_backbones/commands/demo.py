"""Predict on images, folders, videos or a camera with a trained or exported model: drawings, label maps and JSON.

python tools/demo.py --model faster_rcnn_resnest50_fpn_1x_mmdet photo.jpg
python tools/demo.py --model exported/model.onnx photos/ video.mp4 --output-dir predictions
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from resnest_backbones.choices import RUNTIMES, SUFFIXES
from resnest_backbones.commands import named, print_next
from resnest_backbones.errors import DatasetError, add_verbose, one_line_errors


def build_argument_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Predict on images, folders, videos or a camera with a trained model, and draw the predictions.",
        epilog="""
Examples:

  python tools/demo.py --model faster_rcnn_resnest50_fpn_1x_mmdet photo.jpg
  python tools/demo.py --config output/config.yaml --checkpoint output/model_final.pth photos/ video.mp4
  python tools/demo.py --config CONFIG.py --checkpoint iter_20000.pth --classes classes.txt photo.jpg
  python tools/demo.py --model exported/model.onnx --camera 0 --show

Writes OUTPUT_DIR/drawn/NAME.png, OUTPUT_DIR/drawn/NAME.mp4, OUTPUT_DIR/label_maps/NAME.png for a segmentor (label n
is the n-th class, as in ADE20K's annotations), and OUTPUT_DIR/predictions.json.
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="FILE_OR_FOLDER", help="images and videos")
    text = "a recipe printed by `resnest-backbones list --trained`, whose weights are downloaded; a training "
    text += f"output folder; or a file written by tools/export.py ({', '.join(SUFFIXES.values())})"
    add("--model", metavar="NAME", help=text)
    add("--config", metavar="CONFIG", help="instead of --model: a Detectron2 or MMSegmentation config")
    add("--checkpoint", metavar="FILE", help="checkpoint of --config")
    add("--framework", choices=("detectron2", "mmseg"), help="framework of the config (default: detected)")
    add("--classes", metavar="FILE", help="class names: one per line, or JSON in COCO format")
    add("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="config overrides: a.b=c")
    add("--camera", metavar="N", help="number of a camera, or the URL of a stream")
    add("--show", action="store_true", help="also show videos and the camera on the screen; press q to quit")
    add("--max-frames", type=int, metavar="N", help="stop after N frames of each video or of the camera")
    add("--min-score", type=float, default=0.5, metavar="S", help="minimum score of predictions (default: %(default)s)")
    add("--opacity", type=float, default=0.5, help="opacity of masks and label maps, 0 to 1 (default: %(default)s)")
    add("--output-dir", type=Path, default=Path("predictions"), metavar="DIR", help="default: %(default)s")
    add("--runtime", choices=RUNTIMES, default="onnxruntime", help="runtime for ONNX files (default: %(default)s)")
    add("--device", help="device for --config, such as cpu or cuda:1 (default: a GPU if available)")
    add_verbose(parser)
    return parser


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check what the parser cannot, and end with its error."""
    if bool(args.model) == bool(args.config):
        parser.error("either --model or --config must be given")
    if args.config and not args.checkpoint:
        parser.error("--config needs --checkpoint")
    of_configs = [name for name in ("checkpoint", "framework", "classes", "opts") if getattr(args, name)]
    if of_configs and args.model and args.model.endswith(tuple(SUFFIXES.values())):
        parser.error(f"--{of_configs[0]} requires --config: an exported file already contains it")
    if args.model and args.device not in (None, "cpu"):
        parser.error(f"--device requires --config: exported files run on the CPU, got {args.device}")
    if args.runtime == "openvino" and not (args.model or "").endswith(SUFFIXES["onnx"]):
        parser.error(f"--runtime {args.runtime} runs ONNX files, got {args.model or args.config}")
    if not args.inputs and args.camera is None:
        parser.error("FILE_OR_FOLDER or --camera must be given")
    for name in ("min_score", "opacity"):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f"--{name.replace('_', '-')} must be from 0 to 1, got {getattr(args, name)}")
    if args.max_frames is not None and args.max_frames < 1:
        parser.error(f"--max-frames must be positive, got {args.max_frames}")


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line and predict; the status is 1 if a file could not be read."""
    parser = named(build_argument_parser(), command)
    args = parser.parse_args(arguments)
    check_arguments(parser, args)

    def interrupted() -> str:
        return f"predictions so far are in {args.output_dir}" if args.output_dir.is_dir() else ""

    with one_line_errors(parser.prog, verbose=args.verbose, interrupted=interrupted):
        problems = predict(args)
    if problems:
        sys.exit("\n".join(f"{parser.prog}: error: {problem}" for problem in problems))


def predict(args: argparse.Namespace) -> list[str]:
    """Predict, draw and write; return what went wrong with single files, one message each. All others are done."""
    from tqdm import tqdm

    from resnest_backbones.predict.predictor import Predictor, find_model
    from resnest_backbones.predict.results import ResultWriter
    from resnest_backbones.predict.sources import Window, find_files

    images, videos = find_files(args.inputs) if args.inputs else ({}, {})
    window = Window("resnest_backbones") if args.show else None
    model, config, checkpoint = args.model, args.config, args.checkpoint
    if model and not model.endswith(tuple(SUFFIXES.values())):
        (config, checkpoint), model = find_model(model, checkpoint), None
    if model:
        predictor = Predictor.from_file(model, runtime=args.runtime)
    else:
        given = {"framework": args.framework, "options": args.opts, "classes": args.classes, "device": args.device}
        predictor = Predictor.from_config(config, checkpoint, **given)
    (args.output_dir / "drawn").mkdir(parents=True, exist_ok=True)
    writer = ResultWriter(predictor, args.output_dir, min_score=args.min_score, opacity=args.opacity)
    sources = [(str(file), name) for name, file in videos.items()]
    sources += [(args.camera, "camera")] if args.camera is not None else []
    problems: list[str] = []
    try:
        for name, file in tqdm(images.items(), desc="images", disable=not images):
            with _collected(problems):
                writer.predict_image(file, name)
        for source, name in sources:
            with _collected(problems):
                writer.predict_video(source, name, max_frames=args.max_frames, window=window)
    finally:  # after Ctrl-C, too
        writer.write_json(model or config, checkpoint)
    print(f"written: {args.output_dir / 'drawn'}, {args.output_dir / 'predictions.json'}")
    if config:
        print_next("export the model", "tools/export.py", config, checkpoint)
    elif model.endswith(".onnx"):
        print_next("quantize it to int8", "tools/quantize.py", model, "FOLDER_OF_IMAGES")
    return problems


@contextlib.contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Add the message of an error in the data to the problems."""
    try:
        yield
    except DatasetError as error:
        problems.append(str(error))
