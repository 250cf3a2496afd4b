#!/usr/bin/env python
"""Write the tables of README.md, MODEL_ZOO.md and docs/ anew from the records of the package, and the drawings."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from documents.costs import COSTS_FILE, costs, count, write_costs
from documents.stride_drawing import draw_output_strides
from documents.tables import fill_tables
from resnest_backbones.model_zoo import RECIPES

ROOT = Path(__file__).resolve().parents[1]
FILES = ("README.md", "MODEL_ZOO.md", "docs/speed.md", "docs/choosing.md", "docs/moving.md")
DRAWINGS = {"docs/images/output_stride.svg": draw_output_strides}


def recount() -> None:
    """Parameters and multiply-adds of the rows; needs both frameworks."""
    counted = {}
    for number, name in enumerate(RECIPES, start=1):
        counted[name] = count(name)
        print(f"[{number}/{len(RECIPES)}] {name}: {counted[name]}", flush=True)
    write_costs(counted)
    costs.cache_clear()
    print(f"{COSTS_FILE}: written")


def run(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: python tools/update_tables.py --check")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file would change")
    parser.add_argument("--recount", action="store_true", help="first count the costs of every row anew (minutes)")
    args = parser.parse_args(arguments)
    if args.recount:
        recount()
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        update(name, text, fill_tables(text), check=args.check)
    for name, draw in DRAWINGS.items():
        file = ROOT / name
        update(name, file.read_text(encoding="utf-8") if file.exists() else "", draw(), check=args.check)


def update(name: str, text: str, made: str, *, check: bool) -> None:
    """Write a file where it is not what the records say; with ``check``, end the program instead."""
    if made == text:
        print(f"{name}: what the records say")
    elif check:
        sys.exit(f"{name}: not what the records say; run tools/update_tables.py")
    else:
        (ROOT / name).write_text(made, encoding="utf-8")
        print(f"{name}: written")


if __name__ == "__main__":
    run()
