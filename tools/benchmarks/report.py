"""What a benchmark writes: Markdown, JSON and a bar chart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import LIMIT, Result
from resnest_backbones.checkpoint import write_atomically


def table(results: Sequence[Result]) -> str:
    """Milliseconds, how many times the first contender's they are, and memory where it was seen, as Markdown."""
    lines = []
    for result in results:
        first = next(iter(result.milliseconds.values()))
        memory = {"kept for backward (MiB)": result.kept, "peak (MiB)": result.peak}
        memory = {title: values for title, values in memory.items() if values}
        rates = f"{result.gflops_per_second:.0f} GFLOP/s, copies at {result.gigabytes_per_second:.1f} GB/s"
        lines += [f"{result.case} (one large convolution: {rates})", ""]
        lines.append("| " + " | ".join(["network", "ms", "times the first", *memory]) + " |")
        lines.append("| --- | ---: | ---: |" + " ---: |" * len(memory))
        for name, value in result.milliseconds.items():
            cells = [f"{values[name]:.0f}" if name in values else "" for values in memory.values()]
            lines.append("| " + " | ".join([name, f"{value:.1f}", f"{value / first:.2f}", *cells]) + " |")
        lines.append("")
        if result.profile:
            lines += [*_profile_rows(result.profile), ""]
    return "\n".join(lines)


def _profile_rows(profile: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    kinds = list(next(iter(profile.values())))
    yield "| " + " | ".join(["ms of one run under the profiler", *kinds, "in all"]) + " |"
    yield "| --- |" + " ---: |" * (len(kinds) + 1)
    for name, values in profile.items():
        yield (
            "| " + " | ".join([name, *(f"{values[kind]:.0f}" for kind in kinds), f"{sum(values.values()):.0f}"]) + " |"
        )


def draw(results: Sequence[Result], file: Path) -> None:
    """A bar chart, one panel for each case."""
    from matplotlib.figure import Figure

    rows = [len(result.milliseconds) for result in results]
    figure = Figure(figsize=(8, 0.6 + sum(0.7 + 0.24 * number for number in rows)), layout="constrained")
    panels = figure.subplots(len(results), squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
    for axes, result in zip(panels, results, strict=True):
        names = list(result.milliseconds)
        colours = [
            "tab:gray" if name == LIMIT else "tab:blue" if name.startswith("ours") else "tab:orange" for name in names
        ]
        bars = axes.barh(names, [result.milliseconds[name] for name in names], color=colours)
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.margins(x=0.1)
        axes.invert_yaxis()
        axes.set_title(str(result.case), fontsize=10)
        axes.set_xlabel("milliseconds per batch, median")
        axes.spines[["top", "right"]].set_visible(False)
    write_atomically(file, lambda stream: figure.savefig(stream, format="png", dpi=120))


def write_report(folder: Path, results: Sequence[Result], about: Mapping[str, Any]) -> None:
    """Write ``benchmark.md``, ``benchmark.json`` and ``benchmark.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**about, "results": [asdict(result) for result in results]}, indent=1) + "\n"
    facts = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    head = f"{about['machine']}, {about['threads']} threads, {about['date']}, {about['rounds']} rounds; {facts}.\n\n"
    if "command" in about:
        head += f"    {about['command']}\n\n"
    text = head + table(results)
    write_atomically(folder / "benchmark.json", lambda stream: stream.write(content.encode()))
    write_atomically(folder / "benchmark.md", lambda stream: stream.write(text.encode()))
    draw(results, folder / "benchmark.png")
