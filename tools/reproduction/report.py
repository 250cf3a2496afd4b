"""``tools/reproduce.py report``: how close runs came to what was published, in Markdown, JSON and HTML.

The three files have the same content, that of ``compare.py``; the page has the curves of the trainings as well.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from matplotlib.figure import Figure
from tabulate import tabulate

from reproduction.common import select_recipes, write_text
from reproduction.compare import read_report
from reproduction.metrics import Curve, read_curves
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import METRICS

NOTHING = "–"
DATASETS = {
    "coco": "COCO, boxes and masks",
    "coco_panoptic": "COCO, panoptic",
    "ade20k": "ADE20K",
    "pascal_context_59": "Pascal-Context-59",
    "cityscapes": "Cityscapes",
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
_BACKTICKS = re.compile("`+")


def headline(totals: Mapping[str, int]) -> str:
    """Return how many recipes were run, and how close they came."""
    return (
        f"{totals['run']} of {totals['recipes']} recipes run: {totals['within']} within the usual run-to-run spread of "
        f"what was published, {totals['below']} below, {totals['above']} above."
    )


def summary(totals: Mapping[str, int]) -> str:
    """Return what the headline leaves out."""
    sentences = [
        f"Of the recipes run, {totals['finished']} finished, {totals['running']} have not ended, {totals['failed']} "
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


def state(entry: Mapping[str, Any]) -> str:
    """Return how far a recipe came."""
    return f"smoke run, {entry['state']}" if entry["smoke"] else str(entry["state"])


def cells(entry: Mapping[str, Any], metric: Mapping[str, Any]) -> list[str]:
    """Return metric, measured, published, difference, spread and verdict, as texts."""
    numbers = [NOTHING if metric[key] is None else f"{metric[key]:.2f}" for key in ("measured", "published")]
    difference = metric["difference"]
    numbers.append(NOTHING if difference is None else f"{difference:+.2f}" if difference else "0.00")
    numbers.append(NOTHING if metric["spread"] is None else f"± {metric['spread']:.1f}")
    verdict = f"{metric['verdict']} the usual spread" if metric["verdict"] else metric["reason"]
    return [METRICS[metric["metric"]], *numbers, NOTHING if entry["state"] == "not run" else verdict]


def facts(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is to be known of a run: (name, value)."""
    found = [("published in", entry["source"])]
    if entry["state"] not in ("not run", "broken"):
        versions = ", ".join(f"{package} {version}" for package, version in entry["versions"].items())
        found += [("machine", entry["machine"]), ("versions", versions), ("started", entry["started"])]
        found += [("ended", entry["ended"]), ("command", entry["command"])]
        for step in entry["steps"]:
            hours = NOTHING if step["seconds"] is None else f"{step['seconds'] / 3600:.2f} h"
            found.append((f"{step['name']}: {hours}, exit status {step['status']}", step["command"]))
    return [(name, value or NOTHING) for name, value in found]


def has_section(entry: Mapping[str, Any]) -> bool:
    """Return whether there is more to say of a recipe than its lines in the table."""
    return entry["state"] != "not run" or bool(entry["problems"])


def spreads(content: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the usual spreads, each once: (datasets, metrics, points, what it was taken from)."""
    places: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for item in content["spread"]:
        taken_from = f"{item['reason']}; {item['source']}" if item["source"] else item["reason"]
        place = (DATASETS[item["dataset"]], METRICS[item["metric"]])
        places.setdefault((f"± {item['points']:.1f}", taken_from), []).append(place)
    return [
        (*("; ".join(dict.fromkeys(names)) for names in zip(*found, strict=True)), points, taken_from)  # type: ignore[misc]
        for (points, taken_from), found in places.items()
    ]


# Markdown


def as_markdown(content: Mapping[str, Any]) -> str:
    """Return ``report.md``."""
    entries, totals = content["recipes"], content["totals"]
    parts = ["# Reproduction report", f"**{headline(totals)}**", summary(totals)]
    parts += [f"> **{SMOKE_WARNING}**"] * bool(totals["smoke"])
    if content["problems"]:
        parts += ["## Problems", _bullets(content["problems"])]
    for dataset, title in DATASETS.items():
        lines = [
            [f"`{entry['name']}`", state(entry), *cells(entry, metric)]
            for entry in entries
            if entry["dataset"] == dataset
            for metric in entry["metrics"]
        ]
        if lines:
            parts += [f"## {title}", _table(lines, _COLUMNS, right=range(3, 7))]
    parts += ["## The runs", *(_section(entry) for entry in entries if has_section(entry))]
    head = ("dataset", "metric", "points", "taken from")
    parts += ["## The usual run-to-run spread", SPREAD_INTRODUCTION, _table(spreads(content), head, right=[2])]
    if records := [entry["record"] for entry in entries if entry["record"]]:
        fence = "`" * max(3, _longest_backticks("\n".join(records)) + 1)
        code = "\n".join([f"{fence}python", *records, fence])
        parts += ["## To record these measurements", "Put into `MEASURED` of `resnest_backbones/model_zoo.py`:", code]
    return "\n\n".join(parts) + "\n"


def _table(lines: Sequence[Sequence[str]], head: Sequence[str], *, right: Sequence[int]) -> str:
    align = ["right" if number in right else "left" for number in range(len(head))]
    return tabulate(lines, head, tablefmt="pipe", disable_numparse=True, colalign=align)


def _section(entry: Mapping[str, Any]) -> str:
    parts = [f"### {entry['name']}: {state(entry)}"]
    parts += [f"**{SMOKE_WARNING}**"] * entry["smoke"]
    parts += [f"Error: {_code(entry['error'])}"] * bool(entry["error"])
    parts += [_bullets(entry["problems"])] * bool(entry["problems"])
    lines = [f"- {name}: {_code(value)}" for name, value in facts(entry)]
    if entry["log"]:
        lines.append(f"- log: [{Path(entry['log']).name}]({quote(entry['log'])})")
    return "\n\n".join([*parts, "\n".join(lines)])


def _bullets(texts: Sequence[str]) -> str:
    return "\n".join(f"- {_code(text)}" for text in texts)


def _code(text: str) -> str:
    """Return a text as code: in more backticks than any in it, so that none of it is Markdown.

    >>> print(_code("a <b>"), _code("`x`"))
    `a <b>` `` `x` ``
    """
    line, longest = " ".join(text.split()), _longest_backticks(text)
    return f"{'`' * (longest + 1)} {line} {'`' * (longest + 1)}" if longest else f"`{line}`"


def _longest_backticks(text: str) -> int:
    return max(map(len, _BACKTICKS.findall(text)), default=0)


# The page


def as_html(content: Mapping[str, Any], output_dir: Path) -> str:
    """Return ``report.html``: one file without scripts, the curves embedded as PNG."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(
        headline=headline, summary=summary, state=state, cells=cells, facts=facts, has_section=has_section,
        spreads=spreads, quote=quote, datasets=DATASETS, smoke_warning=SMOKE_WARNING,
        spread_introduction=SPREAD_INTRODUCTION, columns=_COLUMNS,
    )  # fmt: skip
    curves = {entry["name"]: draw_curves(entry, output_dir / entry["name"]) for entry in content["recipes"]}
    return environment.get_template("report.html.j2").render(content=content, curves=curves) + "\n"


def draw_curves(entry: Mapping[str, Any], folder: Path) -> tuple[str, str] | None:
    """Draw loss and metrics of a training over its iterations.

    Args:
        entry: of the recipe in the report.
        folder: of its run.

    Returns:
        A PNG as a data URL, and what it shows in words; None where the training left no curves.

    Raises:
        OSError: a file cannot be read.
    """
    curves = read_curves(folder, entry["framework"])
    if not curves:
        return None
    metrics = {name: curve for name, curve in curves.items() if name != "loss"}
    published = {item["metric"]: item["published"] for item in entry["metrics"] if not entry["smoke"]}
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(title="training loss", xlabel="iteration")
    right.set(title="metrics on the validation split", xlabel="iteration", ylabel="percent")
    if "loss" in curves:
        left.plot(*curves["loss"], linewidth=1)
    for number, (name, curve) in enumerate(metrics.items()):
        right.plot(*curve, marker="o", markersize=3, color=f"C{number}", label=METRICS[name])
        if published.get(name) is not None:
            right.axhline(published[name], color=f"C{number}", linestyle="--", label=f"published {published[name]:g}")
    if metrics:
        right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=90, metadata={"Software": None})
    text = "; ".join(_described(name, curve) for name, curve in curves.items())
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}", text


def _described(name: str, curve: Curve) -> str:
    (first, *_, last), (start, *_, end) = ([*values, values[-1]] for values in curve)
    return f"{METRICS.get(name, name)} from {start:.4g} at iteration {first} to {end:.4g} at iteration {last}"


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
    if not content["problems"] and not any(has_section(entry) for entry in content["recipes"]):
        name = "no recipe" if len(recipes) > 1 else recipes[0].name
        raise ConfigError(f"{name} was run in {args.output_dir}; `run` writes there, or give another --output-dir")
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": as_markdown(content),
        "report.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "report.html": as_html(content, args.output_dir),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    print(headline(content["totals"]), summary(content["totals"]), sep="\n")
    problems = [f"{entry['name']}: {text}" for entry in content["recipes"] for text in entry["problems"]]
    for problem in [*content["problems"], *problems]:
        print(f"problem: {problem}")
    if records := [entry["record"] for entry in content["recipes"] if entry["record"]]:
        print("to record these measurements, put into MEASURED of resnest_backbones/model_zoo.py:")
        print(*(f"    {line}" for line in records), sep="\n")
    print("written: " + ", ".join(str(folder / name) for name in texts))
    return 0
