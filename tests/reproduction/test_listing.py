"""``reproduce.py list``: all rows, readable in a terminal and by machines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from reproduction.cli import main
from reproduction.listing import as_text, entries
from resnest_backbones.model_zoo import RECIPES, get_config_file

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")


@pytest.fixture(scope="module")
def listed() -> list:
    return entries(list(RECIPES.values()))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_has_every_row_once_and_fits_the_terminal(listed, width):
    lines = as_text(listed, 10.0, width).splitlines()
    assert all(len(line) <= width for line in lines)
    for name in RECIPES:
        assert sum(line.split()[:1] == [name] for line in lines) == 1


def test_the_table_says_what_was_published_what_it_costs_and_what_it_stands_on(listed):
    text = as_text(listed, 10.0, 120)
    assert "published: box AP 50.91, mask AP 44.5" in text
    assert "test-dev has no public annotations" in text
    assert "42 rows, " in text
    assert "configs: configs/detectron2/coco_detection/ROW.yaml" in text
    assert "[1] github.com/zhanghang1989/ResNeSt d2/README.md" in text
    words = " ".join(text.split())
    assert "an effective 10 TFLOP/s, about that of a V100 in float32: Detectron2's MODEL_ZOO.md has 0.210 s" in words
    assert "MODEL_ZOO.md" not in as_text(listed, 20.0, 120)  # another rate has another origin


def test_json_has_all_of_it(capsys):
    assert main(["list", "cityscapes", "mask_rcnn_resnest50_fpn_1x", "--json", "--device-rate", "20"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["device_rate_tflops"] == 20
    assert [row["row"] for row in content["rows"]][0] == "mask_rcnn_resnest50_fpn_1x"
    assert len(content["rows"]) == 6
    for row in content["rows"]:
        recipe = RECIPES[row["row"]]
        assert row["published"] == dict(recipe.metrics)
        assert row["config"] == get_config_file(recipe.name) and Path(row["config"]).is_file()
        assert row["source"] == recipe.source
        assert row["gpu_hours"] > 0 and row["training_images"] > 0
        assert row["data"]


def test_a_row_whose_framework_is_missing_is_listed_without_hours(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2.config", None)
    (entry,) = entries([RECIPES["faster_rcnn_resnest50_fpn_1x"]])
    assert entry.estimate is None
    assert "detectron2 is missing" in as_text([entry], 10.0, 80)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_row"], "ROW must be a name, a pattern, or a data set of `list`, got 'no_such_row'"),
        (["faster_rcnn_resnest50_fpn_1x", "--device-rate", "0"], "device_rate must be positive, got 0.0"),
    ],
)
def test_a_wrong_command_ends_in_one_line(capsys, arguments, message):
    assert main(["list", *arguments]) == 2
    assert capsys.readouterr().err == f"reproduce.py list: error: {message}\n"
