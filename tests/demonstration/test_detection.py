"""The detection demo: it runs from one end to the other, goes on where it stopped, and draws what it says."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

pytest.importorskip("detectron2")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from PIL import Image

import make_demo
import train_net
from demonstration import common as demo_module
from demonstration import digits as demo_data
from demonstration.common import write_results
from demonstration.detection import draw_curves, run_detection_demo
from resnest_backbones.detectron2.engine import train as train_module
from resnest_backbones.predict.pictures import draw_predictions, read_metrics

DETECTION = ["--only", "detection"]
TINY = ["--iterations", "3", "--num-train", "8", "--num-val", "4"]


def pixels(file) -> np.ndarray:
    with Image.open(file) as image:
        image.load()
        return np.asarray(image.convert("RGB"))


def has_content(file) -> bool:
    image = pixels(file)
    return image.std() > 5 and len(np.unique(image.reshape(-1, 3), axis=0)) > 50


def file_times(folder) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a demo run by the command line."""
    root = tmp_path_factory.mktemp("demo") / "out"
    make_demo.run([*DETECTION, "--output-dir", str(root), *TINY])
    return root


def test_the_demo_leaves_all_that_it_promises(finished):
    folder = finished / "detection"
    assert (folder / "model_final.pth").is_file()
    results = json.loads((folder / "results.json").read_text())
    assert {"AP", "AP50", "AP75", "AP-zero", "AP-nine"} <= results.keys()
    assert all(value is None or 0 <= value <= 100 for value in results.values())
    assert "AP50" in (folder / "results.txt").read_text()
    iterations, losses = read_metrics(folder / "metrics.json")["total_loss"]
    assert iterations and np.isfinite(losses).all()
    pictures = sorted((folder / "predictions").glob("*.png"))
    assert [file.name for file in pictures] == [f"{number:06d}.png" for number in range(1, 5)]
    assert all(has_content(file) for file in [*pictures, folder / "predictions.png", folder / "curves.png"])
    assert "data:image/png" in (folder / "visualized" / "index.html").read_text()


def test_a_second_call_uses_everything_again(finished, capsys):
    before = file_times(finished)
    make_demo.run([*DETECTION, "--output-dir", str(finished), *TINY])
    output = capsys.readouterr().out
    assert "holds a finished training" in output
    assert "AP50" in output
    after = file_times(finished)
    endings = (".png", "log.txt", "index.html")
    drawn = {name for name in after if name.endswith(endings) and not name.startswith("data/")}
    assert {name: time for name, time in after.items() if name not in drawn} == {
        name: time for name, time in before.items() if name not in drawn
    }


def test_the_command_it_recommends_evaluates_to_the_same_figures(finished, monkeypatch):
    demo = run_detection_demo(finished, iterations=3, num_train=8, num_val=4)
    _, tool, *arguments = shlex.split(demo.commands["evaluate the saved model"])
    assert tool == "tools/train_net.py"
    again = {}
    monkeypatch.setattr(train_net, "main", lambda args: again.update(train_module.main(args)))
    train_net.run([*arguments, "MODEL.DEVICE", "cpu"])
    again_file = finished / "again"
    again_file.mkdir()
    write_results(again["bbox"], again_file, title="AP")
    assert json.loads((again_file / "results.json").read_text()) == demo.results


def test_an_interrupted_training_goes_on_from_its_checkpoint(tmp_path, monkeypatch, capsys):
    step = train_module.Trainer.run_step
    started = []

    def run_step(self):
        started.append(self.iter)
        if len(started) == 2:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(train_module.Trainer, "run_step", run_step)
    with pytest.raises(SystemExit, match="the same command goes on from the last checkpoint"):
        make_demo.run([*DETECTION, "--output-dir", str(tmp_path / "out"), *TINY])
    assert not (tmp_path / "out" / "detection" / "results.json").exists()
    capsys.readouterr()
    make_demo.run([*DETECTION, "--output-dir", str(tmp_path / "out"), *TINY])
    assert started == [0, 1, 1, 2]
    assert "going on from its last checkpoint" in capsys.readouterr().out
    assert (tmp_path / "out" / "detection" / "results.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iterations", "0"], "iterations must be a positive integer, got 0"),
        (["--iterations", "many"], "invalid int value: 'many'"),
        (["--num-train", "0"], "num_train must be an integer from 1 to 100000, got 0"),
        (["--num-val", "-1"], "num_val must be an integer from 1 to 100000, got -1"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as error:
        make_demo.run([*DETECTION, "--output-dir", str(tmp_path / "out"), *options])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_settings_is_refused(finished, capsys):
    for options, message in (
        (["--iterations", "4"], "iterations must be 3, as in the training that"),
        (["--num-train", "9"], "holds the demo data set of other arguments"),
    ):
        before = file_times(finished)
        with pytest.raises(SystemExit) as error:
            make_demo.run([*DETECTION, "--output-dir", str(finished), *TINY, *options])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
        assert file_times(finished) == before


def test_the_help_has_an_example_and_the_defaults_of_the_package(capsys):
    with pytest.raises(SystemExit):
        make_demo.run(["--help"])
    text = capsys.readouterr().out
    assert "example: python tools/make_demo.py" in text
    assert f"default: {demo_module.NUM_TRAIN}" in text
    assert f"default: {demo_module.NUM_VAL}" in text


def test_metrics_of_a_resumed_training_take_the_last_value(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text(
        '{"iteration": 19, "total_loss": 3.0}\n'
        '{"iteration": 39, "total_loss": 2.0, "bbox/AP": 10.0}\n'
        '{"iteration": 59, "total_loss": 9.0}\n'
        '{"iteration": 39, "total_loss": 2.5}\n'
        '{"iteration": 59, "total_loss": 1.5}\n'
        '{"iteration": 79, "total'
    )
    assert read_metrics(file) == {"total_loss": ([19, 39, 59], [3.0, 2.5, 1.5]), "bbox/AP": ([39], [10.0])}


def test_curves_are_drawn_from_whatever_there_is(tmp_path):
    draw_curves({}, tmp_path / "empty.png")
    curves = {"total_loss": ([0, 19], [2.0, 1.0]), "loss_cls": ([0, 19], [1.0, 0.5]), "bbox/AP50": ([19], [60.0])}
    draw_curves(curves, tmp_path / "full.png")
    assert has_content(tmp_path / "full.png")
    assert (pixels(tmp_path / "full.png") != pixels(tmp_path / "empty.png")).any()


def test_undefined_figures_become_null(tmp_path):
    write_results({"AP": 12.34567, "APl": float("nan")}, tmp_path, title="AP")
    assert json.loads((tmp_path / "results.json").read_text()) == {"AP": 12.346, "APl": None}
    assert (tmp_path / "results.txt").read_text().splitlines() == ["AP", f"{'AP':<10}   12.3", f"{'APl':<10}    n/a"]


def test_pictures_show_confident_predictions_beside_the_truth(tmp_path):
    data = demo_data.make_demo_dataset(tmp_path / "data", num_train=1, num_val=2, image_size=64, progress=False)
    content = json.loads(data.val_json.read_text())
    truth = [{key: a[key] for key in ("image_id", "category_id", "bbox")} for a in content["annotations"]]

    def draw(name, score):
        predictions = tmp_path / f"{name}.json"
        predictions.write_text(json.dumps([{**box, "score": score} for box in truth]))
        sheet, folder = tmp_path / f"{name}.png", tmp_path / name
        files = draw_predictions(data.val_json, data.val_images, predictions, sheet=sheet, folder=folder)
        assert [file.name for file in files] == ["000001.png", "000002.png"]
        assert has_content(sheet)
        return pixels(files[0])

    sure, unsure = draw("sure", 0.9), draw("unsure", 0.4)
    middle = sure.shape[1] // 2
    assert (sure[:, :middle] == unsure[:, :middle]).all()  # the ground truth
    assert (sure[:, middle:] != unsure[:, middle:]).any()
    assert sure.shape[0] >= 480
