"""Commands end with what started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reproduction.processes import start_program, stop
from tests.helpers import environment

STARTS_A_COMMAND = """
import os
from reproduction.processes import start_program
command = start_program(["sleep", "60"], dict(os.environ))
print(command.pid, flush=True)
command.wait()
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no signal for the death of a parent")
def test_a_command_does_not_outlive_a_run_that_is_killed():
    run = subprocess.Popen([sys.executable, "-c", STARTS_A_COMMAND], env=environment(), stdout=subprocess.PIPE)
    assert run.stdout is not None
    command = int(run.stdout.readline())
    try:
        assert is_running(command)
        run.kill()
        run.wait()
        limit = time.monotonic() + 10
        while is_running(command) and time.monotonic() < limit:
            time.sleep(0.05)
        assert not is_running(command)
    finally:
        if is_running(command):
            os.killpg(command, signal.SIGKILL)
        run.stdout.close()


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(120)
"""


@pytest.mark.slow
def test_a_process_that_does_not_end_is_not_left_behind_by_torchrun(tmp_path: Path):
    """It is in a group of its own, so torchrun alone can end it, and waits for it first."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", str(tmp_path / "stubborn.py")]
    running = start_program(words, environment())
    worker = int(next(line for line in running.lines() if line.strip().isdigit()))
    try:
        stop(running)
        assert not is_running(worker)
    finally:
        if is_running(worker):
            os.kill(worker, signal.SIGKILL)
