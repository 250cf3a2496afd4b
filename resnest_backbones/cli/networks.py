"""``list`` and ``info``: networks and configs with what is known of them."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from resnest_backbones import model_zoo
from resnest_backbones.command_line import print_next
from resnest_backbones.models.variants import VARIANTS
from resnest_backbones.recipes import RECIPES
from resnest_backbones.weights import WEIGHTS, default_cache_dir


def print_list(args: argparse.Namespace) -> int:
    """The command ``list``."""
    rows = [_config_row(name) for name in model_zoo.list()] if args.configs else [_network_row(n) for n in VARIANTS]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    print_table(rows)
    print()
    print_next("all of one", "-m", "resnest_backbones", "info", rows[0]["name"] if args.configs else "resnest50")
    return 0


def _network_row(name: str) -> dict[str, Any]:
    spec, record = VARIANTS[name], WEIGHTS.get(name)
    return {
        "name": name,
        "params_m": round((spec.params or 0) / 1e6, 1),
        "multiply_adds_g": round((spec.multiply_adds or 0) / 1e9, 1),
        "top1": record.top1 if record else None,
        "configs": len(_configs_of(name)),
    }


def _config_row(name: str) -> dict[str, Any]:
    recipe = RECIPES.get(name)
    return {
        "name": name,
        "framework": _framework(name),
        "published": dict(recipe.figures) if recipe else None,
    }


def _framework(name: str) -> str:
    return "mmseg" if model_zoo.get_config_file(name).endswith(".py") and "mmseg" in _parts(name) else "detectron2"


def _parts(name: str) -> Sequence[str]:
    return model_zoo.get_config_file(name).replace("\\", "/").split("/")


def _configs_of(network: str) -> list[str]:
    """Names of the configs on a network: its name stands there whole."""
    pattern = re.compile(rf"(?:^|_){network}(?=_|-|$)(?!_fast_)")
    return [name for name in model_zoo.list() if pattern.search(name)]


def print_info(args: argparse.Namespace) -> int:
    """The command ``info``."""
    if args.name in VARIANTS:
        facts = _facts_of_network(args.name)
        following = ("download its weights", "download", args.name)
        if not facts["weights"]:
            following = ("see another network", "info", "resnest50")
    elif args.name in model_zoo.list():
        facts = _facts_of_config(args.name)
        following = ("see its network", "info", facts["network"] or "resnest50")
    else:
        raise ValueError(f"NAME must be a network or a config, got {args.name!r}{hint(args.name)}")
    if args.json:
        print(json.dumps(facts, indent=1))
        return 0
    print_facts(facts)
    print()
    print_next(following[0], "-m", "resnest_backbones", *following[1:])
    return 0


def hint(name: str, names: Sequence[str] | None = None) -> str:
    """What may have been meant, to end a message with."""
    close = difflib.get_close_matches(name, names or [*VARIANTS, *model_zoo.list()], n=3)
    return f"; did you mean {' or '.join(close)}?" if close else "; `resnest-backbones list` prints the names"


def _facts_of_network(name: str) -> dict[str, Any]:
    record = WEIGHTS.get(name)
    weights = None
    if record:
        file = default_cache_dir() / record.filename
        weights = {
            "top1": record.top1,
            "crop": record.crop,
            "channel_order": record.channel_order,
            "mean": list(record.mean),
            "std": list(record.std),
            "use_as": f"resnest://{name}",
            "url": record.url,
            "cached": str(file) if file.exists() else None,
            "license": record.license,
        }
    spec = dataclasses.asdict(VARIANTS[name])
    configs = {config: dict(RECIPES[config].figures) if config in RECIPES else None for config in _configs_of(name)}
    return {**spec, "depths": list(spec["depths"]), "weights": weights, "configs": configs}


def _facts_of_config(name: str) -> dict[str, Any]:
    recipe = RECIPES.get(name)
    networks = [network for network in VARIANTS if name in _configs_of(network)]
    facts: dict[str, Any] = {
        "name": name,
        "framework": _framework(name),
        "network": max(networks, key=len) if networks else None,
        "file": model_zoo.get_config_file(name),
    }
    if recipe:
        facts |= {
            "dataset": recipe.dataset,
            "method": recipe.method,
            "schedule": recipe.schedule,
            "published": dict(recipe.figures),
            "source": recipe.source,
            "published_file": recipe.file.name if recipe.file else None,
        }
    return facts


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns of equal width; None is empty."""
    cells = [[*rows[0]], *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    """One fact a line, what belongs to it below it."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, Mapping) and (name in ("weights", "configs")):
            print(f"{indent}{name}:")
            print_facts(value or {"none": None}, f"{indent}  ")
        else:
            print(f"{indent}{name:<{width}}  {_shown(value)}".rstrip())


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {figure}" for name, figure in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
