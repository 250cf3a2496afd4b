"""``tools/reproduce.py report``: how close runs came to what was published, in Markdown, JSON and HTML.

The three files have the same content, that of ``compare.py``; the page has the curves of the trainings as well.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from curves import draw_curves
from markdown_table import markdown_table
from reproduction.common import select_recipes, write_text
from reproduction.compare import read_report
from reproduction.metrics import read_curves
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import METRICS

NOTHING = "–"
DATASETS = {
    "coco": "COCO, boxes and masks",
    "coco_panoptic": "COCO, panoptic",
    "ade20k": "ADE20K",
    "pascal_context_59": "Pascal-Context-59",
    "cityscapes": "Cityscapes",
    "imagenet": "ImageNet, classification",
}
SMOKE_WARNING = (
    "SMOKE RUN, NOT A MEASUREMENT. A few iterations on a small dataset show that the recipe runs, and nothing else. "
    "The metrics mean nothing and are not compared."
)
SPREAD_INTRODUCTION = (
    "Two runs of one recipe never give the same metrics. A measured metric is within the usual spread where it differs "
    "from the published one by no more than these points, either way. Nobody measured the spread of these recipes; "
    "each line says what it was taken from."
)
_COLUMNS = ("recipe", "state", "metric", "measured", "published", "difference", "usual spread", "verdict")


def make_view(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Markdown and the page show of the content of ``report.json``, in words."""
    entries = [_view_entry(entry) for entry in content["recipes"]]
    places: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for item in content["spread"]:
        taken_from = "; ".join(filter(None, (item["reason"], item["source"])))
        place = (DATASETS[item["dataset"]], METRICS[item["metric"]])
        places.setdefault((f"± {item['points']:.1f}", taken_from), []).append(place)
    tables = {title: [entry for entry in entries if entry["dataset"] == key] for key, title in DATASETS.items()}
    return {
        "headline": _headline(content["totals"]),
        "summary": _summary(content["totals"]),
        "smoke": content["totals"]["smoke"],
        "smoke_warning": SMOKE_WARNING,
        "problems": content["problems"],
        "columns": _COLUMNS,
        "tables": {title: each for title, each in tables.items() if each},
        "sections": [entry for entry in entries if entry["has_section"]],
        "spread_introduction": SPREAD_INTRODUCTION,
        "spreads": [  # each once: datasets, metrics, points, what it was taken from
            (*("; ".join(dict.fromkeys(names)) for names in zip(*found, strict=True)), *spread)
            for spread, found in places.items()
        ],
        "records": [entry["record"] for entry in entries if entry["record"]],
    }


def _headline(totals: Mapping[str, int]) -> str:
    return (
        f"{totals['run']} of {totals['recipes']} recipes run: {totals['within']} within the usual run-to-run spread of "
        f"what was published, {totals['below']} below, {totals['above']} above."
    )


def _summary(totals: Mapping[str, int]) -> str:
    sentences = [
        f"Of the recipes run, {totals['finished']} finished, {totals['running']} are unfinished, {totals['failed']} "
        f"failed. {totals['not_run']} were not run."
    ]
    if without := totals["finished"] - totals["within"] - totals["below"] - totals["above"]:
        sentences.append(f"Finished without a metric to compare: {without}.")
    if totals["smoke"]:
        sentences.append(
            f"Only as smoke runs, which measure nothing: {totals['smoke']}; {totals['smoke_failed']} of them failed."
        )
    if totals["broken"]:
        sentences.append(f"With files that cannot be understood: {totals['broken']}.")
    return " ".join(sentences)


def _view_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    facts = {"published in": entry["source"]}
    if entry["state"] not in ("not run", "broken"):
        versions = ", ".join(f"{package} {version}" for package, version in entry["versions"].items())
        facts |= {"machine": entry["machine"], "versions": versions}
        facts |= {name: entry[name] for name in ("started", "ended", "command")}
        for step in entry["steps"]:
            hours = NOTHING if step["seconds"] is None else f"{step['seconds'] / 3600:.2f} h"
            facts[f"{step['name']}: {hours}, exit status {step['status']}"] = step["command"]
    kinds = ["smoke run"] * entry["smoke"] + ["published file"] * entry["published_file"]
    return {
        **entry,
        "state_in_words": ", ".join([*kinds, entry["state"]]),
        "has_section": entry["state"] != "not run" or bool(entry["problems"]),
        "lines": [_cells(entry, metric) for metric in entry["metrics"]],
        "facts": {name: value or NOTHING for name, value in facts.items()},
    }


def _cells(entry: Mapping[str, Any], metric: Mapping[str, Any]) -> list[str]:
    """Return metric, measured, published, difference, spread and verdict, as texts."""
    formats = {"measured": "{:.2f}", "published": "{:.2f}", "difference": "{:+.2f}", "spread": "± {:.1f}"}
    numbers = [NOTHING if metric[key] is None else text.format(metric[key]) for key, text in formats.items()]
    verdict = f"{metric['verdict']} the usual spread" if metric["verdict"] else metric["reason"]
    verdict = NOTHING if entry["state"] == "not run" else verdict
    return [METRICS[metric["metric"]], *(number.replace("+0.00", "0.00") for number in numbers), verdict]


# Markdown


def as_markdown(view: Mapping[str, Any]) -> str:
    """Return ``report.md``."""
    parts = ["# Reproduction report", f"**{view['headline']}**", view["summary"]]
    parts += [f"> **{SMOKE_WARNING}**"] * bool(view["smoke"])
    parts += ["## Problems", _code(view["problems"])] * bool(view["problems"])
    for title, entries in view["tables"].items():
        rows = [[f"`{e['name']}`", e["state_in_words"], *cells] for e in entries for cells in e["lines"]]
        parts += [f"## {title}", markdown_table(_COLUMNS, rows, "lllrrrrl")]
    parts.append("## The runs")
    for entry in view["sections"]:
        parts.append(f"### {entry['name']}: {entry['state_in_words']}")
        parts += [f"**{SMOKE_WARNING}**"] * entry["smoke"]
        errors = [f"error: {entry['error']}"] * bool(entry["error"])
        facts = [f"{name}: {value}" for name, value in entry["facts"].items()]
        parts.append(_code([*errors, *entry["problems"], *facts]))
        if entry["log"]:
            parts.append(f"Log: [{Path(entry['log']).name}]({quote(entry['log'])})")
    head = ("dataset", "metric", "points", "taken from")
    parts += ["## The usual run-to-run spread", SPREAD_INTRODUCTION, markdown_table(head, view["spreads"], "llrl")]
    if view["records"]:
        parts += ["## To record these measurements", "Put into `MEASURED` of `resnest_backbones/model_zoo.py`:"]
        parts.append(_code(view["records"]))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _code(texts: Sequence[str]) -> str:
    """Return a line of code for each text, so that none of it is Markdown."""
    return "\n".join(f"    {' '.join(text.split())}" for text in texts)


# The page


def as_html(view: Mapping[str, Any], output_dir: Path) -> str:
    """Return ``report.html``: one file without scripts, the curves embedded as PNG."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    curves = {entry["name"]: embed_curves(entry, output_dir / entry["name"]) for entry in view["sections"]}
    return environment.get_template("report.html.j2").render(**view, curves=curves, quote=quote) + "\n"


def embed_curves(entry: Mapping[str, Any], folder: Path) -> tuple[str, str] | None:
    """Draw loss and metrics of the training in a folder: a PNG as a data URL, and its text; None without curves."""
    curves = read_curves(folder, entry["framework"])
    if not curves:
        return None
    labels = {name: METRICS.get(name, name) for name in curves}
    published = {item["metric"]: item["published"] for item in entry["metrics"] if not entry["smoke"]}
    stream, metrics = io.BytesIO(), {name: label for name, label in labels.items() if name != "loss"}
    title = "metrics on the validation split"
    draw_curves(curves, stream, losses={"loss": "loss"}, metrics=metrics, title=title, published=published)
    texts = []
    for name, curve in curves.items():
        (first, *_, last), (start, *_, end) = ([*values, values[-1]] for values in curve)
        texts.append(f"{labels[name]} from {start:.4g} at iteration {first} to {end:.4g} at iteration {last}")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}", "; ".join(texts)


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``report``."""
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("reproduced"), metavar="DIR",
        help="where the recipes were run (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to write the report (default: OUTPUT_DIR/report)")


def main(args: argparse.Namespace) -> int:
    """Write the report and print its summary."""
    recipes = select_recipes(args.recipes)
    if not args.output_dir.is_dir():
        raise ConfigError(f"--output-dir must be a folder that recipes were run in, got {args.output_dir}")
    folder = args.to or args.output_dir / "report"
    content = read_report(recipes, args.output_dir, folder)
    view = make_view(content)
    if not view["problems"] and not view["sections"]:
        name = "no recipe" if len(recipes) > 1 else recipes[0].name
        raise ConfigError(f"{name} was run in {args.output_dir}; `run` writes there, or give another --output-dir")
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": as_markdown(view),
        "report.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "report.html": as_html(view, args.output_dir),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    print(view["headline"], view["summary"], sep="\n")
    problems = [f"{entry['name']}: {text}" for entry in view["sections"] for text in entry["problems"]]
    for problem in [*view["problems"], *problems]:
        print(f"problem: {problem}")
    if view["records"]:
        print("to record these measurements, put into MEASURED of resnest_backbones/model_zoo.py:")
        print(*(f"    {line}" for line in view["records"]), sep="\n")
    print("written: " + ", ".join(str(folder / name) for name in texts))
    return 0
