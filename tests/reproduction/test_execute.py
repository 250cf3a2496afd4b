"""One row, with commands of a line each instead of trainings: what is kept of them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reproduction.console import Console
from reproduction.execute import Job, RunError, run_row
from reproduction.results import read_result
from reproduction.run import run_jobs
from reproduction.steps import Step
from resnest_backbones.model_zoo import RECIPES

ROW = RECIPES["faster_rcnn_resnest50_fpn_1x"]
OTHER = "faster_rcnn_resnet50_fpn_1x"
FIGURES = '{"bbox/AP": 42.0}'


def make_job(folder: Path, program: str, *, is_main: bool = True) -> Job:
    """A row whose training is a program of Python's, which gets the row's folder."""
    tool = folder / "tool.py"
    tool.write_text(program)
    step = Step("train", tool, (str(folder),), folder / "train")
    (folder / "train").mkdir(exist_ok=True)
    return Job(ROW, folder, [step], "python run", "a machine", {}, dict(os.environ), is_main=is_main)


class Interrupting(Console):
    """The user presses Ctrl-C, half a second after the command has printed something."""

    def see(self, step: str, line: bytes) -> None:
        time.sleep(0.5)
        raise KeyboardInterrupt


def test_the_time_of_attempts_that_were_interrupted_counts(tmp_path):
    job = make_job(tmp_path, "import time; print('begun', flush=True); time.sleep(60)")
    with pytest.raises(KeyboardInterrupt):
        run_row(job, Interrupting())
    (first,) = read_result(tmp_path).steps
    assert (first.name, first.status) == ("train", -15) and 0.5 <= first.seconds < 30

    program = f"open('{tmp_path}/train/metrics.json', 'w').write('{FIGURES}')"
    result = run_row(make_job(tmp_path, program), Console())
    assert result.state == "finished" and result.figures == {"box_ap": 42.0}
    (both,) = result.steps
    assert both.status == 0 and both.seconds > first.seconds


def test_a_machine_that_only_takes_part_needs_no_figures(tmp_path):
    """The first machine may write them after the processes of the others have ended."""
    result = run_row(make_job(tmp_path, "", is_main=False), Console())
    assert (result.state, result.error, result.figures) == ("finished", "", {})
    assert read_result(tmp_path) is None
    result = run_row(make_job(tmp_path, ""), Console())
    assert result.state == "failed" and "must hold the figures of an evaluation" in result.error


def test_a_row_whose_figures_were_lost_is_evaluated_anew(tmp_path):
    job = make_job(tmp_path, "")
    assert run_row(job, Console()).state == "failed"
    again = run_row(make_job(tmp_path, f"open('{tmp_path}/train/metrics.json', 'w').write('{FIGURES}')"), Console())
    assert again.state == "finished" and again.figures == {"box_ap": 42.0}


def test_a_row_that_goes_on_elsewhere_names_all_its_machines(tmp_path):
    job = make_job(tmp_path, "raise SystemExit(1)")
    for machine, machines in (
        ("8 x A", "8 x A"),
        ("8 x A", "8 x A"),
        ("CPU", "8 x A, then CPU"),
        ("CPU", "8 x A, then CPU"),
        ("8 x A", "8 x A, then CPU, then 8 x A"),
    ):
        assert run_row(replace(job, machine=machine), Console()).machine == machines


def test_a_checkpoint_that_was_written_anew_is_not_given_the_figures_of_the_old_one(tmp_path):
    checkpoint = tmp_path / "model.pth"
    checkpoint.write_bytes(b"old")
    program = f"open('{tmp_path}/train/metrics.json', 'w').write('{FIGURES}')"
    job = replace(make_job(tmp_path, program), checkpoint=checkpoint)
    assert run_row(job, Console()) == run_row(job, Console())
    checkpoint.write_bytes(b"new")
    os.utime(checkpoint, (time.time() + 60,) * 2)
    with pytest.raises(RunError, match=r"holds an evaluation of .*model.pth that began before that file was written"):
        run_row(job, Console())


def test_a_failed_row_stops_no_other_and_is_named_at_the_end(tmp_path, capsys):
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
    bad = make_job(tmp_path / "bad", "print('begun', flush=True); {}[14]")
    good = make_job(tmp_path / "good", f"open('{tmp_path}/good/train/metrics.json', 'w').write('{FIGURES}')")
    assert run_jobs([bad, replace(good, recipe=RECIPES[OTHER])], Console()) == 1
    out = capsys.readouterr().out
    assert out.index(f"[1/2] {ROW.name}") < out.index("FAILED: KeyError: 14") < out.index(f"[2/2] {OTHER}")
    ending = out[out.index("1 of 2 rows finished") :]
    assert f"FAILED {ROW.name}: KeyError: 14" in ending and OTHER not in ending
    assert f"log: {tmp_path / 'bad' / 'log.txt'}, which ends with\n" in ending and "    KeyError: 14" in ending
    assert read_result(tmp_path / "bad").steps[0].status == 1
