"""The small benchmark compares networks and nothing else, and its table says what its record holds."""

import math
from collections.abc import Mapping

import pytest

import small_benchmark
from benchmarks import small_records
from benchmarks.small_records import DATASETS, NETWORKS, STARTS, SmallRecord, SmallRun, read_records, write_record
from resnest_backbones.errors import ResNeStError
from small_benchmark import config_file, train
from tests.documents.pages import table_rows
from tests.helpers import flat, run_tool, subset_of_coco

TRAININGS = [(dataset.method, name) for name, dataset in DATASETS.items()] + [("mask_rcnn", "digits")]


def resolved(method: str, network: str, dataset: str, recipe: str) -> dict[str, object]:
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg

    from resnest_backbones.detectron2 import add_resnest_config

    cfg = get_cfg()
    add_resnest_config(cfg)
    cfg.merge_from_file(str(config_file(method, network, dataset, recipe)))
    return flat(cfg)


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> set[str]:
    assert one.keys() == other.keys()
    return {key for key in one if one[key] != other[key]}


@pytest.mark.parametrize(("method", "dataset"), TRAININGS)
def test_networks_have_one_recipe_and_the_shorter_one_differs_in_schedule_and_size_alone(method, dataset):
    for recipe in ("gpu", "cpu"):
        resnet, resnest = (resolved(method, network, dataset, recipe) for network in NETWORKS)
        assert differences(resnet, resnest) == {"MODEL.BACKBONE.NAME"}
        assert resnet["MODEL.WEIGHTS"] == "" and resnet["MODEL.BACKBONE.FREEZE_AT"] == 0
        assert resnet["MODEL.RESNETS.DEPTH"] == 50 and resnet["MODEL.RESNETS.NORM"] == "BN"
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
    command = f"command of {dataset}"
    return SmallRecord(dataset, "cpu", command, "2030-01-31", "a machine", versions, digits, tuple(made))


def test_the_table_has_means_deviations_and_the_difference():
    bccd = record(resnet50=[10.0, 12.0, 14.0], resnest50=[11.0, 12.0, 12.0])
    nuclei = record("nuclei", resnet50=[1.0], resnest50=[2.0])
    cells = ["12.00 ± 2.00", "11.67 ± 0.58", "-0.33", "3"]
    assert table_rows(small_records.small_table({"bccd": bccd, "nuclei": nuclei})) == [
        ["blood cells (BCCD)", "scratch", "box AP", *cells],
        ["blood cells (BCCD)", "scratch", "box AP50", *cells],
        *(["nuclei", "scratch", metric, "1.00", "2.00", "+1.00", "1"] for metric in ("box AP", "mask AP", "mask AP50")),
    ]
    # Of an interrupted benchmark, what there is.
    for there, cells in (
        (record(resnet50=[10.0, 12.0], resnest50=[11.0]), ["11.00 ± 1.41", "11.00", "+0.00", "1 and 2"]),
        (record(resnet50=[10.0]), ["10.00", "", "", "0 and 1"]),
    ):
        assert table_rows(small_records.small_table({"bccd": there}))[0][3:] == cells


def test_a_record_is_read_as_it_was_written_and_leaves_those_of_other_datasets(tmp_path):
    file = tmp_path / "record.json"
    nuclei, bccd, again = record("nuclei", resnet50=[1.0]), record(resnet50=[2.0]), record(resnet50=[3.0])
    write_record(nuclei, file)
    write_record(bccd, file)
    assert list(read_records(file).items()) == [("bccd", bccd), ("nuclei", nuclei)]
    write_record(again, file)
    assert read_records(file) == {"bccd": again, "nuclei": nuclei}


def test_the_published_records_are_whole():
    records = read_records()
    assert records.keys() == DATASETS.keys()
    for dataset, kept in records.items():
        seeds = {run.seed for run in kept.runs}
        wanted = {(net, start, seed) for net in NETWORKS for start in STARTS for seed in seeds}
        assert {(run.network, run.start, run.seed) for run in kept.runs} == wanted
        assert len(seeds) >= 3 and len(kept.runs) == len(wanted) and kept.pretraining.keys() == set(NETWORKS)
        for run in kept.runs:
            assert run.metrics.keys() == DATASETS[dataset].metrics.keys()
            assert all(0 <= value <= 100 for value in run.metrics.values())


def test_wrong_arguments_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"error: \S+bccd must hold images/ and .*bccd/images does not exist"):
        small_benchmark.run(["--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        small_benchmark.run(["--data", str(tmp_path), "--seeds", "1", "1"])
    assert "--seeds must be distinct numbers, 0 or more, got 1 1" in capsys.readouterr().err


def test_a_detector_that_finds_nothing_has_an_ap_of_0():
    metrics = {"bbox/AP": 12.3456, "bbox/AP50": math.nan}
    assert [small_benchmark._percent(metrics, name) for name in (*metrics, "segm/AP")] == [12.346, 0.0, 0.0]


def test_a_training_leaves_its_metrics_and_a_failed_one_names_its_log(tmp_path, monkeypatch):
    tool, log = tmp_path / "train_net.py", tmp_path / "out" / "console.txt"
    monkeypatch.setattr(small_benchmark, "TOOLS", tmp_path)
    arguments = (tmp_path / "out", config_file("mask_rcnn", "resnet50", "digits", "cpu"), ["SEED", "1"])
    tool.write_text("import sys\nprint('trains')\nsys.exit(3)\n")
    with pytest.raises(ResNeStError, match=f"digits_cpu failed with status 3; its log is {log}"):
        train(*arguments)
    assert log.read_text().splitlines() == ["trains"]
    tool.write_text("import pathlib, sys\npathlib.Path(sys.argv[-1], 'metrics.json').touch()\n")
    with pytest.raises(ResNeStError, match=r"metrics.json has no evaluation metrics"):
        train(*arguments)
    tool.write_text(
        "import pathlib, sys\npathlib.Path(sys.argv[-1], 'metrics.json').write_text('{\"bbox/AP\": 40.0}')\n"
    )
    assert train(*arguments) == {"bbox/AP": 40.0}


TINY = (
    *("MODEL.RESNETS.DEPTH", "50", "SOLVER.MAX_ITER", "2"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,64)", "INPUT.MIN_SIZE_TEST", "64"),
)


@pytest.mark.slow
def test_the_whole_benchmark_runs_and_finished_trainings_are_used_again(shared, tmp_path):
    pytest.importorskip("detectron2")
    data = tmp_path / "data"
    for name in DATASETS:
        source, target = shared / "data" / name, data / name
        (target / "annotations").mkdir(parents=True)
        (target / "images").symlink_to(source / "images")
        for split in ("train", "val"):
            file = f"annotations/instances_{split}.json"
            subset_of_coco(source / file, target / file, 4)
    arguments = ("--data", data, "--output-dir", tmp_path / "out", "--recipe", "cpu", "--seeds", 1, "--", *TINY)
    status, output = run_tool("small_benchmark", *arguments, timeout=900)
    assert status == 0, output
    assert "[8/8]" in output
    log = (tmp_path / "out" / "bccd_resnest50_digits_1" / "console.txt").read_text()
    assert "digits_resnest50/model_final.pth" in log and "tensors match" in log
    records = read_records(tmp_path / "out" / "small_benchmark.json")
    assert records.keys() == DATASETS.keys()
    assert all(len(kept.runs) == 4 and kept.pretraining.keys() == set(NETWORKS) for kept in records.values())
    status, refused = run_tool("small_benchmark", *arguments, "SOLVER.BASE_LR", "0.1", timeout=60)
    assert status == 1 and "has different settings (python tools/small_benchmark.py " in refused
    status, again = run_tool("small_benchmark", *arguments, timeout=60)
    assert status == 0 and again.splitlines()[-8:] == output.splitlines()[-8:]
