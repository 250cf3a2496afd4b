#!/usr/bin/env python
"""Rewrite the tables and drawings of README.md, MODEL_ZOO.md and docs/ from the records.

python tools/update_tables.py
python tools/update_tables.py --check
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from checkout import ROOT
from documents.costs import COSTS_FILE, costs, count, write_costs
from documents.stride_drawing import draw_output_strides
from documents.tables import fill_tables
from resnest_backbones.model_zoo import RECIPES

FILES = ("README.md", "MODEL_ZOO.md", "docs/speed.md", "docs/choosing.md", "docs/moving.md")
DRAWINGS = {"docs/images/output_stride.svg": draw_output_strides}


def recount() -> None:
    """Count parameters and multiply-adds of the recipes; needs both frameworks."""
    counted = {}
    for number, name in enumerate(RECIPES, start=1):
        counted[name] = count(name)
        print(f"[{number}/{len(RECIPES)}] {name}: {counted[name]}", flush=True)
    write_costs(counted)
    costs.cache_clear()
    print(f"{COSTS_FILE}: written")


def labels(drawing: str) -> list[str]:
    """Return the texts of an SVG, whose other lines depend on matplotlib's version."""
    return re.findall(r"<text[^>]*>([^<]*)", drawing)


def run(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    parser.add_argument("--recount", action="store_true", help="first count the costs of every recipe again (minutes)")
    args = parser.parse_args(arguments)
    if args.recount:
        recount()
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        made = fill_tables(text)
        update(ROOT / name, made, up_to_date=made == text, check=args.check)
    for name, draw in DRAWINGS.items():
        file, made = ROOT / name, draw()
        same = file.exists() and labels(file.read_text(encoding="utf-8")) == labels(made)
        update(file, made, up_to_date=same, check=args.check)


def update(file: Path, made: str, *, up_to_date: bool, check: bool) -> None:
    """Write a file that is not up to date; with ``check``, end the program instead."""
    name = file.relative_to(ROOT)
    if up_to_date:
        print(f"{name}: up to date")
    elif check:
        sys.exit(f"{name}: not up to date; run tools/update_tables.py")
    else:
        file.write_text(made, encoding="utf-8")
        print(f"{name}: written")


if __name__ == "__main__":
    run()
