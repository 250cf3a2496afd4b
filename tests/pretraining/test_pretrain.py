"""``tools/pretrain.py`` end to end: trainings of a tiny network on images that their colour tells apart."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("timm")
pytest.importorskip("tensorboard")

import pretrain
import resnest_backbones as rb
from pretraining import recipe, train
from resnest_backbones import cli
from resnest_backbones.outputs import read_metrics
from tests.helpers import ROOT, error_of

TINY = rb.ResNeStSpec("tiny", (1, 1, 1, 1), stem_width=8, bottleneck_width=8)
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 60, 40)}
QUICK = shlex.split("--crop 32 --batch-size 6 --workers 0 --lr 0.003 --log-period 2 --warmup-epochs 1")


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(rb.VARIANTS, "tiny", TINY)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three classes: eight images of each to train on, four to evaluate on."""
    return make_data(tmp_path_factory.mktemp("data"))


def make_data(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.normal(colour, 25, (40, 36, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def run(*words: object, network: str | None = "tiny") -> None:
    pretrain.run([*QUICK, *(("--network", network) if network else ()), *map(str, words)])


def fails(*words: object, network: str | None = "tiny") -> str:
    return error_of(lambda arguments: run(*arguments, network=network), *words)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, str]:
    """The output folder and the console of a whole training."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rb.VARIANTS, "tiny", TINY)
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *text, **_: lines.append(" ".join(map(str, text))))
        options = ("--drop-block", 0.1, "--ema", 0.5, "--auto-augment", "none", "--mixup", 0)
        run("--data", data, "--epochs", 6, "--output-dir", folder, *options)
    return folder, "\n".join(lines)


def test_a_training_learns_and_leaves_what_it_says(trained, capsys):
    folder, console = trained
    assert {file.name for file in folder.iterdir() if "events" not in file.name} == {
        "best.pth", "last.pth", "metrics.json", "curves.png",
    }  # fmt: skip
    assert len([*folder.glob("events.*")]) == 1
    best, last = (torch.load(folder / name, weights_only=True) for name in ("best.pth", "last.pth"))
    assert best["top1"] >= 75 and best["classes"] == [*COLOURS] and last["epoch"] == 6
    curves = read_metrics(folder / "metrics.json")
    assert curves["top1"][0] == [4 * epoch for epoch in range(1, 7)] and max(curves["top1"][1]) == best["top1"]
    assert min(curves["loss"][1]) < 0.8 * curves["loss"][1][0]
    assert re.search(r"epoch 6/6, iteration 24/24: loss \d\.\d+, rate \S+, \S+ images/s, 0 minutes left", console)
    assert "train_net.py --config-file faster_rcnn_resnest50_fpn_1x MODEL.RESNETS.DEPTH tiny" in console
    assert f"MODEL.WEIGHTS {folder / 'best.pth'}" in console
    # The average, that --ema asked for, is what was evaluated and saved.
    assert all(torch.equal(value, last["state_dict_ema"][key]) for key, value in best["state_dict"].items()) == (
        best["epoch"] == 6
    )
    cli.main(["info", str(folder / "best.pth")])
    shown = capsys.readouterr().out
    assert re.search(r"classes +blue, green, red\n", shown) and re.search(r"num_classes +3\n", shown)
    assert re.search(r"network +tiny\n", shown) and re.search(r"top1 +\d+", shown)


def test_a_detector_starts_from_its_trunk(trained):
    pytest.importorskip("detectron2")
    from resnest_backbones.detectron2 import ResNeStCheckpointer

    trunk = rb.ResNeSt(TINY)
    ResNeStCheckpointer(trunk).load(str(trained[0] / "best.pth"))
    weights = torch.load(trained[0] / "best.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[key]) for key, value in trunk.named_parameters())


def test_evaluating_the_best_checkpoint_gives_the_accuracy_that_the_training_saw(trained, data, tmp_path, capsys):
    words = ("--data", data, "--eval-only", trained[0] / "best.pth", "--output-dir", tmp_path)
    run(*words, network=None)
    out = capsys.readouterr().out
    best = torch.load(trained[0] / "best.pth", weights_only=True)
    assert re.search(rf"top-1 +\| +{best['top1']:.2f} \|", out) and "tiny, 12 images" in out and "crop 32" in out
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"iteration": 0, "top1": best["top1"]}


def test_a_file_with_a_published_name_is_shown_beside_the_published_figure(data, tmp_path, capsys, fill_randomly):
    net = recipe.make_network("resnest14", 3)
    file = tmp_path / rb.weights.WEIGHTS["resnest14"].filename
    torch.save(rb.convert_state_dict(net.state_dict(), "timm"), file)
    pretrain.run(["--data", str(data / "val"), "--eval-only", str(file), "--workers", "0"])
    out = capsys.readouterr().out
    found = re.search(r"top-1 +\| +(\S+) \| +75\.51 \| +(\S+) \|", out)
    assert float(found[2]) == pytest.approx(float(found[1]) - 75.51, abs=0.01) and "resnest14, 12 images" in out


@pytest.mark.parametrize(
    "options",
    [
        ("--ema", "0.9", "--drop-block", "0.1", "--dropout", "0.2"),
        pytest.param(("--amp", "--channels-last"), marks=pytest.mark.slow),
        pytest.param(("--compile", "aot_eager"), marks=pytest.mark.slow),  # inductor takes minutes
    ],
)
def test_a_training_that_was_killed_in_an_epoch_resumes_to_equal_weights(data, tmp_path, monkeypatch, options):
    words = ("--data", data, "--epochs", 2, *options)
    run(*words, "--output-dir", tmp_path / "whole")
    mix_up, calls = recipe.mix_up, []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 7:  # in the second epoch of four iterations
            raise KeyboardInterrupt
        return mix_up(*args, **kwargs)

    monkeypatch.setattr(recipe, "mix_up", killed)
    with pytest.raises(SystemExit) as ended:
        run(*words, "--output-dir", tmp_path / "killed")
    assert ended.value.code == 130
    run(*words, "--output-dir", tmp_path / "killed", "--resume")
    whole, resumed = (torch.load(tmp_path / name / "last.pth", weights_only=True) for name in ("whole", "killed"))
    for part in ("state_dict", "state_dict_ema"):
        for key, value in whole.get(part, {}).items():
            assert torch.equal(value, resumed[part][key]), key
    assert whole["best"] == resumed["best"]
    again = re.escape(str(tmp_path / "killed" / "last.pth"))
    with pytest.raises(SystemExit, match=rf"--resume continues {again}, which was trained with --epochs 2, got 4"):
        run("--data", data, "--epochs", 4, *options, "--output-dir", tmp_path / "killed", "--resume")


def test_grey_and_16_bit_images_are_trained_on_and_earlier_runs_are_set_aside(tmp_path):
    for split in ("train", "val"):
        for name, level in (("bright", 50000), ("dark", 9000)):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = np.full((32, 32), level + 100 * i, dtype=np.uint16)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    for _ in range(2):
        run("--data", tmp_path, "--in-channels", 1, "--epochs", 2, "--output-dir", tmp_path / "out")
    assert len([*tmp_path.glob("out/before_*/last.pth")]) == 1
    facts = rb.checkpoint.describe_file(tmp_path / "out" / "best.pth")
    assert (facts["image_channels"], facts["classes"]) == (1, ["bright", "dark"])


def test_what_is_wrong_with_the_data_is_said_before_work(data, trained, tmp_path):
    root = make_data(tmp_path / "data")
    words = ("--data", root, "--epochs", 2, "--output-dir", tmp_path / "out")
    (root / "train" / "empty").mkdir()
    assert re.search(r"train has classes without images: empty; remove the empty folders", fails(*words))
    (root / "train" / "empty").rmdir()
    (root / "val" / "white").mkdir()
    message = r"val has classes that are none of the 3 trained ones \(blue, green, red\): white"
    assert re.search(message, fails(*words))
    short = fails("--data", data, "--epochs", 2, "--batch-size", 64)
    assert re.search(r"train has 24 images, fewer than a batch of 64", short)
    eval_words = ("--data", root, "--eval-only", trained[0] / "best.pth")
    assert re.search(message, fails(*eval_words, network=None))
    (root / "val" / "white").rmdir()
    (root / "train" / "red" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert re.search(r"red/0\.png cannot be read as an image", fails(*words))
    assert re.search(r"nowhere/train is not a folder", fails("--data", tmp_path / "nowhere", "--epochs", 2))


def test_labels_of_another_number_than_the_checkpoints_are_refused(data, tmp_path):
    file = tmp_path / "five.pth"
    torch.save(rb.build("resnest14", num_classes=5).state_dict(), file)
    message = fails("--data", data, "--eval-only", file, network=None)
    assert f"val must have as many classes as {file}, 5, got 3" in message
    torch.save(rb.build("resnest14").state_dict(), file)
    assert f"{file} holds no classifier" in fails("--data", data, "--eval-only", file, network=None)


def test_a_loss_that_is_not_finite_ends_the_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train.F, "cross_entropy", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    message = fails("--data", data, "--epochs", 2, "--output-dir", tmp_path)
    assert "the training diverged by iteration 2, at learning rate" in message and "lower --lr" in message


@pytest.mark.slow
def test_two_processes_train_one_network_and_count_each_image_once(data, tmp_path, capsys):
    words = ["--data", str(data), "--network", "resnest14", "--epochs", "2", "--output-dir", str(tmp_path), *QUICK]
    words[words.index("--batch-size") + 1] = "4"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "tools" / "pretrain.py"), *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    last = torch.load(tmp_path / "last.pth", weights_only=True)
    assert last["settings"]["lr"] == 0.003 and last["epoch"] == 2
    records = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [record["iteration"] for record in records if "top1" in record] == [3, 6]  # of 24 images, 8 at a time
    accuracy = [record["top1"] for record in records if "top1" in record]
    assert all(value * 12 / 100 == pytest.approx(round(value * 12 / 100)) for value in accuracy)
    # What both evaluated together is what one process finds for the saved weights.
    capsys.readouterr()
    pretrain.run(["--data", str(data), "--eval-only", str(tmp_path / "last.pth"), "--workers", "0"])
    assert f"| {accuracy[-1]:.2f} |" in re.sub(" +", " ", capsys.readouterr().out)
