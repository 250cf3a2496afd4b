"""``make faults`` finds the tests it runs, and its table counts them."""

import subprocess
import sys

import pytest

from tests.faults import fault_table
from tests.helpers import ROOT, environment

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(3))
@pytest.mark.fault("a cut cable", "it ends")
def test_cable(number):
    assert number < 2
"""


def test_the_tests_of_faults_are_collected():
    command = [sys.executable, "-m", "pytest", *fault_table.PYTEST_OPTIONS, "--collect-only"]
    found = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    names = {line.partition("::")[0] for line in found.stdout.splitlines() if "::" in line}
    assert {"tests/test_weights.py", "tests/faults/test_kills.py"} <= names


def test_the_table_counts_what_passed_and_what_did_not(tmp_path):
    (tmp_path / "test_cable.py").write_text(TESTS)
    recorder = fault_table.FaultRecorder()
    options = [
        "-q",
        "-W",
        "ignore",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-o",
        "addopts=",
        f"--rootdir={tmp_path}",
        str(tmp_path),
    ]
    assert pytest.main(options, plugins=[recorder]) == 1
    assert recorder.table().splitlines()[2:] == ["| a cut cable | 3 | NOT AS IT SHOULD (it ends) |"]
