"""What a benchmark writes: Markdown, JSON and a bar chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import LIMIT, Result
from markdown_table import markdown_table
from resnest_backbones.checkpoint import write_atomically


def table(result: Result) -> str:
    """Return a heading and tables in Markdown: times, memory and profile where they were measured."""
    first = next(iter(result.milliseconds.values()))
    titles = {"kept for backward (MiB)": result.kept, "peak (MiB)": result.peak}
    memory = {title: values for title, values in titles.items() if values}
    rows = []
    for name, value in result.milliseconds.items():
        cells = (f"{values[name]:.0f}" if name in values else "" for values in memory.values())
        per_second = f"{1e3 * result.case.batch / value:.1f}"
        rows.append((name, f"{value:.1f}", per_second, f"{value / first:.2f}", *cells))
    rates = (result.gflops_per_second, result.matmul_gflops_per_second, result.gigabytes_per_second)
    about = "(one large convolution: {:.0f} GFLOP/s, a large matrix product: {:.0f}, copies at {:.1f} GB/s)".format(
        *rates
    )
    parts = [f"{result.case} {about}\n"]
    parts.append(markdown_table(("network", "ms", "images/s", "relative to the first", *memory), rows, "lr"))
    parts += [f"{name}, one run under the profiler:\n\n```text\n{text}```\n" for name, text in result.profile.items()]
    return "\n".join(parts)


def draw(results: Sequence[Result], file: Path) -> None:
    """Draw a bar chart with one panel for each case."""
    from matplotlib.figure import Figure

    rows = [len(result.milliseconds) for result in results]
    figure = Figure(figsize=(8, 0.6 + sum(0.7 + 0.24 * number for number in rows)), layout="constrained")
    panels = figure.subplots(len(results), squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
    for axes, result in zip(panels, results, strict=True):
        names = list(result.milliseconds)
        colors = ["tab:gray" if n == LIMIT else "tab:blue" if n.startswith("ours") else "tab:orange" for n in names]
        bars = axes.barh(names, list(result.milliseconds.values()), color=colors)
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.margins(x=0.1)
        axes.invert_yaxis()
        axes.set_title(str(result.case), fontsize=10)
        axes.set_xlabel("milliseconds per batch, median")
        axes.spines[["top", "right"]].set_visible(False)
    write_atomically(file, lambda stream: figure.savefig(stream, format="png", dpi=120))


def write_report(folder: Path, results: Sequence[Result], about: Mapping[str, Any]) -> None:
    """Write ``benchmark.md``, ``.json`` and ``.png``; ``about`` has the machine, rounds and command."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**about, "results": [asdict(result) for result in results]}, indent=1) + "\n"
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    facts = f"{about['machine']}, {about['threads']} threads, {about['date']}, {about['rounds']} rounds; {versions}."
    text = "\n".join([f"{facts}\n\n    {about['command']}\n", *map(table, results)])
    write_atomically(folder / "benchmark.json", lambda stream: stream.write(content.encode()))
    write_atomically(folder / "benchmark.md", lambda stream: stream.write(text.encode()))
    draw(results, folder / "benchmark.png")
