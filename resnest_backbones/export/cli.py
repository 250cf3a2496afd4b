"""What ``tools/export.py`` does: build, write in each format, read again, compare with PyTorch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from resnest_backbones.checkpoint import load_checkpoint
from resnest_backbones.cli import print_next
from resnest_backbones.data import read_image
from resnest_backbones.errors import ExportError, add_verbose
from resnest_backbones.export.backbone import export_backbone
from resnest_backbones.export.exportable import BACKBONE, Exportable
from resnest_backbones.export.formats import FORMATS, OPSETS, load, save
from resnest_backbones.export.models import build_model, framework_of
from resnest_backbones.export.parity import Difference, check_parity, describe
from resnest_backbones.models.resnest import build
from resnest_backbones.models.variants import list_variants
from resnest_backbones.predict.prepare import prepare_image

_RANDOM = "random"
_OWN_OPTIONS = ("output_stride", "out_features", "num_classes")


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``800x1333``, or of ``224``, a square."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 32 for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH of 32 pixels and more, got {text!r}")
    return int(sides[0]), int(sides[-1])


def build_export_parser() -> argparse.ArgumentParser:
    """The command line."""
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
    add("checkpoint", metavar="CHECKPOINT", help=f"a file, resnest://NAME, or {_RANDOM}: to try the formats only")
    add("--formats", nargs="+", choices=tuple(FORMATS), default=["onnx"], metavar="FORMAT", help=", ".join(FORMATS))
    add("--opset", type=int, default=OPSETS[-1], metavar="N", help="of ONNX: 18, 19 or 20 (default: %(default)s)")
    add("--output-dir", type=Path, default=Path("exported"), metavar="DIR", help="default: %(default)s")
    add("--name", help="of the files, without their endings (default: that of MODEL)")
    add("--size", type=parse_size, metavar="HxW", help="of the image that the network is followed with")
    add("--fixed", action="store_true", help="the files take images of this size and number only")
    add(
        "--check-sizes",
        nargs="*",
        type=parse_size,
        default=[(224, 224), (160, 256), (193, 129)],
        metavar="HxW",
        help="of the images that the files are compared on, besides --size (default: 224x224 160x256 193x129)",
    )
    add("--check-images", nargs="+", default=[], metavar="FILE", help="photographs to compare on, too")
    add("--tolerance", type=float, default=1e-4, help="relative difference that is an error (default: %(default)s)")
    add("--backbone", action="store_true", help="of a detector or segmentor, the trunk alone")
    add("--framework", choices=("detectron2", "mmseg"), help="of the config (default: what it looks like)")
    add("--classes", metavar="FILE", help="names of the classes: one a line, or a json of COCO's format")
    add(
        "--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the config: a.b=c, or Detectron2's A.B C"
    )
    add_verbose(parser)
    group = parser.add_argument_group("of a trunk that is given by its name")
    group.add_argument("--output-stride", type=int, choices=(8, 16, 32), metavar="N", help="32, 16 or 8")
    group.add_argument("--out-features", nargs="+", metavar="NAME", help="stem, res2 .. res5 (default: res2 .. res5)")
    group.add_argument("--num-classes", type=int, metavar="N", help="with the classifier, as logits")
    return parser


def run_export(args: argparse.Namespace) -> bool:
    """Export as the options of ``build_export_parser`` say.

    Returns:
        Whether all files equal the network within ``--tolerance``.

    Raises:
        ExportError: an option, the model or a format does not allow it.
        resnest_backbones.checkpoint.CheckpointError: the checkpoint does not fit the model.
        ImportError: a framework or a package of the extra ``export`` is missing.
    """
    exportable = _exportable(args)
    name = args.name or Path(args.model).stem
    inputs = [*_inputs(exportable, [] if args.fixed else args.check_sizes), *_pictures(exportable, args.check_images)]
    good = True
    for format_name in tqdm(args.formats, desc="formats", leave=False):
        file = args.output_dir / f"{name}{FORMATS[format_name].suffix}"
        start = time.perf_counter()
        try:
            save(exportable, format_name, file, opset=args.opset)
        except ExportError as error:
            raise ExportError(f"{format_name}: {error}") from error
        seconds = time.perf_counter() - start
        print(f"{format_name}: {file} ({file.stat().st_size / 1e6:.1f} MB, written in {seconds:.0f} s)", flush=True)
        differences = check_parity(exportable, load(file), inputs)
        print(describe(differences), flush=True)
        if exportable.rows and all(found.note.startswith("0 ") for found in differences if found.output == "boxes"):
            print("  nothing was found in any of these: compare on photographs, by --check-images", flush=True)
        problems = _problems(differences, args.tolerance)
        for problem in problems:
            print(f"{format_name}: NOT EQUAL: {problem}", flush=True)
        good = good and not problems
    if good and exportable.metadata["task"] != "backbone":
        print_next("see what it finds", "tools/demo.py", "--model", file, "IMAGE_OR_FOLDER")
    return good


def _exportable(args: argparse.Namespace) -> Exportable:
    if args.model in list_variants():
        given = {name: value for name in _OWN_OPTIONS if (value := getattr(args, name)) is not None}
        net = build(args.model, **given)
        if args.checkpoint != _RANDOM:
            load_checkpoint(net, args.checkpoint)
        return export_backbone(net, args.size or (224, 224), fixed=args.fixed)
    wrong = [f"--{name.replace('_', '-')}" for name in _OWN_OPTIONS if getattr(args, name) is not None]
    if wrong:
        raise ExportError(f"{wrong[0]} is for a trunk given by its name; MODEL is the config {args.model}")
    framework = args.framework or framework_of(args.model)
    built = build_model(
        args.model,
        None if args.checkpoint == _RANDOM else args.checkpoint,
        framework=framework,
        options=args.opts,
        classes=args.classes,
    )
    if args.backbone:
        return export_backbone(built.model, args.size or (224, 224), fixed=args.fixed)
    return built.exportable(args.size, fixed=args.fixed)


def _inputs(exportable: Exportable, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The example, and inputs of other sizes; of other numbers, too, where they may differ."""
    shape = list(exportable.example.shape)
    inputs = [exportable.example]
    for number, size in enumerate(sizes):
        batch = [1 + number % 3] if 0 in exportable.dynamic and len(shape) == 4 else shape[:-3]
        inputs.append(_like(exportable, (*batch, shape[-3], *size), seed=number + 1))
    return inputs


def _pictures(exportable: Exportable, files: Sequence[str]) -> list[Tensor]:
    """Photographs as the network takes them."""
    if not files:
        return []
    if exportable.metadata["task"] == BACKBONE or not exportable.dynamic:
        raise ExportError("--check-images goes with a detector or a segmentor that is not --fixed")
    return [prepare_image(read_image(Path(file)), exportable.metadata)[0] for file in files]


def _like(exportable: Exportable, shape: Sequence[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(tuple(shape), generator=generator)
    return x - 0.5 if exportable.metadata["task"] == BACKBONE else (255 * x).round()


def _problems(differences: Sequence[Difference], tolerance: float) -> list[str]:
    problems = []
    for found in differences:
        where = f"{found.output} at {'x'.join(map(str, found.size))}"
        if not found.relative <= tolerance:  # NaN is a problem, too
            problems.append(f"{where} differs by {found.relative:.1e}, allowed is {tolerance:.1e}")
        elif found.unmatched:
            problems.append(f"{where}: {found.unmatched} detections have no match")
    return problems
