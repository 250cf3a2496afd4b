"""``reproduce.py smoke``: rows end to end through the real frameworks, in seconds each."""

from __future__ import annotations

import json

import pytest

from reproduction import smoke
from reproduction.cli import main
from reproduction.results import read_result
from resnest_backbones.model_zoo import RECIPES

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")
pytest.importorskip("skimage")

FAILS, PASSES = "faster_rcnn_resnet50_fpn_1x", "faster_rcnn_resnest50_fpn_1x"


def test_a_broken_row_is_named_and_stops_no_other(tmp_path, monkeypatch, capfd):
    # Detectron2's ResNet has no depth of 14, ResNeSt has.
    monkeypatch.setattr(smoke, "_DETECTRON2", (*smoke._DETECTRON2, "MODEL.RESNETS.DEPTH=14"))
    assert main(["smoke", FAILS, PASSES, "--output-dir", str(tmp_path)]) == 1
    out = capfd.readouterr().out
    assert "1 of 2 rows passed" in out
    ending = out[out.index("1 of 2 rows passed") :]
    assert f"FAILED {FAILS}: KeyError: 14" in ending and PASSES not in ending
    assert str(tmp_path / FAILS / "log.txt") in ending

    failed, passed = read_result(tmp_path / FAILS), read_result(tmp_path / PASSES)
    assert (failed.state, failed.smoke, failed.figures) == ("failed", True, {})
    assert (passed.state, passed.smoke) == ("finished", True)
    assert passed.figures.keys() == {"box_ap"}
    assert [(step.name, step.status) for step in passed.steps] == [("train", 0)]
    assert not list((tmp_path / PASSES).rglob("*.pth"))
    records = [json.loads(line) for line in (tmp_path / PASSES / "train" / "metrics.json").read_text().splitlines()]
    assert any("total_loss" in record for record in records)

    # With --resume, what passed is left as it is.
    before = (tmp_path / PASSES / "row.json").read_bytes()
    assert main(["smoke", PASSES, "--output-dir", str(tmp_path), "--resume"]) == 0
    assert "finished already" in capfd.readouterr().out
    assert (tmp_path / PASSES / "row.json").read_bytes() == before


def test_a_row_that_is_no_smoke_run_is_not_removed(tmp_path, capsys):
    row = tmp_path / PASSES
    row.mkdir()
    (row / "model_final.pth").write_text("weeks of work")
    assert main(["smoke", PASSES, "--output-dir", str(tmp_path)]) == 2
    assert "must be what `smoke` left there, got something else" in capsys.readouterr().err
    assert (row / "model_final.pth").read_text() == "weeks of work"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_row"], "ROW must be a name, a pattern, or a data set of `list`, got 'no_such_row'"),
        (["--iterations", "1"], "--iterations must be 2 or more, got 1"),
    ],
)
def test_a_wrong_command_ends_in_one_line(tmp_path, capsys, arguments, message):
    assert main(["smoke", *arguments, "--output-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"reproduce.py smoke: error: {message}\n"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_row_passes(tmp_path, capfd):
    status = main(["smoke", "--output-dir", str(tmp_path)])
    out = capfd.readouterr().out
    assert status == 0 and f"{len(RECIPES)} of {len(RECIPES)} rows passed" in out, out
    for name, recipe in RECIPES.items():
        result = read_result(tmp_path / name)
        expected = {metric for metric in recipe.metrics if not metric.endswith("_test_dev")}
        if smoke.lacks_panoptic_evaluation(recipe):
            expected.remove("pq")
        assert result.state == "finished" and result.figures.keys() == expected, name
