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
from curves import draw_curves
from demonstration import common
from demonstration.common import write_results
from demonstration.detection import draw_predictions, train_detector
from demonstration.digits import make_demo_dataset
from resnest_backbones.outputs import read_metrics
from tests.demonstration.helpers import TINY, check_pictures, file_times, has_content, pixels, unchanged

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
    assert "holds a finished training" in capsys.readouterr().out
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
        (["--iterations", "4"], "iterations must be 3, as in the training in"),
        (["--num-train", "9"], "was generated with other arguments"),
    ):
        with pytest.raises(SystemExit) as error:
            make_demo.run([*DETECTION, "--output-dir", str(root), *options])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    assert file_times(root) == before


def test_the_help_has_an_example_and_the_defaults(capsys):
    with pytest.raises(SystemExit):
        make_demo.run(["--help"])
    text = capsys.readouterr().out
    assert "example: python tools/make_demo.py" in text
    assert f"default: {common.NUM_TRAIN}" in text and f"default: {common.NUM_VAL}" in text


def test_a_missing_framework_leaves_the_other_part():
    both = ["detectron2", "mmseg"]
    assert make_demo.choose(None, both) == (["detection", "segmentation"], [])
    assert make_demo.choose("segmentation", both) == (["segmentation"], [])
    for kept, missing in (("detection", "segmentation"), ("segmentation", "detection")):
        framework = make_demo.FRAMEWORKS[missing]
        installed = [name for name in both if name != framework]
        chosen, (note,) = make_demo.choose(None, installed)
        assert chosen == [kept] and f"{missing} part is skipped" in note and framework in note
        with pytest.raises(ImportError, match=f"nothing to run: .*{framework}, which is not installed"):
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


def test_curves_are_drawn_from_whatever_there_is_and_undefined_metrics_become_null(tmp_path):
    names = {"losses": {"total_loss": "loss"}, "metrics": {"bbox/AP50": "AP50"}, "title": "AP"}
    draw_curves({}, tmp_path / "empty.png", **names)
    draw_curves({"total_loss": ([0, 19], [2.0, 1.0]), "bbox/AP50": ([19], [60.0])}, tmp_path / "full.png", **names)
    assert has_content(tmp_path / "full.png")
    assert (pixels(tmp_path / "full.png") != pixels(tmp_path / "empty.png")).any()
    write_results({"AP": 12.34567, "APl": float("nan")}, tmp_path, title="AP")
    assert json.loads((tmp_path / "results.json").read_text()) == {"AP": 12.346, "APl": None}
    assert (tmp_path / "results.txt").read_text().splitlines() == ["AP", f"{'AP':<10}   12.3", f"{'APl':<10}    n/a"]


def test_pictures_show_likely_predictions_beside_the_ground_truth(tmp_path):
    data = make_demo_dataset(tmp_path / "data", num_train=1, num_val=2, image_size=64, progress=False)
    truth = json.loads(data.val_json.read_text())["annotations"]

    def draw(name, score):
        boxes = [{key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": score} for one in truth]
        (tmp_path / f"{name}.json").write_text(json.dumps(boxes))
        draw_predictions(data, tmp_path / f"{name}.json", tmp_path / name)
        assert has_content(tmp_path / name / "predictions.png")
        assert len(list((tmp_path / name / "predictions").iterdir())) == 2
        return pixels(tmp_path / name / "predictions" / "000001.png")

    likely, unlikely = draw("likely", 0.9), draw("unlikely", 0.4)
    middle = likely.shape[1] // 2
    assert (likely[:, :middle] == unlikely[:, :middle]).all()  # the ground truth
    assert (likely[:, middle:] != unlikely[:, middle:]).any()
