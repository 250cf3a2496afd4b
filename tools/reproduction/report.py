"""``reproduce.py report``: compares what runs left behind with what was published.

It writes three files with the same content. ``report.md`` is for a terminal or a repository, ``report.html`` shows the
curves as well (``page.py``), and ``report.json`` is for programs::

    format      1; grows when a key changes its meaning or goes
    output_dir  where the rows were run
    totals      numbers of rows: rows, run, finished, running, failed, smoke, smoke_failed, broken, not_run, within,
                below, above. "run" are those that finished, run or failed on their real data; "finished" to "failed"
                and "within" to "above" are of them
    spread      a list of {dataset, metric, points, reason, source, assumed}
    problems    a list of texts: what is wrong in output_dir
    rows        a list, of every row asked for:
      name, framework, dataset, source    of its record
      state     "finished", "running", "failed", "not run", or "broken" where its files cannot be understood
      smoke     whether its figures mean nothing
      verdict   "within", "below", "above" or null
      metrics   a list of {metric, measured, published, difference, spread, verdict, reason}: numbers in percent, or
                null; verdict as above; reason: why there is none, or ""
      error, machine, command, started, ended    texts of the run; "" where there is none
      versions  package -> version
      steps     a list of {name, command, seconds, status}
      log       path from the report to the log, or null
      metric_files    paths from the report to what the framework wrote about the training
      problems  a list of texts: what is wrong with its files
      record    the line of resnest_backbones.model_zoo.MEASURED for a finished run of the recipe as it is; "" otherwise

It tells of no time but those of the runs: the same runs give the same report.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reproduction import wording
from reproduction.compare import Comparison, Report, RowReport, read_report
from reproduction.markdown import render_markdown
from reproduction.page import render_page
from reproduction.rows import RowError, select_rows
from reproduction.spread import SPREADS
from resnest_backbones.checkpoint import write_atomically

FORMAT = 1


class ReportError(ValueError):
    """There is nothing to report."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to report on (default: all)")
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("reproduced"),
        metavar="DIR",
        help="where the rows were run (%(default)s)",
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to write the report (OUTPUT_DIR/report)")


def main(args: argparse.Namespace) -> int:
    """Write the report and print its summary; the exit status."""
    try:
        recipes = select_rows(args.rows)
        report = read_report(recipes, args.output_dir)
        _require_content(report)
        files = write_report(report, args.to or args.output_dir / "report")
    except (RowError, ReportError, OSError) as error:
        print(f"reproduce report: error: {error}", file=sys.stderr)
        return 1
    print(wording.headline(report.totals))
    print(*wording.summary(report.totals), sep="\n")
    for problem in [*report.problems, *(f"{row.recipe.name}: {text}" for row in report.rows for text in row.problems)]:
        print(f"problem: {problem}")
    lines = [line for row in report.rows if (line := wording.record_line(row))]
    if lines:
        print("to record these measurements, put into MEASURED of resnest_backbones/model_zoo.py:")
        print(*(f"    {line}" for line in lines), sep="\n")
    print("written: " + ", ".join(str(file) for file in files))
    return 0


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``report.md``, ``report.json`` and ``report.html`` into a folder, each whole or not at all; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": render_markdown(report, folder),
        "report.json": json.dumps(as_json(report, folder), indent=1, allow_nan=False) + "\n",
        "report.html": render_page(report, folder),
    }
    for name, text in texts.items():
        # A lone half of a surrogate pair, which json admits in a row's texts, has no place in a file.
        content = text.encode("utf-8", errors="replace")
        write_atomically(folder / name, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
    return [folder / name for name in texts]


def as_json(report: Report, folder: Path) -> dict[str, Any]:
    """The content of ``report.json``, which is to stand in ``folder``; see the top of this file."""
    return {
        "format": FORMAT,
        "output_dir": report.output_dir.as_posix(),
        "totals": {**asdict(report.totals), "run": report.totals.run},
        "spread": [
            {"dataset": dataset, "metric": metric, **asdict(spread), "assumed": spread.is_assumed}
            for dataset, spreads in SPREADS.items()
            for metric, spread in spreads.items()
        ],
        "problems": list(report.problems),
        "rows": [_row_as_json(row, folder) for row in report.rows],
    }


def _row_as_json(row: RowReport, folder: Path) -> dict[str, Any]:
    result = row.result
    texts = ("error", "machine", "command", "started", "ended")
    return {
        "name": row.recipe.name,
        "framework": row.recipe.framework,
        "dataset": row.recipe.dataset,
        "source": row.recipe.source,
        "state": row.state,
        "smoke": row.is_smoke,
        "verdict": row.verdict or None,
        "metrics": [_comparison_as_json(comparison, row.is_smoke) for comparison in row.comparisons],
        **{name: getattr(result, name, "") for name in texts},
        "versions": dict(result.versions) if result else {},
        "steps": [_finite(asdict(step)) for step in result.steps] if result else [],
        "log": wording.relative(row.log, folder) if row.log else None,
        "metric_files": [wording.relative(file, folder) for file in row.curves.files],
        "problems": list(row.problems),
        "record": wording.record_line(row),
    }


def _comparison_as_json(comparison: Comparison, is_smoke: bool) -> dict[str, Any]:
    return {
        "metric": comparison.metric,
        "measured": comparison.measured,
        "published": comparison.published,
        "difference": None if is_smoke else comparison.difference,
        "spread": comparison.spread.points if comparison.spread else None,
        "verdict": comparison.verdict or None,
        "reason": comparison.reason,
    }


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in content.items()
    }


def _require_content(report: Report) -> None:
    if not report.output_dir.is_dir():
        raise ReportError(f"--output-dir must be a folder that rows were run in, got {report.output_dir}")
    if not report.problems and not any(wording.has_section(row) for row in report.rows):
        rows = "no row" if len(report.rows) > 1 else report.rows[0].recipe.name
        was = "was run" if len(report.rows) > 1 else "was not run"
        raise ReportError(f"{rows} {was} in {report.output_dir}; `run` and `smoke` write there, or give --output-dir")
