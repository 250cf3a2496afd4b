"""Write a trunk, a detector or a segmentor as ONNX, TorchScript, torch.export or AOTInductor, and compare."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from resnest_backbones.choices import OPSETS, SUFFIXES
from resnest_backbones.commands import named
from resnest_backbones.errors import add_verbose, one_line_errors


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of ``800x1333``, or of ``224``, a square."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 32 for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH of at least 32 pixels each, got {text!r}")
    return int(sides[0]), int(sides[-1])


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Write a trunk, a detector or a segmentor in other formats, and compare each file with PyTorch.",
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
    add("checkpoint", metavar="CHECKPOINT", help="a file, resnest://NAME, or random, to try the formats")
    add("--formats", nargs="+", choices=tuple(SUFFIXES), default=["onnx"], metavar="FORMAT", help=", ".join(SUFFIXES))
    text = "opset of the ONNX file: 18, 19 or 20 (default: %(default)s)"
    add("--opset", type=int, default=OPSETS[-1], metavar="N", help=text)
    add("--output-dir", type=Path, default=Path("exported"), metavar="DIR", help="default: %(default)s")
    add("--name", help="name of the files, without suffix (default: that of MODEL)")
    add("--size", type=parse_size, metavar="HxW", help="size of the image to trace the network with")
    add("--fixed", action="store_true", help="let the files take only batches of this size")
    sizes = [(224, 224), (160, 256), (193, 129)]
    text = "image sizes to compare the files at, besides --size (default: 224x224 160x256 193x129)"
    add("--check-sizes", nargs="*", type=parse_size, default=sizes, metavar="HxW", help=text)
    add("--check-images", nargs="+", default=[], metavar="FILE", help="photographs to compare on as well")
    add("--tolerance", type=float, default=1e-4, help="largest relative difference allowed (default: %(default)s)")
    add("--backbone", action="store_true", help="export only the trunk of a detector or segmentor")
    add("--framework", choices=("detectron2", "mmseg"), help="framework of the config (default: detected)")
    add("--classes", metavar="FILE", help="names of the classes: one per line, or a JSON in COCO's format")
    add("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="config overrides: a.b=c, or Detectron2's A.B C")
    add_verbose(parser)
    group = parser.add_argument_group("only for a trunk given by name")
    group.add_argument("--output-stride", type=int, choices=(8, 16, 32), metavar="N", help="32, 16 or 8")
    group.add_argument("--out-features", nargs="+", metavar="NAME", help="stem, res2 .. res5 (default: res2 .. res5)")
    group.add_argument("--num-classes", type=int, metavar="N", help="add the classifier; its output is logits")
    return parser


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line and export; the status is 1 if a file is not equal to the network."""
    parser = named(build_parser(), command)
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, ImportError, ValueError, verbose=args.verbose):
        from resnest_backbones.commands.export_run import export

        good = export(args)
    if not good:
        sys.exit(1)
