"""The report as Markdown: tables, and links to logs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from documents.markdown import row as table_row
from reproduction import wording
from reproduction.compare import Report, RowReport

_BACKTICKS = re.compile("`+")


def render_markdown(report: Report, folder: Path) -> str:
    """The content of ``report.md``, which is to stand in ``folder``."""
    totals = report.totals
    parts = ["# Reproduction report", f"**{wording.headline(totals)}**", " ".join(wording.summary(totals))]
    if totals.smoke:
        parts.append(f"> **{wording.SMOKE_WARNING}**")
    if report.problems:
        parts += ["## Problems", _bullets(report.problems)]
    for dataset, title in wording.DATASETS.items():
        rows = [row for row in report.rows if row.recipe.dataset == dataset]
        if rows:
            parts += [f"## {title}", _figures(rows)]
    parts += ["## The runs", *(_section(row, folder) for row in report.rows if wording.has_section(row))]
    parts += ["## The usual run-to-run spread", wording.SPREAD_INTRODUCTION, _spreads()]
    lines = [line for row in report.rows if (line := wording.record_line(row))]
    if lines:
        parts += [
            "## To record these measurements",
            "Put into `MEASURED` of `resnest_backbones/model_zoo.py`:",
            _fenced("\n".join(lines), "python"),
        ]
    return "\n\n".join(parts) + "\n"


def _figures(rows: Sequence[RowReport]) -> str:
    head = ("row", "state", "metric", "measured", "published", "difference", "usual spread", "verdict")
    lines = [table_row(*head), table_row(*["---"] * 3, *["---:"] * 4, "---")]
    for row in rows:
        for comparison in row.comparisons:
            lines.append(
                table_row(
                    f"`{row.recipe.name}`",
                    wording.state(row),
                    wording.metric(comparison.metric),
                    wording.figure(comparison.measured),
                    wording.figure(comparison.published),
                    wording.difference(None if row.is_smoke else comparison.difference),
                    wording.spread(comparison),
                    wording.verdict(row, comparison),
                )
            )
    return "\n".join(lines)


def _section(row: RowReport, folder: Path) -> str:
    parts = [f"### {row.recipe.name}: {wording.state(row)}"]
    if row.is_smoke:
        parts.append(f"**{wording.SMOKE_WARNING}**")
    if row.result is not None and row.result.error:
        parts.append(f"Error: {_code(row.result.error)}")
    if row.problems:
        parts.append(_bullets(row.problems))
    facts = [f"{name}: {_code(value)}" for name, value in wording.facts(row)]
    facts += [f"step {how}: {_code(command)}" for how, command in wording.steps(row)]
    if row.log is not None:
        facts.append(f"log: [{row.log.name}]({quote(wording.relative(row.log, folder))})")
    return "\n\n".join([*parts, "\n".join(f"- {fact}" for fact in facts)])


def _spreads() -> str:
    head = ("data set", "metric", "points", "taken from")
    return "\n".join(
        [table_row(*head), table_row("---", "---", "---:", "---"), *(table_row(*cells) for cells in wording.spreads())]
    )


def _bullets(texts: Sequence[str]) -> str:
    return "\n".join(f"- {_code(text)}" for text in texts)


def _code(text: str) -> str:
    """A text of a run as it is: in a longer row of backticks than any in it, so that none of it is Markdown.

    >>> print(_code("a <b>"), _code("`x`"))
    `a <b>` `` `x` ``
    """
    line = " ".join(text.split())
    longest = max((len(found) for found in _BACKTICKS.findall(line)), default=0)
    if not longest:
        return f"`{line}`" if line else wording.NOTHING
    ticks = "`" * (longest + 1)
    return f"{ticks} {line} {ticks}"


def _fenced(text: str, language: str) -> str:
    longest = max((len(found) for found in _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
