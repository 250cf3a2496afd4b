"""The benchmark measures what it says, with real peers; nothing here asserts a time."""

import argparse
import json
from importlib.metadata import version

import pytest
import torch

from resnest_backbones import build, get_variant
from tools import benchmark
from tools.benchmark import LIMIT, OURS, Case, Result, contenders, convolution_flops, parse_size, table

SMALL = Case("resnest50", 64, 96, 1, "float32")


def test_the_peers_compute_features_of_the_same_shapes():
    x = torch.randn(1, 3, 64, 96)
    wanted = [tuple(value.shape) for value in build("resnest50").eval()(x).values()]
    with torch.inference_mode():
        for name, features in contenders(SMALL, torch.device("cpu")).items():
            found = features(x)
            shapes = [tuple(value.shape) for value in (found.values() if isinstance(found, dict) else found)]
            assert shapes == wanted, name


def test_every_installed_peer_takes_part_in_both_memory_formats():
    for package in ("resnest", "timm", "mmseg"):
        pytest.importorskip(package)
    names = contenders(SMALL, torch.device("cpu"))
    peers = [f"{name}{suffix}" for name in benchmark._PEERS for suffix in ("", ", channels_last")]
    assert list(names) == [OURS, "not optimised", *peers]


def test_the_limit_counts_all_convolutions_and_nothing_else():
    flops = convolution_flops(Case("resnest50", 800, 800, 1, "float32"))
    all_of_it = 2 * get_variant("resnest50").multiply_adds * (800 / 224) ** 2
    assert flops < all_of_it and flops == pytest.approx(all_of_it, rel=0.01)  # norms and the head are little
    assert convolution_flops(Case("resnest50", 800, 800, 8, "float32")) == 8 * flops


def test_the_table_gives_ratios_to_ours():
    result = Result(SMALL, {OURS: 10.0, "timm": 25.0, LIMIT: 8.0}, 100.0)
    lines = table([result]).splitlines()
    assert lines[0] == "resnest50, 1 x 3 x 64 x 96, float32 (limit: 100 GFLOP/s)"
    assert lines[4:7] == ["| optimised | 10.0 | 1.00 |", "| timm | 25.0 | 2.50 |", "| limit | 8.0 | 0.80 |"]


def test_a_run_writes_figures_table_and_chart(tmp_path, capsys):
    benchmark.run(
        ["--sizes", "32x64", "--rounds", "2", "--dtypes", "float32", "bfloat16", "--output-dir", str(tmp_path)]
    )
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert [result["case"]["dtype"] for result in content["results"]] == ["float32", "bfloat16"]
    assert all(value > 0 for result in content["results"] for value in result["milliseconds"].values())
    assert content["versions"]["torch"] == version("torch") and content["rounds"] == 2
    assert "| optimised |" in (tmp_path / "benchmark.md").read_text()
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert "| optimised |" in capsys.readouterr().out


def test_wrong_arguments_are_named(capsys):
    assert parse_size("800x1333") == (800, 1333) and parse_size("224") == (224, 224)
    with pytest.raises(argparse.ArgumentTypeError, match="must be HEIGHTxWIDTH of 32 pixels and more, got '8x9'"):
        parse_size("8x9")
    with pytest.raises(SystemExit, match="2"):
        benchmark.run(["--rounds", "0"])
    assert "--rounds, --batches and --threads must be positive" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="name must be one of"):
        benchmark.run(["--networks", "resnet", "--sizes", "32", "--rounds", "1"])
