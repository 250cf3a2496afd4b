"""The table of ``make faults`` counts what its tests did."""

import subprocess
import sys

import pytest

from tests.documents.pages import table_rows
from tests.faults import fault_table
from tests.helpers import ROOT, environment

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(3))
@pytest.mark.fault("a cut cable", "it ends")
def test_cable(number):
    assert number < LIMIT

@pytest.mark.fault("a flood", "it stays dry")
def test_flood(record_property):
    record_property("times", 7)
    record_property("detail", "it rained")

@pytest.mark.fault("an earthquake", "it stands")
def test_earthquake():
    pytest.skip("the earth is still")
"""


@pytest.mark.slow
def test_the_tests_of_faults_are_collected():
    command = [sys.executable, "-m", "pytest", "-p", "tests.faults.fault_table", "-m", "fault", "-q", "--collect-only"]
    found = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    names = {line.partition("::")[0] for line in found.stdout.splitlines() if "::" in line}
    assert {"tests/weights/test_download.py", "tests/faults/test_kills.py"} <= names


@pytest.mark.parametrize(
    ("limit", "status", "cable", "table"),
    [(3, 0, "it ends", "faults"), (2, 1, "UNEXPECTED (it ends)", "faults"), (3, 0, "it ends", "data faults")],
)
def test_the_table_counts_what_passed_and_what_did_not(tmp_path, monkeypatch, capsys, limit, status, cable, table):
    tests = tmp_path / table.split()[0] / f"test_faults_below_{limit}.py"
    tests.parent.mkdir()
    tests.write_text(TESTS.replace("LIMIT", str(limit)))
    others = "<!-- table: other faults -->\nkept\n<!-- end of table -->\n"
    page = f"{others}before\n<!-- table: {table} -->\nold\n<!-- end of table -->\nafter\n{others}"
    (tmp_path / "faults.md").write_text(page)
    monkeypatch.setattr(fault_table, "DOCUMENT", tmp_path / "faults.md")
    options = ["-W", "ignore", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "--write-faults"]
    options += ["--import-mode=importlib", f"--rootdir={tmp_path}", str(tmp_path)]
    assert pytest.main(options, plugins=[fault_table]) == status
    rows = [
        ["a cut cable", "3", cable],
        ["a flood", "7", "it stays dry: it rained"],
        ["an earthquake", "0", "it stands (not possible here)"],
    ]
    assert table_rows(table_in(capsys.readouterr().out)) == rows
    written = (tmp_path / "faults.md").read_text()
    assert written == page if status else table_rows(table_in(written)) == rows, "a failed run is not written"
    assert written.startswith(others) and written.endswith(f"after\n{others}")


def table_in(text: str) -> str:
    return text[text.index("| injected") :].partition("\n\n")[0]
