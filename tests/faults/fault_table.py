"""A pytest plugin that makes tables of injected faults: each test marked ``fault`` adds to a row.

Tests in ``tests/data`` have a table of their own. What a run does not touch stays in the page.

python -m pytest -p tests.faults.fault_table -m fault                   # all of them: half an hour
python -m pytest -p tests.faults.fault_table -m fault --write-faults    # write the tables to docs/faults.md, too
python -m pytest -p tests.faults.fault_table -m fault --write-faults tests/data    # only that of data: two minutes
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "faults.md"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-faults", action="store_true", help="write the tables of faults to docs/faults.md")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(FaultTable(), "fault table")


@dataclass
class Row:
    """A kind of fault: how often it was injected, how its tests ended, and details that they report."""

    times: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)

    def happened(self, expected: str) -> str:
        words = f"UNEXPECTED ({expected})" if self.outcomes["failed"] else expected
        if self.outcomes["skipped"]:
            words += f" ({self.outcomes['skipped']} not possible here)" if self.times else " (not possible here)"
        return ": ".join([words, "; ".join(self.details)]) if self.details else words


class FaultTable:
    """The rows of each table, by what was injected and what should happen."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[tuple[str, str], Row]] = {}
        self._start = time.monotonic()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        # A test's report does not hold its markers, but these.
        table = "data faults" if item.path.parent.name == "data" else "faults"
        item.user_properties += [("fault", (table, *marker.args)) for marker in item.iter_markers("fault")]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        said = dict(report.user_properties)
        for table, *fault in [value for name, value in report.user_properties if name == "fault"]:
            row = self.tables.setdefault(table, {}).setdefault(tuple(fault), Row())
            row.outcomes[report.outcome] += 1
            if report.outcome != "skipped":
                row.times += int(said.get("times", 1))
                row.details += [str(said["detail"])] if "detail" in said else []

    def table(self, name: str) -> str:
        from markdown_table import markdown_table

        rows = self.tables[name].items()
        cells = [(injected, str(row.times), row.happened(expected)) for (injected, expected), row in rows]
        return markdown_table(("injected", "times", "what happened"), cells, "lrl")

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
        if not self.tables:
            return  # nothing was run, as with --collect-only
        from machine import describe_machine

        about = describe_machine()
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        facts = f"{about['date']}, {about['machine']}, threads: {about['threads']}, {versions}"
        for name in self.tables:
            text = f"{self.table(name)}\n{facts}: {time.monotonic() - self._start:.0f} s.\n"
            terminalreporter.write_line(f"\n{text}")
            if config.getoption("write_faults") and exitstatus == 0:
                place = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)", re.DOTALL)
                page = DOCUMENT.read_text()
                DOCUMENT.write_text(place.sub(lambda found, text=text: found[1] + text + found[2], page))
