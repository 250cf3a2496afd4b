"""The segmentation demo: it runs from one end to the other, goes on where it stopped, and draws what it says."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

pytest.importorskip("mmseg")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

import infer_seg
import make_demo
import test_seg
from demonstration.segmentation import CLASS_NAMES, SEGMENTATION_CONFIG, compare_label_maps, draw_curves
from resnest_backbones.predict.pictures import draw_label_maps, read_metrics
from tests.mmseg.helpers import last_figures, run_here

TINY = ["--only", "segmentation", "--iterations", "3", "--num-train", "8", "--num-val", "4"]


def pixels(file) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def has_content(file) -> bool:
    image = pixels(file)
    return image.std() > 5 and len(np.unique(image.reshape(-1, 3), axis=0)) > 50


def file_times(folder) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def run_demo(folder, *options) -> None:
    run_here(make_demo.run, "--output-dir", folder, *TINY, *options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a demo run by the command line."""
    root = tmp_path_factory.mktemp("demo") / "out"
    run_demo(root)
    return root


def test_the_demo_leaves_all_that_it_promises(finished):
    folder = finished / "segmentation"
    assert [file.name for file in folder.glob("*.pth")] == ["iter_3.pth"]
    results = json.loads((folder / "results.json").read_text())
    assert list(results) == ["aAcc", "mIoU", "mAcc", *(f"IoU-{name}" for name in CLASS_NAMES)]
    assert all(value is None or 0 <= value <= 100 for value in results.values())
    assert "mIoU" in (folder / "results.txt").read_text()
    curves = read_metrics(*folder.glob("*/vis_data/scalars.json"), key="step")
    assert curves["loss"][0] == [1, 2, 3] and np.isfinite(curves["loss"][1]).all()
    assert curves["mIoU"][0][-1] == 3
    pictures = sorted((folder / "predictions").glob("*.png"))
    assert [file.name for file in pictures] == [f"{number:06d}.png" for number in range(1, 5)]
    assert all(has_content(file) for file in [*pictures, folder / "predictions.png", folder / "curves.png"])
    assert "data:image/png" in (folder / "visualized" / "index.html").read_text()


def test_the_figures_are_those_of_mmsegmentation(finished):
    folder = finished / "segmentation"
    results = json.loads((folder / "results.json").read_text())
    for work_dir in (folder, folder / "evaluation"):  # the last validation, and the test of the saved model
        for name, value in last_figures(work_dir).items():
            assert results[name] == pytest.approx(value, abs=0.006), name  # which it rounds to two decimals


def test_a_second_call_uses_everything_again(finished, capsys):
    before = file_times(finished)
    run_demo(finished)
    output = capsys.readouterr().out
    assert "holds a finished training" in output
    assert "segmentation: mIoU" in output
    after = file_times(finished)
    drawn = {name for name in after if name.endswith(".png") and name.count("/") <= 2 and "label_maps" not in name}
    drawn |= {name for name in after if "/visualized/" in name}
    assert {name: time for name, time in after.items() if name not in drawn} == {
        name: time for name, time in before.items() if name not in drawn
    }


def test_the_commands_it_recommends_do_what_they_promise(finished, capsys):
    run_demo(finished)
    commands = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    commands = [shlex.split(" ".join(words)) for words in commands]
    tools = {"tools/test_seg.py": test_seg.run, "tools/infer_seg.py": infer_seg.run}
    assert [tool for tool, *_ in commands] == list(tools)
    results = json.loads((finished / "segmentation" / "results.json").read_text())
    for tool, *arguments in commands:
        run_here(tools[tool], *arguments)
    assert f"mIoU {results['mIoU']:.2f}, aAcc {results['aAcc']:.2f}" in capsys.readouterr().out
    folder = finished / "segmentation"
    assert has_content(folder / "own_images" / "drawn" / "000001.png")
    label_map = folder / "own_images" / "label_maps" / "000001.png"
    assert (pixels(label_map) == pixels(folder / "label_maps" / "000001.png")).all()


def test_an_interrupted_training_goes_on_from_its_checkpoint(finished, tmp_path, capsys, monkeypatch):
    started: list[int] = []
    find = HOOKS.get("IterTimerHook")

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        started.append(runner.iter)
        if len(started) == 2:
            raise KeyboardInterrupt
        Hook.before_train_iter(self, runner, batch_idx, data_batch)

    monkeypatch.setattr(find, "before_train_iter", before_train_iter)
    with pytest.raises(SystemExit, match="the same command goes on from the last checkpoint"):
        run_demo(tmp_path / "out")
    folder = tmp_path / "out" / "segmentation"
    assert not (folder / "results.json").exists()
    capsys.readouterr()
    run_demo(tmp_path / "out")
    assert started == [0, 1, 1, 2]
    assert "going on from its last checkpoint" in capsys.readouterr().out
    # The same figures as without an interruption.
    assert (folder / "results.json").read_text() == (finished / "segmentation" / "results.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iterations", "4"], "iterations must be 3, as in the training that"),
        (["--num-train", "9"], "holds the demo data set of other arguments"),
    ],
)
def test_a_folder_of_other_settings_is_refused(finished, capsys, options, message):
    before = file_times(finished)
    with pytest.raises(SystemExit) as error:
        run_demo(finished, *options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert file_times(finished) == before


def test_wrong_iterations_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        run_demo(tmp_path / "out", "--iterations", "0")
    assert error.value.code == 2
    assert "iterations must be a positive integer, got 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_framework_leaves_the_other_demo():
    both = ["detectron2", "mmseg"]
    assert make_demo.choose_demos(None, both) == (["detection", "segmentation"], [])
    assert make_demo.choose_demos("segmentation", both) == (["segmentation"], [])
    for kept, missing in (("detection", "segmentation"), ("segmentation", "detection")):
        framework = make_demo.FRAMEWORKS[missing]
        chosen, notes = make_demo.choose_demos(None, [name for name in both if name != framework])
        assert chosen == [kept]
        assert notes and f"the {missing} demo is left out" in notes[0].lower() and framework in notes[0]
        with pytest.raises(ImportError, match=f"{framework}, which is not installed"):
            make_demo.choose_demos(missing, [name for name in both if name != framework])
    with pytest.raises(ImportError, match="nothing to run"):
        make_demo.choose_demos(None, [])


def test_curves_are_drawn_from_whatever_there_is(tmp_path):
    draw_curves({}, tmp_path / "empty.png")
    draw_curves({"loss": ([1, 2], [2.0, 1.0]), "mIoU": ([2], [60.0])}, tmp_path / "full.png")
    assert has_content(tmp_path / "full.png")
    assert (pixels(tmp_path / "full.png") != pixels(tmp_path / "empty.png")).any()


# Label maps made by hand


def write_map(file, labels) -> None:
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.array(labels, dtype=np.uint8)).save(file)


def test_label_maps_are_compared_as_the_definitions_say(tmp_path):
    write_map(tmp_path / "truth" / "1.png", [[1, 1, 2, 0], [1, 1, 2, 2]])  # 0 does not count
    write_map(tmp_path / "predicted" / "1.png", [[1, 1, 1, 2], [1, 2, 2, 2]])
    figures = compare_label_maps(tmp_path / "truth", tmp_path / "predicted", ["one", "two", "never"])
    assert figures.pop("IoU-never") != figures.get("IoU-never")  # NaN
    assert figures == pytest.approx(
        {
            "aAcc": 100 * 5 / 7,
            "mIoU": 100 * (3 / 5 + 2 / 4) / 2,
            "mAcc": 100 * (3 / 4 + 2 / 3) / 2,
            "IoU-one": 100 * 3 / 5,
            "IoU-two": 100 * 2 / 4,
        }
    )


def test_pictures_show_image_truth_and_prediction_with_a_legend(tmp_path):
    image = tmp_path / "images" / "1.png"
    write_map(image, np.full((64, 64, 3), (200, 100, 0)))
    truth, predicted = np.ones((2, 64, 64), dtype=np.uint8)
    truth[:32], predicted[32:] = 2, 3
    write_map(tmp_path / "truth" / "1.png", truth)
    write_map(tmp_path / "predicted" / "1.png", predicted)
    (file,) = draw_label_maps(
        [image],
        tmp_path / "truth",
        tmp_path / "predicted",
        names=["nothing", "up", "down"],
        background="nothing",
        sheet=tmp_path / "sheet.png",
        folder=tmp_path / "drawn",
    )
    drawn = pixels(file)
    side = 512  # the least multiple of 64 from 480 on
    assert drawn.shape[1] == 3 * side + 2 * 6 and drawn.shape[0] > side
    shown, true, guess = (drawn[:side, start : start + side] for start in (0, side + 6, 2 * (side + 6)))
    assert (shown == (200, 100, 0)).all()
    up, down = true[0, 0], guess[-1, 0]
    nothing = guess[0, 0]
    assert (true[: side // 2] == up).all() and (true[side // 2 :] == nothing).all()
    assert (guess[: side // 2] == nothing).all() and (guess[side // 2 :] == down).all()
    assert len(set(nothing.tolist())) == 1  # grey
    assert len({tuple(colour) for colour in (up, down, nothing)}) == 3
    # Tab10's blue and orange, pure in the legend and most of what is seen in the picture.
    for colour, plate in ((up, (31, 119, 180)), (down, (255, 127, 14))):
        assert (drawn[side:] == plate).all(axis=-1).any()
        assert np.abs(colour.astype(int) - plate).max() < 40
    assert has_content(tmp_path / "sheet.png") or pixels(tmp_path / "sheet.png").std() > 5


def test_the_demo_trains_the_paper_s_network_and_decay():
    from mmengine.config import Config

    from resnest_backbones import model_zoo

    cfg = Config.fromfile(model_zoo.get_config_file(SEGMENTATION_CONFIG))
    assert (cfg.model.decode_head.type, cfg.model.auxiliary_head.type) == ("PaperASPPHead", "PaperFCNHead")
    assert cfg.param_scheduler[0].type == "PolyLR" and "end" not in cfg.param_scheduler[0]  # it ends with the training
    for key in ("decode_head", "auxiliary_head"):
        assert cfg.optim_wrapper.paramwise_cfg.custom_keys[key].lr_mult == 10
        assert cfg.model[key].num_classes == len(CLASS_NAMES)
