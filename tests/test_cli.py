"""The command ``resnest-backbones``, as users and scripts call it."""

import json
import subprocess
import sys
from importlib import metadata
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from resnest_backbones import VARIANTS, build, cli, model_zoo
from resnest_backbones.cli import EXAMPLES, main
from resnest_backbones.commands import COMMANDS, PROGRAM, print_next
from resnest_backbones.errors import INSTALL
from resnest_backbones.model_zoo import RECIPES
from resnest_backbones.weights import PUBLISHED, WEIGHTS
from tests.helpers import environment, error_of, publishing

TRAINED = "deeplabv3_resnest101-d8_4xb4-160k_ade20k-512x512"

ROOT = Path(__file__).resolve().parents[1]


def said(capsys, *words):
    main(list(map(str, words)))
    return capsys.readouterr().out


def test_list_prints_each_network_and_each_config(capsys):
    rows = {row["name"]: row for row in json.loads(said(capsys, "list", "--json"))}
    assert list(rows) == list(VARIANTS)
    assert rows["resnest50"]["params_m"] == 27.5 and rows["resnest50"]["top1"] == 81.03
    text = said(capsys, "list")
    assert all(f"\n{name} " in text for name in VARIANTS)
    configs = {row["name"]: row for row in json.loads(said(capsys, "list", "--configs", "--json"))}
    assert list(configs) == model_zoo.list()
    for name, recipe in RECIPES.items():
        assert configs[name]["framework"] == recipe.framework and configs[name]["published"] == dict(recipe.metrics)


def test_info_of_a_network_has_cost_weights_and_the_configs_on_it(capsys):
    facts = json.loads(said(capsys, "info", "resnest50", "--json"))
    assert facts["params"] == VARIANTS["resnest50"].params and facts["radix"] == 2
    assert facts["weights"]["url"] == WEIGHTS["resnest50"].url
    assert facts["configs"]["faster_rcnn_resnest50_fpn_1x"] == {"box_ap": 42.33}
    assert not any("fast_" in name or "resnest101" in name for name in facts["configs"])
    text = said(capsys, "info", "resnest50")
    assert "27,483,240" in text and "resnest://resnest50" in text and text.rstrip().endswith("download resnest50")
    assert json.loads(said(capsys, "info", "resnest152", "--json"))["weights"] is None


def test_each_config_of_a_resnest_is_of_one_network(capsys):
    for name in model_zoo.list():
        facts = json.loads(said(capsys, "info", name, "--json"))
        assert facts["file"] == model_zoo.get_config_file(name)
        assert ("resnest" in name) == (facts["network"] is not None), name
        if name in RECIPES and facts["network"]:
            assert RECIPES[name].backbone.removesuffix("_dcnv2") == facts["network"]
    assert "published" in said(capsys, "info", "faster_rcnn_resnest50_fpn_1x")


def test_a_wrong_name_is_one_line_with_a_hint():
    line = error_of(main, "info", "resnest5O")
    assert line.startswith("resnest-backbones: error: NAME must be a network, a config or a checkpoint file")
    assert "did you mean" in line
    assert "`resnest-backbones list`" in error_of(main, "info", "zzzzzz")
    assert "no published weights are known for 'resnest152'" in error_of(main, "download", "resnest152")
    assert "is offline" in error_of(main, "download", "faster_rcnn_resnest50_fpn_1x")


def test_download_fetches_verifies_and_says_where(capsys, tmp_path, monkeypatch):
    state = build("resnest14", num_classes=10).state_dict()
    for name in ("resnest50", TRAINED):
        with publishing(name, state, tmp_path, monkeypatch):
            found = json.loads(said(capsys, "download", name, "--cache-dir", tmp_path / "cache", "--json"))
            text = said(capsys, "download", f"resnest://{name}")
        assert Path(found["file"]).parent == tmp_path / "cache" and Path(found["file"]).is_file()
        assert f"use it as resnest://{name}" in text and "100%" not in text


def test_trained_models_are_listed_and_known(capsys):
    names = [row["name"] for row in json.loads(said(capsys, "list", "--trained", "--json"))]
    assert names == model_zoo.list_trained() and TRAINED in names
    assert all(f"\n{name} " in said(capsys, "list", "--trained") for name in names)
    facts = json.loads(said(capsys, "info", TRAINED, "--json"))
    assert facts["published"] == {"miou": 45.71, "miou_multi_scale": 46.59} and facts["classes"] == 150
    weights = facts["weights"]
    assert weights["url"] == PUBLISHED[TRAINED].url and weights["use_as"] == f"resnest://{TRAINED}"
    assert (weights["license"], weights["sha256_prefix"]) == ("Apache-2.0", "17ecabe5")
    assert said(capsys, "info", TRAINED).rstrip().endswith(f"download {TRAINED}")
    assert json.loads(said(capsys, "info", "faster_rcnn_resnest50_fpn_1x", "--json"))["weights"] is None


def test_convert_writes_another_layout(capsys, tmp_path):
    source, target = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save(build("resnest14").state_dict(), source)
    found = json.loads(said(capsys, "convert", source, target, "--to", "detectron2", "--json"))
    assert found["tensors"] == len(torch.load(target)["model"]) > 100
    assert "pth exists" in error_of(main, "convert", source, target, "--to", "detectron2")


def test_doctor_reports_this_environment(capsys):
    report = cli.diagnose()
    assert report["packages"]["torch"] and report["problems"] == []
    for framework, module in cli.PLUGINS.items():
        try:
            __import__(framework)
        except ImportError:
            assert report["plugins"][framework] == f"not installed: {INSTALL[framework]}"
        else:
            assert report["plugins"][framework].startswith("works"), module
    assert "no problems found" in said(capsys, "doctor")


def test_doctor_names_the_command_for_what_is_missing(monkeypatch, tmp_path):
    distributions = metadata.distributions
    monkeypatch.setattr(metadata, "distributions", lambda name: [] if "onnx" in name else distributions(name=name))
    command = "pip install 'resnest-backbones[export]'"
    assert cli.find_missing().get("export") == f"onnx, onnxruntime, onnxscript: {command}"
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no"))
    (problem,) = cli.diagnose()["problems"]
    assert str(tmp_path) in problem and problem.endswith(
        "cannot be written: choose another with export TORCH_HOME=FOLDER"
    )


@pytest.mark.parametrize(
    ("packages", "problem"),
    [
        (
            {"opencv-python": "5", "opencv-python-headless": "5"},
            "pip uninstall -y opencv-python opencv-python-headless &&",
        ),
        ({"onedl-mmsegmentation": "1", "mmsegmentation": "1"}, "onedl-mmsegmentation and mmsegmentation install the"),
        ({"onedl-mmcv": "2", "mmcv-lite": "2", "numpy": "2.1"}, "onedl-mmcv and mmcv-lite install the same"),
        ({"onedl-mmcv": "2", "numpy": "1.26.4"}, "onedl-mmcv needs numpy 2, got 1.26.4"),
        ({"detectron2": "0.6", "sal-detectron2": "0.7"}, "detectron2 and sal-detectron2 install the same"),
        ({"torch": "2.14.1"}, "torch 2.14.1 needs torchvision 0.29, got none"),
        ({"sal-detectron2": "0.7", "setuptools": "82.0"}, "pip install 'setuptools<81'"),
        ({"torchvision": "0.28.0", "torch": "2.14.1+cu130"}, "torch 2.14.1+cu130 needs torchvision 0.29"),
    ],
)
def test_doctor_knows_what_clashes(packages, problem):
    (found,) = cli.find_clashes(packages)
    assert problem in found


def test_doctor_knows_which_pythons_work():
    assert cli.find_clashes({}, (3, 12)) == []
    assert "use 3.10 to 3.13" in cli.find_clashes({}, (3, 9))[0]


def test_the_module_and_the_script_are_the_same_command():
    command = [sys.executable, "-m", "resnest_backbones", "info", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    (script,) = entry_points(group="console_scripts", name="resnest-backbones")
    assert script.load() is main


@pytest.mark.parametrize("command", EXAMPLES)
def test_the_help_of_a_command_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert EXAMPLES[command] in " ".join(capsys.readouterr().out.split())


def test_the_next_command_can_be_typed_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    print_next("see", "tools/demo.py", "--model", tmp_path / "a model.onnx", "IMAGE")
    text, command = capsys.readouterr().out.splitlines()
    assert text == "Next, see:"
    assert command.endswith("tools/demo.py --model 'a model.onnx' IMAGE")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_of_the_tools_are_those_of_a_checkout_under_another_name(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {PROGRAM} {name} ") and printed.count(f"{PROGRAM} {name} ") > 1  # its examples
    script = (ROOT / "tools" / f"{name.replace('-', '_')}.py").read_text()
    assert f"from resnest_backbones.commands.{name.replace('-', '_')} import" in script


@pytest.mark.parametrize(
    ("name", "where"), [("evaluate", "train-net --eval-only"), ("visualize", "tools/visualize.py")]
)
def test_what_is_no_command_is_answered_with_where_it_is(name, where):
    with pytest.raises(SystemExit, match=f"^resnest-backbones {name}: error: .*{where}"):
        main([name, "--help"])


def test_an_installed_command_names_installed_ones_as_the_next(monkeypatch, capsys):
    for program in (f"/usr/bin/{PROGRAM}", "/somewhere/resnest_backbones/__main__.py"):
        monkeypatch.setattr("sys.argv", [program, "train-seg"])
        print_next("test the trained model", "tools/test_seg.py", "config.py")
        print_next("draw curves", "tools/curves.py", "output")
        printed = capsys.readouterr().out
        assert f"  {PROGRAM} test-seg config.py\n" in printed and "tools/curves.py output\n" in printed
