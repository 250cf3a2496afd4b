"""The detection part of the demonstration runs from end to end, resumes, and draws what it says."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys

import numpy as np
import pytest

pytest.importorskip("detectron2")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from detectron2.engine import SimpleTrainer

import make_demo
import train_net
from demonstration.detection import train_detector
from resnest_backbones.outputs import read_metrics
from tests.demonstration.helpers import TINY, check_pictures, file_times, unchanged

DETECTION = ["--only", "detection", *TINY]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a demonstration that was interrupted and repeated, and the iterations that were started."""
    root = tmp_path_factory.mktemp("demonstration") / "out"
    step, started = SimpleTrainer.run_step, []

    def run_step(self):
        started.append(self.iter)
        if len(started) == 2:
            raise KeyboardInterrupt
        step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimpleTrainer, "run_step", run_step)
        with pytest.raises(SystemExit, match="^130$"), contextlib.redirect_stderr(io.StringIO()) as said:
            make_demo.run([*DETECTION, "--output-dir", str(root)])
        assert "the same command resumes from the last checkpoint" in said.getvalue()
        assert not (root / "detection" / "results.json").exists()
        make_demo.run([*DETECTION, "--output-dir", str(root)])
    return root, started


def test_an_interrupted_demonstration_resumes_and_leaves_all_that_it_promises(finished):
    root, started = finished
    assert started == [0, 1, 1, 2]
    folder = root / "detection"
    assert (folder / "model_final.pth").is_file()
    results = json.loads((folder / "results.json").read_text())
    assert {"AP", "AP50", "AP75", "AP-zero", "AP-nine"} <= results.keys()
    assert all(value is None or 0 <= value <= 100 for value in results.values())
    assert "AP50" in (folder / "results.txt").read_text()
    iterations, losses = read_metrics(folder / "metrics.json")["total_loss"]
    assert iterations and np.isfinite(losses).all()
    check_pictures(folder)


@pytest.mark.slow
def test_a_second_call_reuses_everything_and_its_command_evaluates_to_the_same_metrics(finished, capsys, monkeypatch):
    root, _ = finished
    before = file_times(root)
    again = train_detector(root, iterations=3, num_train=8, num_val=4)
    assert "contains a finished run" in capsys.readouterr().out
    assert unchanged(before, file_times(root), drawn=("/predictions", "/visualized", "curves.png", "log.txt"))
    _, tool, *arguments = shlex.split(again.commands["evaluate the saved model"])
    assert tool == "tools/train_net.py"
    train_net.run([*arguments, "MODEL.DEVICE", "cpu"])
    trained, evaluated = (
        json.loads((folder / "inference" / "coco_instances_results.json").read_text())
        for folder in (again.folder, again.folder / "evaluation")
    )
    assert [box["score"] for box in evaluated] == pytest.approx([box["score"] for box in trained])


def test_wrong_arguments_and_a_folder_of_other_settings_are_refused(finished, capsys):
    root, _ = finished
    before = file_times(root)
    for options, message in (
        (["--iterations", "0"], "iterations must be a positive integer, got 0"),
        (["--num-val", "-1"], "num_val must be an integer from 1 to 100000, got -1"),
        (["--iterations", "4"], "iterations must be 3, as for the run in"),
        (["--num-train", "9"], "was generated with other arguments"),
    ):
        with pytest.raises(SystemExit) as error:
            make_demo.run([*DETECTION, "--output-dir", str(root), *options])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    assert file_times(root) == before


def test_a_missing_framework_leaves_the_other_part():
    both = ["detectron2", "mmseg"]
    assert make_demo.choose(None, both) == (["detection", "segmentation"], [])
    assert make_demo.choose("segmentation", both) == (["segmentation"], [])
    for kept, missing in (("detection", "segmentation"), ("segmentation", "detection")):
        framework = make_demo.FRAMEWORKS[missing]
        installed = [name for name in both if name != framework]
        chosen, (note,) = make_demo.choose(None, installed)
        assert chosen == [kept] and f"Skipping the {missing} part" in note and framework in note
        with pytest.raises(ImportError, match=f"nothing to run: .*{framework} is not installed"):
            make_demo.choose(missing, installed)


def test_a_missing_package_of_the_extra_is_named_with_the_remedy_and_another_keeps_its_traceback(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "demonstration"]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "skimage", None)
        with pytest.raises(SystemExit):
            make_demo.run(DETECTION)
    assert "skimage" in (printed := capsys.readouterr().err) and "pip install '.[demo]'" in printed
    monkeypatch.setitem(sys.modules, "demonstration.detection", None)
    with pytest.raises(ModuleNotFoundError, match="detection"):
        make_demo.run(DETECTION)
