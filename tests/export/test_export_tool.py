"""``tools/export.py`` for trunks: files, the table of differences, and one line for mistakes."""

import pytest
import torch

from export import run
from resnest_backbones import build
from resnest_backbones.export import load
from tests.acceleration.test_inference import trained
from tests.helpers import error_of


def export(*arguments: object) -> None:
    run([str(argument) for argument in arguments])


def test_a_trunk_with_its_weights_is_written_compared_and_read_again(tmp_path, capsys):
    net = trained(build("resnest14", num_classes=3))
    torch.save(net.state_dict(), tmp_path / "trunk.pth")
    options = ["--num-classes", 3, "--out-features", "res3", "logits", "--size", "64x96", "--check-sizes", "33x65"]
    output = ["--formats", "torchscript", "--name", "a", "--output-dir", tmp_path]
    export("resnest14", tmp_path / "trunk.pth", *options, *output)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"torchscript: {tmp_path / 'a.torchscript'} (")
    assert [line.split()[:2] for line in printed[2:]] == [
        [size, output] for size in ("2x3x64x96", "1x3x33x65") for output in ("res3", "logits")
    ]
    x = torch.randn(1, 3, 65, 64)
    with torch.no_grad():
        wanted = net(x)
    res3, logits = load(tmp_path / "a.torchscript").run(x)
    assert torch.allclose(res3, wanted["res3"], rtol=1e-4, atol=1e-5)
    assert torch.allclose(logits, wanted["logits"], rtol=1e-4, atol=1e-5)


def test_a_difference_above_the_tolerance_is_told_and_ends_with_status_1(tmp_path, capsys):
    arguments = ["resnest14", "random", "--formats", "torchscript", "--size", 64, "--check-sizes"]
    with pytest.raises(SystemExit) as status:
        export(*arguments, "--tolerance", -1, "--out-features", "res2", "--output-dir", tmp_path)
    assert status.value.code == 1
    assert "torchscript: NOT EQUAL: res2 at 2x3x64x64 differs by 0.0e+00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("resnest15 random", "a config file or a config name, got resnest15; did you mean resnest152"),
        ("resnest14 nothing.pth", "nothing.pth"),
        ("resnest14 random --formats onnx --opset 7", "onnx: opset must be one of 18, 19, 20, got 7"),
        ("resnest14 random --num-classes 0", "num_classes must be a positive integer, got 0"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, tmp_path):
    assert message in error_of(run, *arguments.split(), "--output-dir", tmp_path)
