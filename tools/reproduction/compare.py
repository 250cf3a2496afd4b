"""Comparing what rows left behind with what was published."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from reproduction.curves import Curves, as_float, read_curves
from reproduction.results import LOG_FILE, RESULT_FILE, ResultError, RowResult, read_result
from reproduction.spread import SPREADS, Spread
from resnest_backbones.model_zoo import METRICS, RECIPES, Recipe

WITHIN, BELOW, ABOVE = "within", "below", "above"
VERDICTS = (WITHIN, BELOW, ABOVE)
# The states of a row in a report: those of its result, and these.
NOT_RUN, BROKEN = "not run", "broken"


@dataclass(frozen=True)
class Comparison:
    """A figure of a row, beside the published one.

    Attributes:
        metric: name in ``resnest_backbones.model_zoo.METRICS``.
        measured: in percent; None where the run gave none.
        published: in percent; None where none was.
        spread: usual difference between two runs; None where it is not known for the metric.
        verdict: one of ``VERDICTS``; "" where there is none.
        reason: why there is no verdict; "" where there is one.
    """

    metric: str
    measured: float | None
    published: float | None
    spread: Spread | None
    verdict: str = ""
    reason: str = ""

    @property
    def difference(self) -> float | None:
        """Measured less published, in points of percent, with the two digits that figures are published with."""
        if self.measured is None or self.published is None:
            return None
        return round(self.measured - self.published, 2) + 0.0  # never -0.0


@dataclass(frozen=True)
class RowReport:
    """How a row stands.

    Attributes:
        recipe: the row.
        folder: ``OUTPUT_DIR/ROW``.
        state: a state of ``RowResult``, or ``NOT_RUN``, or ``BROKEN`` where its files cannot be understood.
        result: what its run left behind; None where there is nothing to be understood.
        comparisons: one per metric that was published or measured, in the order of ``METRICS``.
        curves: of its training.
        problems: what is wrong with its files, a line each.
    """

    recipe: Recipe
    folder: Path
    state: str
    result: RowResult | None = None
    comparisons: tuple[Comparison, ...] = ()
    curves: Curves = field(default_factory=Curves)
    problems: tuple[str, ...] = ()

    @property
    def is_smoke(self) -> bool:
        """Whether its figures mean nothing."""
        return self.result is not None and self.result.smoke

    @property
    def verdict(self) -> str:
        """Of all its metrics: below where one is, else above where one is, else within; "" where none has one."""
        found = {comparison.verdict for comparison in self.comparisons}
        return next((verdict for verdict in (BELOW, ABOVE, WITHIN) if verdict in found), "")

    @property
    def log(self) -> Path | None:
        """What its commands printed; None where there is no such file."""
        file = self.folder / LOG_FILE
        return file if file.is_file() else None


@dataclass(frozen=True)
class Totals:
    """How many rows stand how. Smoke runs are in ``rows`` and have numbers of their own; they are in no other."""

    rows: int
    finished: int
    running: int
    failed: int
    smoke: int
    smoke_failed: int
    broken: int
    not_run: int
    within: int
    below: int
    above: int

    @property
    def run(self) -> int:
        """Rows that were run on their real data set, to the end or not."""
        return self.finished + self.running + self.failed


@dataclass(frozen=True)
class Report:
    """What is to be reported.

    Attributes:
        output_dir: where the rows were run.
        rows: in the order of the records.
        problems: what is wrong in ``output_dir`` beside the rows, a line each.
    """

    output_dir: Path
    rows: tuple[RowReport, ...]
    problems: tuple[str, ...] = ()

    @property
    def totals(self) -> Totals:
        """How many rows stand how."""
        real = [row for row in self.rows if not row.is_smoke]
        states = [row.state for row in real]
        verdicts = [row.verdict for row in real]
        return Totals(
            rows=len(self.rows),
            finished=states.count("finished"),
            running=states.count("running"),
            failed=states.count("failed"),
            smoke=len(self.rows) - len(real),
            smoke_failed=sum(row.is_smoke and row.state == "failed" for row in self.rows),
            broken=states.count(BROKEN),
            not_run=states.count(NOT_RUN),
            within=verdicts.count(WITHIN),
            below=verdicts.count(BELOW),
            above=verdicts.count(ABOVE),
        )


def read_report(recipes: Iterable[Recipe], output_dir: Path) -> Report:
    """How rows stand, by what is in ``output_dir``."""
    unknown = sorted(file.parent for file in output_dir.glob(f"*/{RESULT_FILE}") if file.parent.name not in RECIPES)
    problems = tuple(f"{folder} was left by the run of a row that there is none of" for folder in unknown)
    return Report(output_dir, tuple(read_row(recipe, output_dir) for recipe in recipes), problems)


def read_row(recipe: Recipe, output_dir: Path) -> RowReport:
    """How a row stands, by what is in its folder. A file that cannot be understood is a problem of its row alone."""
    folder = output_dir / recipe.name
    try:
        result = read_result(folder)
        if result is None:
            return RowReport(recipe, folder, NOT_RUN, None, _published_only(recipe), problems=_leftovers(folder))
        _check(result, recipe, folder / RESULT_FILE)
    except (ResultError, OSError, RecursionError) as error:
        return RowReport(recipe, folder, BROKEN, None, _published_only(recipe), problems=(_one_line(error),))
    problems = []
    try:
        curves = read_curves(folder, recipe.framework)
    except OSError as error:
        curves = Curves()
        problems.append(_one_line(error))
    if curves.unreadable_lines:
        lines = "1 line" if curves.unreadable_lines == 1 else f"{curves.unreadable_lines} lines"
        problems.append(f"{lines} of the training's metric files cannot be read, as when a run is killed; left out")
    return RowReport(recipe, folder, result.state, result, compare(recipe, result), curves, tuple(problems))


def compare(recipe: Recipe, result: RowResult) -> tuple[Comparison, ...]:
    """Every figure that was published or measured; a verdict where the run was real, finished, and gave a number."""
    spreads = SPREADS[recipe.dataset]
    comparisons = []
    for metric in METRICS:
        if metric not in recipe.metrics and metric not in result.figures:
            continue
        figure = result.figures.get(metric)
        measured = None if figure is None or not math.isfinite(as_float(figure)) else float(figure)
        comparison = Comparison(metric, measured, recipe.metrics.get(metric), spreads.get(metric))
        comparisons.append(_judged(comparison, result))
    return tuple(comparisons)


def _judged(comparison: Comparison, result: RowResult) -> Comparison:
    """The comparison with its verdict, or with the reason why it has none."""
    difference, spread = comparison.difference, comparison.spread
    if result.smoke:
        return replace(comparison, reason="no verdict: smoke run")
    if comparison.published is None:
        return replace(comparison, reason="none published")
    if result.has_changed_settings:
        return replace(comparison, reason="no verdict: run with --set")
    if difference is None:
        return replace(comparison, reason="not a number" if comparison.metric in result.figures else "not measured")
    if result.state != "finished":
        return replace(comparison, reason=f"no verdict: {result.state}")
    if spread is None:
        return replace(comparison, reason="usual spread not known")
    if abs(difference) <= spread.points:
        return replace(comparison, verdict=WITHIN)
    return replace(comparison, verdict=BELOW if difference < 0 else ABOVE)


def _published_only(recipe: Recipe) -> tuple[Comparison, ...]:
    spreads = SPREADS[recipe.dataset]
    return tuple(
        Comparison(metric, None, recipe.metrics[metric], spreads.get(metric), reason="not measured")
        for metric in METRICS
        if metric in recipe.metrics
    )


def _leftovers(folder: Path) -> tuple[str, ...]:
    if folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
        return (f"{folder} holds files but no {RESULT_FILE}",)
    return ()


def _check(result: RowResult, recipe: Recipe, file: Path) -> None:
    """Refuse what no run of the row wrote: json has no types of its own."""
    texts = (result.command, result.machine, result.started, result.ended, result.error)
    if result.row != recipe.name:
        raise ResultError(f"{file} must be of the row whose folder it is in, got {result.row!r}")
    if not all(isinstance(text, str) for text in texts) or not isinstance(result.smoke, bool):
        raise ResultError(f"{file} must have texts where a run writes them, and smoke true or false")
    if not all(isinstance(step.seconds, (int, float)) for step in result.steps):
        raise ResultError(f"{file} must have a number of seconds in every step")
    if not isinstance(result.versions, Mapping):
        raise ResultError(f"{file} must map packages to versions, got {result.versions!r}")
    if not isinstance(result.figures, Mapping):
        raise ResultError(f"{file} must map metrics to figures, got {result.figures!r}")
    for metric, figure in result.figures.items():
        if metric not in METRICS:
            raise ResultError(f"{file} must have figures of {', '.join(METRICS)}, got {metric!r}")
        if figure is not None and (isinstance(figure, bool) or not isinstance(figure, (int, float))):
            raise ResultError(f"{file} must have a number or null as {metric}, got {figure!r}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
