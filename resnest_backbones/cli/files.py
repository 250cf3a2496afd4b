"""``download`` and ``convert``."""

from __future__ import annotations

import argparse
import json
import logging

from resnest_backbones.checkpoint import convert_file
from resnest_backbones.cli.networks import hint
from resnest_backbones.command_line import print_next
from resnest_backbones.weights import WEIGHTS, fetch


def download(args: argparse.Namespace) -> int:
    """The command ``download``."""
    if args.name not in WEIGHTS:
        raise ValueError(
            f"NAME must be a network with published weights, got {args.name!r}{hint(args.name, [*WEIGHTS])}"
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    file = fetch(WEIGHTS[args.name], cache_dir=args.cache_dir, progress=not args.json)
    if args.json:
        print(json.dumps({"name": args.name, "file": str(file), "use_as": f"resnest://{args.name}"}))
        return 0
    print(f"{file}: verified; both frameworks and load_checkpoint take it as resnest://{args.name}")
    words = ("convert", f"resnest://{args.name}", f"{args.name}_d2.pth", "--to", "detectron2")
    print_next("write it for a Detectron2 without this package's checkpointer", "-m", "resnest_backbones", *words)
    return 0


def convert(args: argparse.Namespace) -> int:
    """The command ``convert``."""
    count = convert_file(args.source, args.target_file, args.to)
    if args.json:
        print(json.dumps({"file": args.target_file, "layout": args.to, "tensors": count}))
    else:
        print(f"{args.target_file}: {count} tensors in the layout {args.to}")
    return 0
