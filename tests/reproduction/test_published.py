"""``reproduce.py run --published``: the published file of a recipe, fetched from a loopback server and evaluated."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import reproduce
from reproduction.run import read_run
from resnest_backbones import model_zoo
from tests.reproduction.smoke import smoke_settings
from tests.weights.helpers import SEGMENTOR, Trained, published_segmentor


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory) -> Iterator[Trained]:
    with published_segmentor(tmp_path_factory.mktemp("published")) as trained:
        yield trained


def published_arguments(name: str, output: Path, *more: str) -> list[str]:
    return ["run", name, "--published", "--output-dir", str(output), "--num-gpus", "1", *more]


def test_the_commands_of_published_files_are_evaluations_of_the_cached_file(segmentor, tmp_path, capsys):
    assert reproduce.main(published_arguments("ade20k", tmp_path / "out", "--dry-run")) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    count = sum(name.endswith("_ade20k-512x512") for name in model_zoo.list_trained())
    assert (
        first == f"{count} of {len(model_zoo.RECIPES)} recipes have a published file that can be fetched" or count == 4
    )
    assert len(lines) == 2 * count and not any("train_seg" in line for line in lines), "one scale, then several"
    assert f" {segmentor.server.cache / segmentor.server.record.name} " in lines[0]
    assert not (tmp_path / "out").exists()


def test_the_data_of_an_evaluation_are_those_of_validation(smoke_root, tmp_path, capsys):
    root = Path(shutil.copytree(smoke_root, tmp_path / "data"))
    shutil.rmtree(root / "ade" / "ADEChallengeData2016" / "images" / "training")
    arguments = ["data", SEGMENTOR, "--data-root", str(root), "--any-count"]
    assert reproduce.main(arguments) == 1
    capsys.readouterr()
    assert reproduce.main([*arguments, "--published"]) == 0
    out = capsys.readouterr().out
    assert "2000 images to evaluate on: ade/ADEChallengeData2016/images/validation, " in out and "train" not in out


@pytest.mark.slow
def test_a_published_file_is_fetched_evaluated_and_reported(segmentor, smoke_root, tmp_path, capsys):
    settings = ["--set", *smoke_settings(model_zoo.RECIPES[SEGMENTOR], 2), "test_dataloader.dataset.indices=1"]
    arguments = published_arguments(SEGMENTOR, tmp_path, "--data-root", str(smoke_root), "--any-count", *settings)
    assert reproduce.main(arguments) == 0, capsys.readouterr().out
    run = read_run(tmp_path / SEGMENTOR)
    assert run.state == "finished" and [step.name for step in run.steps] == ["test", "test_tta"]
    assert run.metrics.keys() == {"miou", "miou_multi_scale"}
    assert run.eval_only == str(segmentor.server.cache / segmentor.server.record.name)
    assert reproduce.main(["report", SEGMENTOR, "--output-dir", str(tmp_path)]) == 0
    assert "smoke run, published file, finished" in (tmp_path / "report" / "report.md").read_text()
    capsys.readouterr()
    segmentor.server.behaviour = "missing"
    Path(run.eval_only).unlink()
    try:
        assert reproduce.main([*arguments, "--output-dir", str(tmp_path / "again")]) == 1
        assert "answered 404 Not Found" in capsys.readouterr().out
    finally:
        segmentor.server.behaviour = "whole"
