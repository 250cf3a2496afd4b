"""The benchmark measures what it says, with real peers; nothing here asserts a time."""

import argparse
import json
import re
from importlib.metadata import version
from importlib.util import find_spec

import pytest
import torch

from benchmark import run
from benchmarks import engines
from benchmarks.cases import LIMIT, Case, Result
from benchmarks.measure import contenders, convolution_flops, kept_for_backward, measure
from benchmarks.report import table
from benchmarks.trunks import KEEPING, OURS, OURS_TRAINING
from resnest_backbones import build, get_variant
from resnest_backbones.commands.export import parse_size
from tests.documents.pages import table_rows

CPU = torch.device("cpu")
ENGINES = [e + suffix for e in ("onnxruntime", "openvino") if find_spec(e) for suffix in ("", ", int8")]
SMALL = Case("resnest50", 64, 96, 1, "float32")
SMALL_STEP = Case("resnest50", 64, 96, 2, "float32", "training")


def shapes(features: object) -> list[tuple[int, ...]]:
    values = features.values() if isinstance(features, dict) else features
    return [tuple(value.shape) for value in values]


@pytest.mark.parametrize("case", [SMALL, SMALL_STEP])
def test_every_installed_peer_takes_part_in_both_memory_formats_with_features_of_the_same_shapes(case):
    for package in ("resnest", "timm", "mmseg"):
        pytest.importorskip(package)
    wanted = shapes(build("resnest50").eval()(torch.randn(case.batch, 3, 64, 96)))
    found = contenders(case, CPU)
    with torch.no_grad():
        for name, make in found.items():
            if (case.trains and not name.startswith("ours")) or name in ENGINES:
                continue  # the peers of both cases are the same, and engines take long to write their files
            contender = make()
            assert shapes((contender.forward or contender.run)()) == wanted, name
    suffixes = ("", ", channels_last")
    others = [f"{name}{suffix}" for name in ("original", "timm", "mmseg", "ResNet-50-D") for suffix in suffixes]
    trained = [f"{name}{suffix}" for name in (OURS_TRAINING, KEEPING) for suffix in suffixes]
    assert list(found) == ([*trained, *others] if case.trains else [OURS, "ours, not optimised", *ENGINES, *others])


@pytest.mark.slow
def test_engines_compute_the_features(monkeypatch):
    pytest.importorskip("onnxruntime")
    net = build("resnest14").eval()
    monkeypatch.setattr(engines, "build", lambda name: net)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = net(x).values()
    for name, make in engines.engine_contenders("resnest14", x):
        for found, value in zip(make().run(), wanted, strict=True):
            error = (torch.as_tensor(found) - value).norm() / value.norm()
            assert error < (0.2 if name.endswith("int8") else 1e-5), name


def test_the_limit_counts_all_convolutions_and_nothing_else():
    flops = convolution_flops(Case("resnest50", 800, 800, 1, "float32"))
    all_of_it = 2 * get_variant("resnest50").multiply_adds * (800 / 224) ** 2
    assert flops < all_of_it and flops == pytest.approx(all_of_it, rel=0.01)  # norms and the head are little
    assert convolution_flops(Case("resnest50", 800, 800, 8, "float32")) == 8 * flops


def test_what_is_kept_for_backward_is_counted_once():
    x, weight = torch.randn(5, 3), torch.randn(3, 3, requires_grad=True)
    assert kept_for_backward(lambda: (x @ weight) * weight.sum()) == 4 * (15 + 9 + 15 + 1) - 4 * 9
    assert kept_for_backward(lambda: x @ x.T) == 0


@pytest.mark.slow
def test_a_training_step_is_measured_in_time_and_memory():
    result = measure(SMALL_STEP, rounds=1, device=CPU, only=[OURS_TRAINING, KEEPING, "original"], profiled=True)
    assert list(result.kept) == [name for name in result.milliseconds if name != LIMIT]
    assert all(value > 0 for value in (*result.milliseconds.values(), result.gigabytes_per_second))
    assert result.kept[OURS_TRAINING] < result.kept[KEEPING] <= result.kept["original"]
    title, times, *profile = table(result).split("\n\n")
    assert title.startswith("training, resnest50, 2 x 3 x 64 x 96, float32 (")
    assert "relative to the first |   kept for backward (MiB) |" in times
    assert profile[-2] == "original, one run under the profiler:"
    assert "aten::convolution_backward" in profile[-1] and "Self CPU" in profile[-1]


def test_whole_detectors_take_part():
    for package in ("detectron2", "resnest"):
        pytest.importorskip(package)
    found = contenders(Case("resnest50", 64, 64, 1, "float32", "detector inference"), CPU)
    assert list(found) == ["ours, optimised", "ours", "original", "ResNet-50"]
    with torch.no_grad():
        (output,) = found["original"]().run()
    assert "instances" in output


@pytest.mark.slow
@pytest.mark.parametrize("what", ["detector inference", "detector training"])
def test_whole_detectors_are_measured(what):
    result = measure(Case("resnest50", 64, 96, 2, "float32", what), rounds=1, device=CPU)
    names = [] if what.endswith("training") else ["ours, optimised"]
    assert list(result.milliseconds) == [*names, "ours", "original", "ResNet-50"]


def test_the_table_gives_ratios_to_the_first():
    result = Result(SMALL, {OURS: 10.0, "timm": 25.0, LIMIT: 8.0}, 100.0, 120.0, 12.34, {}, {"timm": 7.0})
    title, _, rows = table(result).partition("\n\n")
    rates = "one large convolution: 100 GFLOP/s, a large matrix product: 120, copies at 12.3 GB/s"
    assert title == f"inference, resnest50, 1 x 3 x 64 x 96, float32 ({rates})"
    assert table_rows(rows) == [
        [OURS, "10.0", "100.0", "1.00", ""],
        ["timm", "25.0", "40.0", "2.50", "7"],
        [LIMIT, "8.0", "125.0", "0.80", ""],
    ]


@pytest.mark.parametrize("dtypes", [["float32"], pytest.param(["float32", "bfloat16"], marks=pytest.mark.slow)])
def test_a_run_writes_metrics_table_and_chart(dtypes, tmp_path, capsys):
    only = ["--only", OURS, "original", *(["original, autocast"] if "bfloat16" in dtypes else [])]
    arguments = ["--sizes", "32x64", "--rounds", "1", "--dtypes", *dtypes, *only]
    run([*arguments, "--output-dir", str(tmp_path)])
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert [result["case"]["dtype"] for result in content["results"]] == dtypes
    assert all(value > 0 for result in content["results"] for value in result["milliseconds"].values())
    assert ("original, autocast" in content["results"][-1]["milliseconds"]) == ("bfloat16" in dtypes)
    assert content["versions"]["torch"] == version("torch") and content["rounds"] == 1
    assert f"| {OURS} " in (tmp_path / "benchmark.md").read_text()
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert f"| {OURS} " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("what", ["inference", "training"])
def test_compiled_contenders_take_part(what):
    found = contenders(Case("resnest50", 64, 64, 2, "float32", what, compiled=True), CPU)
    assert {"original, compiled", "timm, channels_last, compiled"} < found.keys()
    with torch.inference_mode(what == "inference"):
        found["ours, compiled"]().run()


def test_wrong_arguments_are_named(capsys):
    assert parse_size("800x1333") == (800, 1333) and parse_size("224") == (224, 224)
    with pytest.raises(argparse.ArgumentTypeError, match="must be HEIGHTxWIDTH of at least 32 pixels each, got '8x9'"):
        parse_size("8x9")
    with pytest.raises(SystemExit, match="2"):
        run(["--rounds", "0"])
    assert "--rounds, --batches and --threads must be positive" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(["--networks", "resnet", "--sizes", "32", "--rounds", "1"])
    assert "name must be one of" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(["--sizes", "32", "--rounds", "1", "--only", "mine"])
    assert re.search("--only must name contenders .*; original; .*, got mine", capsys.readouterr().err)
