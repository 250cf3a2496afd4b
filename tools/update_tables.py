#!/usr/bin/env python
"""Write the tables of README.md and MODEL_ZOO.md anew from the records of the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from resnest_backbones.costs import COSTS_FILE, costs, count, write_costs
from resnest_backbones.recipes import RECIPES
from resnest_backbones.tables import fill_tables

ROOT = Path(__file__).resolve().parents[1]
FILES = ("README.md", "MODEL_ZOO.md", "docs/speed.md")


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
        file = ROOT / name
        text = file.read_text(encoding="utf-8")
        filled = fill_tables(text)
        if filled == text:
            print(f"{name}: its tables are what the records say")
        elif args.check:
            sys.exit(f"{name}: its tables are not what the records say; run tools/update_tables.py")
        else:
            file.write_text(filled, encoding="utf-8")
            print(f"{name}: tables written")


if __name__ == "__main__":
    run()
