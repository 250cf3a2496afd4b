"""Trainings killed at random moments: they go on, leave whole checkpoints only, and end in the very same weights."""

from pathlib import Path

import pytest

pytest.importorskip("sklearn")  # of the demonstration's dataset

from tests.faults.kill_trainings import Outcome, kill_training

FRAMEWORKS = {"train_net": "detectron2", "train_seg": "mmseg"}
GOES_ON = "resumes each time, ends bit for bit like an uninterrupted run"


def kill(tool: str, folder: Path, times: int, iterations: int) -> Outcome:
    pytest.importorskip(FRAMEWORKS[tool])
    outcome = kill_training(tool, folder, kills=times, iterations=iterations)
    assert outcome.kills.total() == times and outcome.differing == []
    assert outcome.tensors > 300 and outcome.checkpoints > 0
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("tool", FRAMEWORKS)
def test_killed_in_each_phase_it_goes_on_to_the_very_same_end(tool, tmp_path):
    outcome = kill(tool, tmp_path, 3, 6)
    assert outcome.kills["checkpoint"] >= 1 and outcome.unfinished >= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "tool", [pytest.param(tool, marks=pytest.mark.fault(f"SIGKILL of {tool}.py", GOES_ON)) for tool in FRAMEWORKS]
)
def test_killed_twenty_times_it_goes_on_to_the_very_same_end(tool, tmp_path, record_property):
    outcome = kill(tool, tmp_path, 20, 24)
    assert {"iteration", "checkpoint", "evaluation"} <= outcome.kills.keys()
    words = {"iteration": "in iterations", "checkpoint": "in the writing of a checkpoint", "start": "while starting"}
    killed = [f"{n} {words.get(phase, 'in evaluations')}" for phase, n in sorted(outcome.kills.items())]
    whole = f"{', '.join(killed)}; {outcome.checkpoints} checkpoints read after kills, all whole"
    compared = f"{outcome.tensors} tensors and numbers compared in {outcome.runs} trainings, 0 differ"
    record_property("times", 20)
    record_property("detail", f"{whole}; {compared}")
