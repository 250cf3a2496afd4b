"""The table of injected faults: tests marked ``fault`` are run, and what became of each is a row."""

from __future__ import annotations

import platform
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import describe_machine

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "faults.md"

_TABLE = re.compile(r"(<!-- table: faults -->\n).*?(<!-- end of table -->)", re.DOTALL)


@dataclass
class Row:
    """A kind of fault.

    Attributes:
        injected: what was done.
        expected: what should happen.
        times: how often it was injected.
        outcomes: how many tests passed, failed, or were skipped.
        details: what tests say of it beside that.
    """

    injected: str
    expected: str
    times: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)

    def happened(self) -> str:
        """What happened, in words."""
        words = self.expected if not self.outcomes["failed"] else f"NOT AS IT SHOULD ({self.expected})"
        if self.outcomes["skipped"]:
            words += f" ({self.outcomes['skipped']} not possible here)" if self.times else " (not possible here)"
        return ": ".join([words, "; ".join(self.details)]) if self.details else words


class FaultRecorder:
    """A plugin of pytest that makes the rows."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self._of: dict[str, list[Row]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Called with the tests that were found."""
        for item in items:
            for marker in item.iter_markers("fault"):
                row = self.rows.setdefault(marker.args, Row(*marker.args))
                self._of.setdefault(item.nodeid, []).append(row)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called with what became of a test's set-up, the test, and its end."""
        if report.when != "call" and report.outcome == "passed":
            return
        said = dict(report.user_properties)
        for row in self._of.get(report.nodeid, []):
            row.outcomes[report.outcome] += 1
            if report.outcome != "skipped":
                row.times += int(said.get("times", 1))
                row.details += [str(said["detail"])] if "detail" in said else []

    def table(self) -> str:
        """The rows that were run, as Markdown."""
        lines = ["| injected | times | what happened |", "| --- | ---: | --- |"]
        for row in self.rows.values():
            if row.outcomes:
                lines.append(f"| {row.injected} | {row.times} | {row.happened()} |")
        return "\n".join(lines)


PYTEST_OPTIONS = ["-m", "fault", "-q", "--no-header", str(ROOT / "tests")]


def inject_all(*, write: bool) -> int:
    """Run all tests of faults, the slow ones as well, and print the table.

    Args:
        write: put it into ``docs/faults.md``, with the day and the versions.

    Returns:
        The exit status of pytest.
    """
    import pytest

    recorder, start = FaultRecorder(), time.monotonic()
    status = int(pytest.main(PYTEST_OPTIONS, plugins=[recorder]))
    about = describe_machine()
    where = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    seconds = time.monotonic() - start
    said = f"{about['date']}, {platform.system()}, {about['machine']}, {where}, one thread: {seconds:.0f} s."
    table = f"{recorder.table()}\n\n{said}\n"
    print(f"\n{table}", flush=True)
    if write and status == 0:
        DOCUMENT.write_text(_TABLE.sub(lambda found: found[1] + table + found[2], DOCUMENT.read_text()))
    return status
