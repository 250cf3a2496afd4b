"""What ``tools/export.py`` does: write, read again, compare."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from resnest_backbones import build, model_zoo
from resnest_backbones.checkpoint import load_checkpoint
from resnest_backbones.choices import SUFFIXES
from resnest_backbones.commands import print_next
from resnest_backbones.data import read_image
from resnest_backbones.errors import ExportError, did_you_mean
from resnest_backbones.export.backbone import export_backbone
from resnest_backbones.export.exportable import BACKBONE, Exportable
from resnest_backbones.export.formats import load, save
from resnest_backbones.export.models import build_model
from resnest_backbones.export.parity import Difference, check_parity
from resnest_backbones.export.preprocess import prepare_image
from resnest_backbones.models.variants import list_variants

_RANDOM = "random"  # in place of a checkpoint
_TRUNK_OPTIONS = ("output_stride", "out_features", "num_classes")
_HEADER = ("input", "output", "max abs", "relative", "")
_TABLE = {"tablefmt": "plain", "disable_numparse": True, "colalign": ("left", "left", "right", "right")}


def export(args: argparse.Namespace) -> bool:
    """Export as the options say; return whether all files equal the network within ``--tolerance``."""
    exportable = build_exportable(args)
    name = args.name or Path(args.model).stem
    inputs = random_inputs(exportable, [] if args.fixed else args.check_sizes)
    if args.check_images and (exportable.metadata["task"] == BACKBONE or not exportable.dynamic):
        raise ExportError("--check-images goes with a detector or a segmentor that is not --fixed")
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
            print("  nothing was detected in any of these: compare on photographs, with --check-images", flush=True)
        problems = find_problems(found, args.tolerance)
        for problem in problems:
            print(f"{format_name}: NOT EQUAL: {problem}", flush=True)
        good = good and not problems
    if good and exportable.metadata["task"] != BACKBONE:
        print_next("look at its predictions", "tools/demo.py", "--model", file, "IMAGE_OR_FOLDER")
    return good


def build_exportable(args: argparse.Namespace) -> Exportable:
    """Build the network that the options name, ready to be exported."""
    given = {name: value for name in _TRUNK_OPTIONS if (value := getattr(args, name)) is not None}
    if args.model in list_variants():
        net = build(args.model, **given)
        if args.checkpoint != _RANDOM:
            load_checkpoint(net, args.checkpoint)
        return export_backbone(net, args.size or (224, 224), fixed=args.fixed)
    if given:
        option = next(iter(given)).replace("_", "-")
        raise ExportError(f"--{option} is for a trunk given by its name, and MODEL is the config {args.model}")
    if args.model not in model_zoo.list() and not Path(args.model).is_file():
        known = [*list_variants(), *model_zoo.list()]
        hint = did_you_mean(Path(args.model).stem, known, "`resnest-backbones list --configs` prints the configs")
        raise ExportError(f"MODEL must be a network, or a config by its file or name, got {args.model}; {hint}")
    checkpoint = None if args.checkpoint == _RANDOM else args.checkpoint
    options = {"framework": args.framework, "options": args.opts, "classes": args.classes}
    built = build_model(args.model, checkpoint, **options)
    if args.backbone:
        return export_backbone(built.model, args.size or (224, 224), fixed=args.fixed)
    return built.exportable(args.size, fixed=args.fixed)


def random_inputs(exportable: Exportable, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the example, and inputs of other sizes and, where they may differ, of other batch sizes."""
    shape = list(exportable.example.shape)
    inputs = [exportable.example]
    for number, size in enumerate(sizes):
        batch = [1 + number % 3] if 0 in exportable.dynamic and len(shape) == 4 else shape[:-3]
        x = torch.rand((*batch, shape[-3], *size), generator=torch.Generator().manual_seed(number + 1))
        inputs.append(x - 0.5 if exportable.metadata["task"] == BACKBONE else (255 * x).round())
    return inputs


def find_problems(differences: Sequence[Difference], tolerance: float) -> list[str]:
    """Return a message for each difference above a tolerance."""
    problems = []
    for d in differences:
        where = f"{d.output} at {'x'.join(map(str, d.size))}"
        if not d.relative <= tolerance:  # NaN is a problem, too
            problems.append(f"{where} differs by {d.relative:.1e}, allowed is {tolerance:.1e}")
        elif d.unmatched:
            problems.append(f"{where}: {d.unmatched} detections have no match")
    return problems
