"""The report as one HTML page: no script, nothing from elsewhere, readable in light and dark, narrow and printed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from reproduction import wording
from reproduction.chart import CURVE_CLASSES, Line, draw
from reproduction.compare import BROKEN, NOT_RUN, VERDICTS, Comparison, Report, RowReport, Totals
from reproduction.curves import LOSS, Curve
from reproduction.style import STYLE

# Not by colour alone: each verdict has its sign.
_SIGNS = dict(zip(VERDICTS, ("✓", "▼", "▲"), strict=True))


def render_page(report: Report, folder: Path) -> str:
    """The content of ``report.html``, which is to stand in ``folder``."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        "<title>Reproduction report of the ResNeSt recipes</title>",
        f"<style>\n{STYLE}</style>",
        "</head>",
        "<body>",
        "<header>",
        "<h1>Reproduction report</h1>",
        *_head(report),
        "</header>",
        "<main>",
        *_tables(report.rows),
        *_cards(report.rows, folder),
        *_spreads(),
        *_records(report.rows),
        "</main>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _head(report: Report) -> list[str]:
    totals = report.totals
    parts = [f'<p class="headline">{escape(wording.headline(totals))}</p>', *_tiles(totals)]
    if totals.smoke:
        parts.append(f'<p class="warning">{totals.smoke} × {escape(wording.SMOKE_WARNING)}</p>')
    parts.append(f"<p>{escape(' '.join(wording.summary(totals)))}</p>")
    parts += [f'<p class="problem">{escape(problem)}</p>' for problem in report.problems]
    return parts


def _tiles(totals: Totals) -> list[str]:
    tiles = [
        ("", f"{totals.run} of {totals.rows}", "run"),
        (VERDICTS[0], str(totals.within), "within the spread"),
        (VERDICTS[1], str(totals.below), "below"),
        (VERDICTS[2], str(totals.above), "above"),
        ("", str(totals.failed), "failed"),
    ]
    if totals.smoke:
        tiles.append(("", str(totals.smoke), f"smoke runs, {totals.smoke_failed} failed"))
    items = [
        f'<li class="{kind}"><b>{_SIGNS.get(kind, "")} {number}</b> {escape(text)}</li>' for kind, number, text in tiles
    ]
    return ['<ul class="tiles">', *items, "</ul>"]


def _tables(rows: Sequence[RowReport]) -> list[str]:
    parts = []
    for dataset, title in wording.DATASETS.items():
        chosen = [row for row in rows if row.recipe.dataset == dataset]
        if chosen:
            parts += [f"<h2>{escape(title)}</h2>", '<table class="rows">', _TABLE_HEAD]
            parts += [line for row in chosen for line in _table_rows(row)]
            parts.append("</table>")
    return parts


_TABLE_HEAD = (
    '<thead><tr><th scope="col">Row</th><th scope="col">State</th><th scope="col">Metric</th>'
    '<th scope="col" class="number">Measured</th><th scope="col" class="number">Published</th>'
    '<th scope="col" class="number">Difference</th><th scope="col" class="number">Spread</th>'
    '<th scope="col">Verdict</th></tr></thead>'
)


def _table_rows(row: RowReport) -> list[str]:
    """A row of the tables: a line per metric, the name once before them."""
    name = f"<code>{escape(row.recipe.name)}</code>"
    if wording.has_section(row):
        name = f'<a href="#{escape(row.recipe.name)}">{name}</a>'
    span = f' rowspan="{len(row.comparisons)}"'
    kind = "wrong" if row.state in ("failed", BROKEN) else "smoke" if row.is_smoke else ""
    kind = "quiet" if row.state == NOT_RUN else kind
    first = (
        f'<th scope="rowgroup"{span}>{name}</th>'
        f'<td{span} data-label="State"><span class="{kind}">{escape(wording.state(row))}</span></td>'
    )
    lines = [
        f"<tr>{'' if index else first}{_cells(row, comparison)}</tr>"
        for index, comparison in enumerate(row.comparisons)
    ]
    return ["<tbody>", *lines, "</tbody>"]


def _cells(row: RowReport, comparison: Comparison) -> str:
    numbers = {
        "Measured": wording.figure(comparison.measured),
        "Published": wording.figure(comparison.published),
        "Difference": wording.difference(None if row.is_smoke else comparison.difference),
        "Spread": wording.spread(comparison),
    }
    # A narrow screen leaves out what says nothing.
    cells = [
        f'<td class="number{" none" if text == wording.NOTHING else ""}" data-label="{label}">{escape(text)}</td>'
        for label, text in numbers.items()
    ]
    kind = ' class="none"' if row.state == NOT_RUN else ""
    return (
        f'<td data-label="Metric">{escape(wording.metric(comparison.metric))}</td>{"".join(cells)}'
        f'<td{kind} data-label="Verdict">{_verdict(row, comparison)}</td>'
    )


def _verdict(row: RowReport, comparison: Comparison) -> str:
    if not comparison.verdict:
        return f'<span class="quiet">{escape(wording.verdict(row, comparison))}</span>'
    return f'<span class="{comparison.verdict}">{_SIGNS[comparison.verdict]} {comparison.verdict}</span>'


def _cards(rows: Sequence[RowReport], folder: Path) -> list[str]:
    cards = [_card(row, folder) for row in rows if wording.has_section(row)]
    return ["<h2>The runs</h2>", *cards] if cards else []


def _card(row: RowReport, folder: Path) -> str:
    name = escape(row.recipe.name)
    parts = [f'<section class="card" id="{name}">', f"<h3><code>{name}</code>: {escape(wording.state(row))}</h3>"]
    if row.is_smoke:
        parts.append(f'<p class="warning">{escape(wording.SMOKE_WARNING)}</p>')
    if row.result is not None and row.result.error:
        parts.append(f'<p class="error">{escape(row.result.error)}</p>')
    parts += [f'<p class="problem">{escape(problem)}</p>' for problem in row.problems]
    parts += [
        '<dl class="facts">',
        *(f"<dt>{escape(key)}</dt><dd>{_value(key, value)}</dd>" for key, value in wording.facts(row)),
    ]
    parts += [f"<dt>{escape(how)}</dt><dd><code>{escape(command)}</code></dd>" for how, command in wording.steps(row)]
    if row.log is not None:
        address = escape(quote(wording.relative(row.log, folder)))
        parts.append(f'<dt>log</dt><dd><a href="{address}">{escape(row.log.name)}</a></dd>')
    parts += ["</dl>", _charts(row), "</section>"]
    return "\n".join(parts)


def _value(key: str, value: str) -> str:
    return f"<code>{escape(value)}</code>" if key == "command" else escape(value)


def _charts(row: RowReport) -> str:
    if row.result is None:
        return ""
    drawable = [curve for curve in row.curves.curves if curve.drawable()]
    groups = [
        ("Loss", [curve for curve in drawable if curve.name == LOSS]),
        ("Figures on the validation split", [curve for curve in drawable if curve.name != LOSS]),
    ]
    charts = [_chart(row, title, curves) for title, curves in groups if curves]
    if not charts:
        return '<p class="quiet">The training left no curves.</p>'
    left_out = sum(len(curve.values) - len(curve.drawable()) for curve in row.curves.curves)
    note = f'<p class="problem">{left_out} values are NaN or endless and not drawn.</p>' if left_out else ""
    return "\n".join(['<div class="charts">', *charts, "</div>", note])


def _chart(row: RowReport, title: str, curves: Sequence[Curve]) -> str:
    published = {} if row.is_smoke else row.recipe.metrics
    lines = [Line(_label(curve), curve.drawable(), published.get(curve.name)) for curve in curves]
    described = "; ".join(_described(line) for line in lines)
    identifier = f"{row.recipe.name}-{curves[0].name}"
    picture = draw(identifier, f"{title} of {row.recipe.name}", described, "iteration", lines)
    legend = [
        f"<li>{_swatch(kind)}{escape(_described(line))}</li>"
        + (
            f"<li>{_swatch(f'{kind} published')}published {escape(line.label)}: {line.level:g}</li>"
            if line.level
            else ""
        )
        for kind, line in zip(CURVE_CLASSES, lines, strict=False)
    ]
    return "\n".join(
        [
            "<figure>",
            f"<figcaption>{escape(title)}</figcaption>",
            picture,
            '<ul class="legend">',
            *legend,
            "</ul></figure>",
        ]
    )


def _swatch(kind: str) -> str:
    return f'<svg viewBox="0 0 36 10" aria-hidden="true"><polyline class="{kind}" points="2,5 34,5"/></svg>'


def _label(curve: Curve) -> str:
    return "loss" if curve.name == LOSS else wording.metric(curve.name)


def _described(line: Line) -> str:
    (first, start), (last, end) = line.points[0], line.points[-1]
    if first == last:
        return f"{line.label} {end:.4g} at iteration {last}"
    return f"{line.label} from {start:.4g} at iteration {first} to {end:.4g} at iteration {last}"


def _spreads() -> list[str]:
    parts = [
        "<h2>The usual run-to-run spread</h2>",
        f"<p>{escape(wording.SPREAD_INTRODUCTION)}</p>",
        '<table><thead><tr><th scope="col">Data set</th><th scope="col">Metric</th>'
        '<th scope="col">Points</th><th scope="col">Taken from</th></tr></thead>',
    ]
    for datasets, metrics, points, source in wording.spreads():
        cells = {"Data set": datasets, "Metric": metrics, "Points": points, "Taken from": source}
        line = "".join(f'<td data-label="{label}">{escape(text)}</td>' for label, text in cells.items())
        parts.append(f"<tbody><tr>{line}</tr></tbody>")
    return [*parts, "</table>"]


def _records(rows: Sequence[RowReport]) -> list[str]:
    lines = [line for row in rows if (line := wording.record_line(row))]
    if not lines:
        return []
    return [
        "<h2>To record these measurements</h2>",
        "<p>Put into <code>MEASURED</code> of <code>resnest_backbones/model_zoo.py</code>:</p>",
        f"<pre>{escape(chr(10).join(lines))}</pre>",
    ]
