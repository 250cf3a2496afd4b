"""The small benchmark compares networks and nothing else, and its table says what its record holds."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import small_benchmark
from benchmarks.small_benchmark import (
    DATASETS,
    NETWORKS,
    STARTS,
    BenchmarkError,
    SmallRecord,
    SmallRun,
    circumstances_table,
    config_name,
    read_records,
    run_benchmark,
    small_table,
    write_record,
)
from resnest_backbones import model_zoo
from tests.helpers import flat, run_tool, subset_of_coco

TRAININGS = [(dataset.method, name) for name, dataset in DATASETS.items()] + [("mask_rcnn", "digits")]


def resolved(method: str, network: str, dataset: str, recipe: str) -> dict[str, object]:
    pytest.importorskip("detectron2")
    return flat(model_zoo.get_config(config_name(method, network, dataset, recipe)))


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> set[str]:
    assert one.keys() == other.keys()
    return {key for key in one if one[key] != other[key]}


@pytest.mark.parametrize("recipe", ["gpu", "cpu"])
@pytest.mark.parametrize(("method", "dataset"), TRAININGS)
def test_both_networks_have_one_recipe(method, dataset, recipe):
    resnet, resnest = (resolved(method, network, dataset, recipe) for network in NETWORKS)
    assert differences(resnet, resnest) == {"MODEL.BACKBONE.NAME"}
    assert resnet["MODEL.WEIGHTS"] == "" and resnet["MODEL.BACKBONE.FREEZE_AT"] == 0
    assert resnet["MODEL.RESNETS.DEPTH"] == 50 and resnet["MODEL.RESNETS.NORM"] == "BN"


@pytest.mark.parametrize(("method", "dataset"), TRAININGS)
def test_the_shorter_recipe_differs_in_schedule_and_size_of_images_alone(method, dataset):
    changed = differences(*(resolved(method, "resnest50", dataset, recipe) for recipe in ("gpu", "cpu")))
    assert "SOLVER.MAX_ITER" in changed
    assert all(key.startswith(("SOLVER.", "INPUT.", "DATALOADER.")) or key == "TEST.EVAL_PERIOD" for key in changed)


def record(dataset: str = "bccd", **runs: list[float]) -> SmallRecord:
    made = [
        SmallRun(network, "scratch", seed, {name: value for name in DATASETS[dataset].metrics}, 10)
        for network, values in runs.items()
        for seed, value in enumerate(values)
    ]
    versions, digits = {"python": "3", "torch": "4"}, {"resnet50": 1.0, "resnest50": 2.468}
    return SmallRecord(
        dataset, "cpu", f"command of {dataset}", "2030-01-31", "a machine", versions, digits, tuple(made)
    )


def rows(table: str) -> list[str]:
    return table.splitlines()[2:]


def test_the_table_has_means_deviations_and_the_difference():
    bccd = record(resnet50=[10.0, 12.0, 14.0], resnest50=[11.0, 12.0, 12.0])
    nuclei = record("nuclei", resnet50=[1.0], resnest50=[2.0])
    assert rows(small_table({"bccd": bccd, "nuclei": nuclei})) == [
        "| blood cells (BCCD) | scratch | box AP | 12.00 ± 2.00 | 11.67 ± 0.58 | -0.33 | 3 |",
        "| blood cells (BCCD) | scratch | box AP50 | 12.00 ± 2.00 | 11.67 ± 0.58 | -0.33 | 3 |",
        "| nuclei | scratch | box AP | 1.00 | 2.00 | +1.00 | 1 |",
        "| nuclei | scratch | mask AP | 1.00 | 2.00 | +1.00 | 1 |",
        "| nuclei | scratch | mask AP50 | 1.00 | 2.00 | +1.00 | 1 |",
    ]


def test_a_benchmark_that_was_broken_off_shows_what_there_is():
    row = rows(small_table({"bccd": record(resnet50=[10.0, 12.0], resnest50=[11.0])}))[0]
    assert row == "| blood cells (BCCD) | scratch | box AP | 11.00 ± 1.41 | 11.00 | +0.00 | 1 and 2 |"
    row = rows(small_table({"bccd": record(resnet50=[10.0])}))[0]
    assert row == "| blood cells (BCCD) | scratch | box AP | 10.00 |  |  | 0 and 1 |"


def test_each_data_set_has_circumstances_of_its_own():
    records = {name: record(name, resnet50=[1.0]) for name in DATASETS}
    assert rows(circumstances_table(records)) == [
        f"| {title} | cpu | `command of {name}` | 2030-01-31 | a machine | python 3, torch 4 | 1.00 | 2.47 |"
        for name, title in (("bccd", "blood cells (BCCD)"), ("nuclei", "nuclei"))
    ]


def test_a_record_is_read_as_it_was_written_and_leaves_those_of_other_data_sets(tmp_path):
    file = tmp_path / "record.json"
    nuclei, bccd, again = record("nuclei", resnet50=[1.0]), record(resnet50=[2.0]), record(resnet50=[3.0])
    write_record(nuclei, file)
    assert read_records(file) == {"nuclei": nuclei}
    write_record(bccd, file)
    assert list(read_records(file).items()) == [("bccd", bccd), ("nuclei", nuclei)]
    write_record(again, file)
    assert read_records(file) == {"bccd": again, "nuclei": nuclei}


def test_the_records_of_the_package_are_whole():
    records = read_records()
    assert records.keys() == DATASETS.keys()
    for dataset, kept in records.items():
        seeds = {run.seed for run in kept.runs}
        assert len(seeds) >= 3 and kept.dataset == dataset
        wanted = {(net, start, seed) for net in NETWORKS for start in STARTS for seed in seeds}
        assert {(run.network, run.start, run.seed) for run in kept.runs} == wanted
        assert len(kept.runs) == len(wanted) and kept.pretraining.keys() == set(NETWORKS)
        assert kept.recipe in small_benchmark.RECIPES
        for run in kept.runs:
            assert run.figures.keys() == DATASETS[dataset].metrics.keys()
            assert all(0 <= value <= 100 for value in run.figures.values())


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="recipe must be one of gpu, cpu, got 'tpu'"):
        next(run_benchmark(tmp_path, tmp_path, recipe="tpu", seeds=[1]))
    with pytest.raises(ValueError, match="seeds must be different numbers from 0 on, got 1 1"):
        next(run_benchmark(tmp_path, tmp_path, recipe="cpu", seeds=[1, 1]))
    with pytest.raises(ValueError, match="datasets must be of bccd, nuclei, got coco"):
        next(run_benchmark(tmp_path, tmp_path, recipe="cpu", seeds=[1], datasets=["coco"]))
    with pytest.raises(BenchmarkError, match="bccd must hold images/ and .*, no .*bccd/images"):
        next(run_benchmark(tmp_path, tmp_path, recipe="cpu", seeds=[1]))


def finished_training(folder: Path, recipe: str) -> list[str]:
    """What a training of the digits leaves behind; its options."""
    options = ["--train-json", "digits/train.json", "SEED", "1"]
    config = small_benchmark.get_config_file(config_name("mask_rcnn", "resnest50", "digits", recipe))
    command = ["train_net.py", "--resume", "--config-file", config, *options, "OUTPUT_DIR", str(folder)]
    folder.mkdir()
    (folder / "console.txt").write_text(f"{shlex.join(command)}\n")
    (folder / "figures.json").write_text('{"figures": {"bbox/AP": 40.0}, "seconds": 7.0}')
    return options


def test_what_is_there_is_used_again_for_the_same_training_alone(tmp_path):
    folder = tmp_path / "digits_resnest50"
    options = finished_training(folder, "gpu")
    gpu, cpu = (config_name("mask_rcnn", "resnest50", "digits", recipe) for recipe in ("gpu", "cpu"))
    assert small_benchmark._train(folder, gpu, options) == ({"bbox/AP": 40.0}, 7.0)
    for config, others in ((cpu, options), (gpu, [*options, "SOLVER.BASE_LR", "0.1"])):
        with pytest.raises(BenchmarkError, match=r"digits_resnest50 holds a training with other settings .*SEED 1 "):
            small_benchmark._train(folder, config, others)
    moved = tmp_path / "moved" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    assert small_benchmark._train(moved, gpu, ["--train-json", "/data/digits/train.json", "SEED", "1"])[1] == 7.0


def test_the_figures_are_those_of_the_last_evaluation(tmp_path):
    file = tmp_path / "metrics.json"
    records = [{"bbox/AP": 1.0, "segm/AP": 2.0}, {"total_loss": 1.0}, {"bbox/AP": float("nan")}]
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"bbox/A')
    figures = small_benchmark._last_figures(file)
    assert figures.keys() == {"bbox/AP"}
    # The last one found nothing: its AP of masks is not that of an evaluation before.
    assert [small_benchmark._figure(figures, name) for name in ("bbox/AP", "segm/AP")] == [0.0, 0.0]
    file.write_text("")
    with pytest.raises(BenchmarkError, match=r"metrics.json must hold the figures of an evaluation, got none"):
        small_benchmark._last_figures(file)


@pytest.fixture
def small_data(shared, tmp_path) -> Path:
    """A few images of both data sets."""
    for name in DATASETS:
        source, target = shared / "data" / name, tmp_path / "data" / name
        (target / "annotations").mkdir(parents=True)
        (target / "images").symlink_to(source / "images")
        for split in ("train", "val"):
            file = f"annotations/instances_{split}.json"
            subset_of_coco(source / file, target / file, 4)
    return tmp_path / "data"


TINY = (
    "MODEL.RESNETS.DEPTH",
    "50",
    "SOLVER.MAX_ITER",
    "2",
    "INPUT.MIN_SIZE_TRAIN",
    "(64,64)",
    "INPUT.MIN_SIZE_TEST",
    "64",
)


def test_a_training_that_fails_names_its_log(small_data, tmp_path, monkeypatch):
    pytest.importorskip("detectron2")
    from small_benchmark import run

    monkeypatch.setattr(small_benchmark, "_NUM_DIGIT_IMAGES", (8, 4))
    arguments = ["--data", small_data, "--output-dir", tmp_path / "out", "--recipe", "cpu", "--seeds", 1]
    with pytest.raises(SystemExit) as caught:
        run([*map(str, arguments), "--", "MODEL.NONE", "1"])
    log = tmp_path / "out" / "digits_resnet50" / "console.txt"
    assert f"error: mask_rcnn_resnet50_fpn_digits_cpu failed with status 1; its log is {log}" in str(caught.value)
    assert "MODEL.NONE" in log.read_text()


@pytest.mark.slow
def test_the_whole_benchmark_runs_and_what_is_done_is_used_again(small_data, tmp_path):
    pytest.importorskip("detectron2")
    arguments = ("--data", small_data, "--output-dir", tmp_path / "out", "--recipe", "cpu", "--seeds", 1, "--", *TINY)
    status, output = run_tool("small_benchmark", *arguments, timeout=900)
    assert status == 0, output
    assert "[8/8]" in output and "| nuclei | digits | mask AP |" in output
    log = (tmp_path / "out" / "bccd_resnest50_digits_1" / "console.txt").read_text()
    assert "digits_resnest50/model_final.pth" in log and "filled" in log
    records = read_records(tmp_path / "out" / "small_benchmark.json")
    assert records.keys() == DATASETS.keys()
    assert all(len(kept.runs) == 4 and kept.pretraining.keys() == set(NETWORKS) for kept in records.values())
    status, again = run_tool("small_benchmark", *arguments, timeout=60)
    assert status == 0 and again.splitlines()[-8:] == output.splitlines()[-8:]
