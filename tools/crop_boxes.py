#!/usr/bin/env python
"""Cut the objects of a COCO-format dataset out of their images, into a folder per class, for tools/pretrain.py.

Each is cut as a square around its box, with a margin. Objects of crowds are left out.

python tools/crop_boxes.py train.json images/ crops/train --per-class 300
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnest_backbones.data import read_image
from resnest_backbones.data.coco import read_coco_json
from resnest_backbones.errors import ConfigError, add_verbose, one_line_errors


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="annotations in COCO format")
    parser.add_argument("images", type=Path, help="image folder")
    parser.add_argument("output", type=Path, help="output folder; must not exist yet")
    parser.add_argument(
        "--per-class", type=int, metavar="N", help="objects per class, sampled at random (default: all)"
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.2,
        help="margin around the box, as a fraction of its size (default: %(default)s)",
    )
    parser.add_argument("--min-side", type=int, default=8, metavar="PIXELS", help="of a box (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add_verbose(parser)
    return parser


def run(arguments: list[str] | None = None) -> None:
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, verbose=args.verbose):
        if args.output.exists():
            raise ConfigError(f"{args.output} exists already: choose another folder")
        counts = crop_boxes(args)
        print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no objects")


def crop_boxes(args: argparse.Namespace) -> Counter[str]:
    """Write the crops; return how many each class has."""
    content, _, _ = read_coco_json(args.json, args.images)
    names = {category["id"]: str(category["name"]).replace("/", "_") for category in content["categories"]}
    files = {image["id"]: args.images / image["file_name"] for image in content["images"]}
    chosen: dict[Any, list[dict[str, Any]]] = {}
    counts: Counter[str] = Counter()
    objects = [one for one in content["annotations"] if not one["iscrowd"] and min(one["bbox"][2:]) >= args.min_side]
    for number in np.random.default_rng(args.seed).permutation(len(objects)):
        name = names[objects[number]["category_id"]]
        if args.per_class is None or counts[name] < args.per_class:
            counts[name] += 1
            chosen.setdefault(objects[number]["image_id"], []).append(objects[number])
    for image_id, inside in chosen.items():
        image = Image.fromarray(read_image(files[image_id]))
        for one in inside:
            x, y, width, height = one["bbox"]
            side = max(width, height) * (1 + args.margin)
            left, top = x + (width - side) / 2, y + (height - side) / 2
            box = (max(left, 0), max(top, 0), min(left + side, image.width), min(top + side, image.height))
            folder = args.output / names[one["category_id"]]
            folder.mkdir(parents=True, exist_ok=True)
            image.crop([round(edge) for edge in box]).save(folder / f"{image_id}_{one['id']}.png")
    return counts


if __name__ == "__main__":
    run()
