"""Every recipe end to end on tiny data: training, evaluation, tests with augmentation, and its report.

Slow: `make smoke` runs it, and tests/reproduction/test_run.py takes the same way with a smaller network.
"""

import json

import pytest

from reproduce import main
from reproduction.common import ALL
from reproduction.metrics import read_curves
from resnest_backbones.model_zoo import RECIPES
from tests.reproduction.smoke import lacks_panoptic_evaluation, smoke_settings

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*RECIPES, "resnest14"])
def test_a_recipe_trains_evaluates_and_is_reported(name, smoke_root, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    recipe = ALL[name]
    arguments = [name, "--output-dir", str(tmp_path), "--data-root", str(smoke_root), "--any-count", "--num-gpus", "1"]
    status = main(["run", *arguments, "--set", *smoke_settings(recipe, 2)])
    assert status == 0, "\n".join(capfd.readouterr().out.splitlines()[-40:])

    if recipe.framework == "mmseg":  # MMEngine gives the epoch as the "step" of a validation in a training by epochs
        curves = read_curves(tmp_path / name, "mmseg")
        assert curves["miou"][0] == curves["loss"][0][-1:] == [2]
    assert main(["report", name, "--output-dir", str(tmp_path)]) == 0
    (entry,) = json.loads((tmp_path / "report" / "report.json").read_text())["recipes"]
    assert (entry["state"], entry["smoke"], entry["verdict"], entry["problems"]) == ("finished", True, None, [])
    measured = {metric["metric"] for metric in entry["metrics"] if metric["measured"] is not None}
    expected = {metric for metric in recipe.metrics if not metric.endswith("_test_dev")}
    assert measured == expected - ({"pq"} if lacks_panoptic_evaluation(recipe) else set())
    page = (tmp_path / "report" / "report.html").read_text()
    assert "SMOKE RUN, NOT A MEASUREMENT." in page and "data:image/png;base64," in page
