"""The segmentation part of the demonstration runs from end to end, resumes, and draws what it says."""

from __future__ import annotations

import contextlib
import io
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
from demonstration.segmentation import CLASS_NAMES, compare_label_maps
from resnest_backbones.outputs import read_metrics
from tests.demonstration.helpers import TINY, check_pictures, file_times, has_content, pixels, unchanged
from tests.mmseg.helpers import last_metrics, run_here


def run_segmentation(folder, *options) -> None:
    run_here(make_demo.run, "--output-dir", folder, "--only", "segmentation", *TINY, *options)


# The detection part of the demonstration runs by default.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a demonstration that was interrupted and repeated, and the iterations that were started."""
    root = tmp_path_factory.mktemp("demonstration") / "out"
    started: list[int] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        started.append(runner.iter)
        if len(started) == 2:
            raise KeyboardInterrupt
        Hook.before_train_iter(self, runner, batch_idx, data_batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HOOKS.get("IterTimerHook"), "before_train_iter", before_train_iter)
        with pytest.raises(SystemExit, match="^130$"), contextlib.redirect_stderr(io.StringIO()) as said:
            run_segmentation(root)
        assert "the same command resumes from the last checkpoint" in said.getvalue()
        assert not (root / "segmentation" / "results.json").exists()
        run_segmentation(root)
    return root, started


def test_an_interrupted_demonstration_resumes_and_leaves_all_that_it_promises(finished):
    root, started = finished
    assert started == [0, 1, 1, 2]
    folder = root / "segmentation"
    assert [file.name for file in folder.glob("*.pth")] == ["iter_3.pth"]
    results = json.loads((folder / "results.json").read_text())
    assert list(results) == ["aAcc", "mIoU", "mAcc", *(f"IoU-{name}" for name in CLASS_NAMES)]
    assert all(value is None or 0 <= value <= 100 for value in results.values())
    assert "mIoU" in (folder / "results.txt").read_text()
    curves = read_metrics(*sorted(folder.glob("*/vis_data/scalars.json")), key="step")
    assert curves["loss"][0] == [1, 2, 3] and np.isfinite(curves["loss"][1]).all()
    assert curves["mIoU"][0][-1] == 3
    check_pictures(folder)
    for work_dir in (folder, folder / "evaluation"):  # the last validation, and the test of the saved model
        for name, value in last_metrics(work_dir).items():
            assert results[name] == pytest.approx(value, abs=0.006), name  # it rounds to two decimals


def test_a_second_call_reuses_everything_and_its_commands_do_what_they_promise(finished, capsys):
    root, _ = finished
    folder = root / "segmentation"
    before = file_times(root)
    run_segmentation(root)
    output = capsys.readouterr().out
    assert "contains a finished run" in output and "segmentation: mIoU" in output
    assert unchanged(before, file_times(root), drawn=("/predictions", "/visualized", "curves.png"))

    commands = [shlex.split(line)[1:] for line in output.splitlines() if line.startswith("    ")]
    tools = {"tools/test_seg.py": test_seg.run, "tools/infer_seg.py": infer_seg.run}
    assert [tool for tool, *_ in commands] == list(tools)
    for tool, *arguments in commands:
        run_here(tools[tool], *arguments)
    results = json.loads((folder / "results.json").read_text())
    assert f"mIoU {results['mIoU']:.2f}, aAcc {results['aAcc']:.2f}" in capsys.readouterr().out
    assert has_content(folder / "own_images" / "drawn" / "000001.png")
    label_map = folder / "own_images" / "label_maps" / "000001.png"
    assert (pixels(label_map) == pixels(folder / "label_maps" / "000001.png")).all()


def write_map(file, labels) -> None:
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.array(labels, dtype=np.uint8)).save(file)


def test_label_maps_are_compared_as_the_definitions_say(tmp_path):
    write_map(tmp_path / "truth" / "1.png", [[1, 1, 2, 0], [1, 1, 2, 2]])  # 0 does not count
    write_map(tmp_path / "predicted" / "1.png", [[1, 1, 1, 2], [1, 2, 2, 2]])
    metrics = compare_label_maps(tmp_path / "truth", tmp_path / "predicted", ["one", "two", "never"])
    assert np.isnan(metrics.pop("IoU-never"))
    wanted = {"aAcc": 5 / 7, "mIoU": (3 / 5 + 2 / 4) / 2, "mAcc": (3 / 4 + 2 / 3) / 2, "IoU-one": 3 / 5, "IoU-two": 0.5}
    assert {name: value / 100 for name, value in metrics.items()} == pytest.approx(wanted)
