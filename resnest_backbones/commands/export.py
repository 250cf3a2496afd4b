"""Write a trunk, a detector or a segmentor as ONNX, TorchScript, torch.export or AOTInductor, and compare."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_backbones.choices import OPSETS, SUFFIXES
from resnest_backbones.commands import named, print_next
from resnest_backbones.errors import ExportError, add_verbose, did_you_mean, one_line_errors

if TYPE_CHECKING:
    from resnest_backbones.export.models import Exportable

_RANDOM = "random"  # in place of a checkpoint
_TRUNK_OPTIONS = ("output_stride", "out_features", "num_classes")
_HEADER = ("input", "output", "max abs", "relative", "")
_TABLE = {"tablefmt": "plain", "disable_numparse": True, "colalign": ("left", "left", "right", "right")}


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of ``800x1333``, or of ``224``, a square."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 32 for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH of at least 32 pixels each, got {text!r}")
    return int(sides[0]), int(sides[-1])


def build_argument_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Export a trunk, detector or segmentor to other formats, and compare each file with PyTorch.",
        epilog="""
Examples:

  python tools/export.py resnest50 resnest://resnest50 --formats onnx pt2
  python tools/export.py output/config.yaml output/model_final.pth --classes train.json
  python tools/export.py CONFIG.py iter_20000.pth --classes data/classes.txt --formats onnx torchscript
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a network such as resnest50, or the config of a detector or segmentor")
    add("checkpoint", metavar="CHECKPOINT", help="a file, resnest://NAME, or 'random' to try out the formats")
    add("--formats", nargs="+", choices=tuple(SUFFIXES), default=["onnx"], metavar="FORMAT", help=", ".join(SUFFIXES))
    text = "opset of the ONNX file: 18, 19 or 20 (default: %(default)s)"
    add("--opset", type=int, default=OPSETS[-1], metavar="N", help=text)
    add("--output-dir", type=Path, default=Path("exported"), metavar="DIR", help="default: %(default)s")
    add("--name", help="file name without suffix (default: that of MODEL)")
    add("--size", type=parse_size, metavar="HxW", help="image size for tracing the network")
    add("--fixed", action="store_true", help="fix the batch and image size of the exported files")
    sizes = [(224, 224), (160, 256), (193, 129)]
    text = "image sizes to compare the files at, besides --size (default: 224x224 160x256 193x129)"
    add("--check-sizes", nargs="*", type=parse_size, default=sizes, metavar="HxW", help=text)
    add("--check-images", nargs="+", default=[], metavar="FILE", help="photographs to compare the files on as well")
    add("--tolerance", type=float, default=1e-4, help="largest relative difference allowed (default: %(default)s)")
    add("--backbone", action="store_true", help="export only the trunk of a detector or segmentor")
    add("--framework", choices=("detectron2", "mmseg"), help="framework of the config (default: detected)")
    add("--classes", metavar="FILE", help="class names: one per line, or JSON in COCO format")
    add("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="config overrides: a.b=c, or Detectron2's A.B C")
    add_verbose(parser)
    group = parser.add_argument_group("only for a trunk given by name")
    group.add_argument("--output-stride", type=int, choices=(8, 16, 32), metavar="N", help="32, 16 or 8")
    group.add_argument("--out-features", nargs="+", metavar="NAME", help="stem, res2 .. res5 (default: res2 .. res5)")
    group.add_argument("--num-classes", type=int, metavar="N", help="add the classifier; its output is logits")
    return parser


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line and export; the status is 1 if a file is not equal to the network."""
    parser = named(build_argument_parser(), command)
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, ValueError, verbose=args.verbose):
        good = export(args)
    if not good:
        sys.exit(1)


def export(args: argparse.Namespace) -> bool:
    """Export as the options say; return whether all files equal the network within ``--tolerance``."""
    from tabulate import tabulate
    from tqdm import tqdm

    from resnest_backbones.data import read_image
    from resnest_backbones.export.formats import load, save
    from resnest_backbones.export.models import BACKBONE
    from resnest_backbones.export.parity import check_parity, find_problems, random_inputs
    from resnest_backbones.export.preprocess import prepare_image

    exportable = build_exportable(args)
    name = args.name or Path(args.model).stem
    inputs = random_inputs(exportable, [] if args.fixed else args.check_sizes)
    if args.check_images and (exportable.metadata["task"] == BACKBONE or not exportable.dynamic):
        raise ExportError("--check-images requires a detector or segmentor without --fixed")
    inputs += [prepare_image(read_image(Path(file)), exportable.metadata)[0] for file in args.check_images]
    good = True
    for format_name in tqdm(args.formats, desc="formats", leave=False):
        file = args.output_dir / f"{name}{SUFFIXES[format_name]}"
        start = time.perf_counter()
        try:
            save(exportable, format_name, file, opset=args.opset)
        except ExportError as error:
            raise ExportError(f"{format_name}: {error}") from error
        seconds = time.perf_counter() - start
        print(f"{format_name}: {file} ({file.stat().st_size / 1e6:.1f} MB, written in {seconds:.0f} s)", flush=True)
        found = check_parity(exportable, load(file), inputs)
        rows = [("x".join(map(str, d.size)), d.output, f"{d.absolute:.1e}", f"{d.relative:.1e}", d.note) for d in found]
        print(textwrap.indent(tabulate(rows, _HEADER, **_TABLE), "  "), flush=True)
        if exportable.rows and all(d.note.startswith("0 ") for d in found if d.output == "boxes"):
            print("  nothing was detected in any of these: compare on photographs with --check-images", flush=True)
        problems = find_problems(found, args.tolerance)
        for problem in problems:
            print(f"{format_name}: NOT EQUAL: {problem}", flush=True)
        good = good and not problems
    if good and exportable.metadata["task"] != BACKBONE:
        print_next("look at its predictions", "tools/demo.py", "--model", file, "IMAGE_OR_FOLDER")
    return good


def build_exportable(args: argparse.Namespace) -> Exportable:
    """Build the network that the options name, ready to be exported."""
    from resnest_backbones import build, checkpoint, list_variants, model_zoo
    from resnest_backbones.export.models import build_model, export_backbone

    given = {name: value for name in _TRUNK_OPTIONS if (value := getattr(args, name)) is not None}
    if args.model in list_variants():
        net = build(args.model, **given)
        if args.checkpoint != _RANDOM:
            checkpoint.load_checkpoint(net, args.checkpoint)
        return export_backbone(net, args.size or (224, 224), fixed=args.fixed)
    if given:
        option = next(iter(given)).replace("_", "-")
        raise ExportError(f"--{option} is for a trunk given by name, but MODEL is the config {args.model}")
    if args.model not in model_zoo.list() and not Path(args.model).is_file():
        known = [*list_variants(), *model_zoo.list()]
        hint = did_you_mean(Path(args.model).stem, known, "`resnest-backbones list --configs` prints the configs")
        raise ExportError(f"MODEL must be a network, a config file or a config name, got {args.model}; {hint}")
    file = None if args.checkpoint == _RANDOM else args.checkpoint
    options = {"framework": args.framework, "options": args.opts, "classes": args.classes}
    built = build_model(args.model, file, **options)
    if args.backbone:
        return export_backbone(built.model, args.size or (224, 224), fixed=args.fixed)
    return built.exportable(args.size, fixed=args.fixed)
