"""A pytest plugin that makes a table of injected faults: each test marked ``fault`` adds to a row.

python -m pytest -p tests.faults.fault_table -m fault                   # all of them: half an hour
python -m pytest -p tests.faults.fault_table -m fault --write-faults    # write the table to docs/faults.md, too
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
_TABLE = re.compile(r"(<!-- table: faults -->\n).*?(<!-- end of table -->)", re.DOTALL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-faults", action="store_true", help="write the table of faults to docs/faults.md")


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
    """The rows, by what was injected and what should happen."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self._start = time.monotonic()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        # A test's report does not hold its markers, but these.
        item.user_properties += [("fault", marker.args) for marker in item.iter_markers("fault")]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        said = dict(report.user_properties)
        for fault in [tuple(value) for name, value in report.user_properties if name == "fault"]:
            row = self.rows.setdefault(fault, Row())
            row.outcomes[report.outcome] += 1
            if report.outcome != "skipped":
                row.times += int(said.get("times", 1))
                row.details += [str(said["detail"])] if "detail" in said else []

    def table(self) -> str:
        from markdown_table import markdown_table

        rows = [(injected, str(row.times), row.happened(expected)) for (injected, expected), row in self.rows.items()]
        return markdown_table(("injected", "times", "what happened"), rows, "lrl")

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
        if not self.rows:
            return  # nothing was run, as with --collect-only
        from machine import describe_machine

        about = describe_machine()
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        facts = f"{about['date']}, {about['machine']}, threads: {about['threads']}, {versions}"
        text = f"{self.table()}\n{facts}: {time.monotonic() - self._start:.0f} s.\n"
        terminalreporter.write_line(f"\n{text}")
        if config.getoption("write_faults") and exitstatus == 0:
            DOCUMENT.write_text(_TABLE.sub(lambda found: found[1] + text + found[2], DOCUMENT.read_text()))
