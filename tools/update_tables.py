#!/usr/bin/env python
"""Rewrite the tables of README.md, MODEL_ZOO.md and docs/ from the records.

python tools/update_tables.py
python tools/update_tables.py --check
"""

from __future__ import annotations

import argparse
import sys

from checkout import ROOT
from resnest_backbones.model_zoo import RECIPES

FILES = ("README.md", "MODEL_ZOO.md", "docs/speed.md", "docs/choosing.md", "docs/output-stride.md")


def recount() -> None:
    """Count parameters and multiply-adds of the recipes; needs both frameworks."""
    from documents.costs import COSTS_FILE, costs, count, write_costs

    counted = {}
    for number, name in enumerate(RECIPES, start=1):
        counted[name] = count(name)
        print(f"[{number}/{len(RECIPES)}] {name}: {counted[name]}", flush=True)
    write_costs(counted)
    costs.cache_clear()
    print(f"{COSTS_FILE}: written")


def run(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    parser.add_argument("--recount", action="store_true", help="first count the costs of every recipe again (minutes)")
    args = parser.parse_args(arguments)
    from documents.tables import fill_tables

    if args.recount:
        recount()
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        made = fill_tables(text)
        if made == text:
            print(f"{name}: up to date")
        elif args.check:
            sys.exit(f"{name}: not up to date; run tools/update_tables.py")
        else:
            (ROOT / name).write_text(made, encoding="utf-8")
            print(f"{name}: written")


if __name__ == "__main__":
    run()
