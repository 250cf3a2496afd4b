"""How the report says things, in Markdown and in HTML alike."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from reproduction.compare import ABOVE, BELOW, BROKEN, NOT_RUN, WITHIN, Comparison, RowReport, Totals
from reproduction.curves import as_float
from reproduction.spread import SPREADS, Spread
from resnest_backbones.model_zoo import METRICS

NOTHING = "–"

DATASETS = {
    "coco": "COCO, boxes and masks",
    "coco_panoptic": "COCO, panoptic",
    "ade20k": "ADE20K",
    "pascal_context_59": "Pascal-Context-59",
    "cityscapes": "Cityscapes",
}
VERDICTS = {
    WITHIN: "within the usual spread",
    BELOW: "below the usual spread",
    ABOVE: "above the usual spread",
}
SMOKE_WARNING = (
    "SMOKE RUN, NOT A MEASUREMENT. A few iterations on a small data set show that the recipe runs, and nothing else. "
    "The figures mean nothing and are not compared."
)
SPREAD_INTRODUCTION = (
    "Two runs of one recipe never give the same figures. A measured figure is within the usual spread where it differs "
    "from the published one by no more than these points, either way. Nobody measured the spread of these recipes; "
    "each line says what it was taken from."
)


def headline(totals: Totals) -> str:
    """How many rows were run, and how close they came."""
    return (
        f"{totals.run} of {totals.rows} rows run: {totals.within} within the usual run-to-run spread of what was "
        f"published, {totals.below} below, {totals.above} above."
    )


def summary(totals: Totals) -> list[str]:
    """What the headline leaves out, a sentence each."""
    sentences = [
        f"Of the rows run, {totals.finished} finished, {totals.running} did not end yet, {totals.failed} failed. "
        f"{totals.not_run} were not run."
    ]
    if without := totals.finished - totals.within - totals.below - totals.above:
        sentences.append(f"Finished without a figure to compare: {without}.")
    if totals.smoke:
        sentences.append(
            f"Only as smoke runs, which measure nothing: {totals.smoke}; {totals.smoke_failed} of them failed."
        )
    if totals.broken:
        sentences.append(f"With files that cannot be understood: {totals.broken}.")
    return sentences


def state(row: RowReport) -> str:
    """How far a row came.

    A run that was killed could not say so: its row stays ``running``.
    """
    return f"smoke run, {row.state}" if row.is_smoke else row.state


def verdict(row: RowReport, comparison: Comparison) -> str:
    """The verdict, or why there is none; nothing of a row whose state says it."""
    if row.state == NOT_RUN:
        return NOTHING
    return VERDICTS.get(comparison.verdict) or comparison.reason


def metric(name: str) -> str:
    """What a reader calls a metric."""
    return METRICS[name]


def figure(value: float | None) -> str:
    """A figure in percent, as published ones are written.

    >>> figure(42.3), figure(None)
    ('42.30', '–')
    """
    return NOTHING if value is None else f"{value:.2f}"


def difference(value: float | None) -> str:
    """A difference with its sign.

    >>> difference(0.1), difference(-0.25), difference(0.0)
    ('+0.10', '-0.25', '0.00')
    """
    if value is None:
        return NOTHING
    return f"{value:+.2f}" if value else f"{value:.2f}"


def spread(comparison: Comparison) -> str:
    """The usual spread of a metric."""
    return NOTHING if comparison.spread is None else f"± {comparison.spread.points:.1f}"


def spreads() -> list[tuple[str, str, str, str]]:
    """The usual spreads, each once: (data sets, metrics, points, what it was taken from)."""
    places: dict[Spread, list[tuple[str, str]]] = {}
    for dataset, of_dataset in SPREADS.items():
        for name, item in of_dataset.items():
            places.setdefault(item, []).append((DATASETS[dataset], METRICS[name]))
    return [
        (
            "; ".join(dict.fromkeys(dataset for dataset, _ in found)),
            "; ".join(dict.fromkeys(name for _, name in found)),
            f"± {item.points:.1f}",
            f"{item.reason}; {item.source}" if item.source else item.reason,
        )
        for item, found in places.items()
    ]


def duration(seconds: float) -> str:
    """A time span.

    >>> duration(7.6), duration(125), duration(3600 * 30 + 300)
    ('8 s', '2 min 5 s', '30 h 5 min')
    """
    if not math.isfinite(as_float(seconds)):
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def facts(row: RowReport) -> list[tuple[str, str]]:
    """What is to be known of a run: (name, value)."""
    if row.result is None:
        return [("published in", row.recipe.source)]
    result = row.result
    versions = ", ".join(f"{package} {version}" for package, version in result.versions.items())
    return [
        ("published in", row.recipe.source),
        ("machine", result.machine or NOTHING),
        ("versions", versions or NOTHING),
        ("started", result.started or NOTHING),
        ("ended", result.ended or NOTHING),
        ("command", result.command or NOTHING),
    ]


def steps(row: RowReport) -> list[tuple[str, str]]:
    """The commands of a run that have ended: (how it went, the command)."""
    if row.result is None:
        return []
    return [
        (f"{step.name}: {duration(step.seconds)}, exit status {step.status}", step.command) for step in row.result.steps
    ]


def has_section(row: RowReport) -> bool:
    """Whether there is more to say of a row than its line in the table."""
    return row.result is not None or row.state == BROKEN or bool(row.problems)


def relative(file: Path, folder: Path) -> str:
    """The way from a report's folder to a file, with slashes."""
    return Path(os.path.relpath(file, folder)).as_posix()


def record_line(row: RowReport) -> str:
    """The line of ``resnest_backbones.model_zoo.MEASURED`` that records a row; "" where it is not to be recorded."""
    result = row.result
    if result is None or result.smoke or result.state != "finished" or not result.is_recipe:
        return ""
    figures = {item.metric: round(item.measured, 2) for item in row.comparisons if item.measured is not None}
    if not figures:
        return ""
    name, machine, date, command = map(_quoted, (result.row, result.machine, result.ended[:10], result.command))
    return f"{name}: Measurement({name}, {json.dumps(figures)}, {machine}, {date}, {command}),"


def _quoted(text: str) -> str:
    """A text as Python source, in double quotes."""
    return json.dumps(text)
