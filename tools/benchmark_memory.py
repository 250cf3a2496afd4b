#!/usr/bin/env python
"""Measure what a training step of a Detectron2 recipe keeps for backward, as a Markdown table.

The model is the recipe's own, with its norms, its frozen stages and its deformable convolutions, in as many processes
as asked for, so that synchronized norms synchronize; each process has images and boxes of its own. "Kept" counts the
bytes of all tensors that the forward pass keeps, parameters included, once with what can be computed again in backward
(MODEL.RESNETS.RECOMPUTE True) and once without (False).

python tools/benchmark_memory.py faster_rcnn_resnest50_fpn_1x mask_rcnn_resnest101_fpn_1x --size 480x640
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

from resnest_backbones.commands.export import parse_size


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="Detectron2 recipes")
    parser.add_argument("--size", type=parse_size, default=(480, 640), metavar="HxW", help="default: 480x640")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="of each process (default: 2)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="default: 2")
    return parser


def run(arguments: list[str] | None = None) -> None:
    """Measure one recipe after the other, and print a table."""
    args = build_argument_parser().parse_args(arguments)
    from torch import multiprocessing

    from machine import describe_machine
    from markdown_table import markdown_table

    rows = []
    for recipe in args.recipes:
        with tempfile.TemporaryDirectory() as folder:
            work = (recipe, args, Path(folder))
            multiprocessing.start_processes(_measure, work, nprocs=args.processes, start_method="spawn")
            recomputed, kept = (int(number) for number in Path(folder, "kept").read_text().split())
        rows.append((recipe, f"{recomputed >> 20}", f"{kept >> 20}", f"{recomputed / kept:.2f}"))
        print(*rows[-1], file=sys.stderr, flush=True)
    print(markdown_table(("recipe", "kept, recomputing (MiB)", "keeping all (MiB)", "ratio"), rows, "lr"))
    print(describe_machine())


def _measure(rank: int, recipe: str, args: argparse.Namespace, folder: Path) -> None:
    import torch
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from benchmarks.cases import Case
    from benchmarks.detectors import detector_inputs
    from benchmarks.measure import kept_for_backward
    from resnest_backbones.model_zoo import get_config
    from resnest_backbones.models.norms import synchronise_on_cpu

    meeting = (folder / "meeting").as_uri()
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=args.processes)
    case = Case("", *args.size, args.images, "float32", "detector training")
    found = []
    for recompute in (True, False):
        cfg = get_config(recipe)
        cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.RECOMPUTE = "", "cpu", recompute
        torch.manual_seed(0)
        model = synchronise_on_cpu(build_model(cfg)).train()
        inputs = detector_inputs(case, torch.device("cpu"), masks=cfg.MODEL.MASK_ON)
        with EventStorage(0):
            found.append(kept_for_backward(functools.partial(model, inputs)))
    if rank == 0:
        Path(folder, "kept").write_text(" ".join(map(str, found)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run()
