"""``reproduce.py run``: real trainings of small networks, interrupted, resumed, and read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from reproduce import main
from reproduction.run import Step, find_error, read_run
from resnest_backbones.model_zoo import RECIPES
from resnest_backbones.weights import PUBLISHED
from tests.helpers import ROOT, environment, error_of
from tests.reproduction.smoke import smoke_settings

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")

DETECTOR, SEGMENTOR = "faster_rcnn_resnest50_fpn_1x", "fcn_resnest50-d8_4xb4-paper_ade20k-480x480"


def settings_of(name: str) -> list[str]:
    """A network so small, and a training so long, that it can be interrupted between two checkpoints."""
    settings = smoke_settings(RECIPES[name], 2)
    if name == SEGMENTOR:
        settings += ["model.backbone.name=resnest14", "train_cfg.max_epochs=4", "train_cfg.val_interval=4"]
        settings += ["model.decode_head.channels=32", "model.auxiliary_head.channels=32", "tta_model.scales=[0.5,1.0]"]
        settings += ["default_hooks.checkpoint.interval=1", "test_dataloader.dataset.indices=1"]
        return [*settings, "default_hooks.checkpoint.save_best=None"]
    settings += ["MODEL.RESNETS.DEPTH=14", "MODEL.FPN.OUT_CHANNELS=32", "MODEL.ROI_BOX_HEAD.CONV_DIM=32"]
    return [*settings, "MODEL.ROI_BOX_HEAD.FC_DIM=64", "SOLVER.MAX_ITER=16", "SOLVER.CHECKPOINT_PERIOD=2", "SEED=1"]


def arguments_of(name: str, output: Path, data: Path, *more: str) -> list[str]:
    head = ["run", name, "--output-dir", str(output), "--data-root", str(data), "--skip-data-check", "--num-gpus", "1"]
    return [*head, *more, "--set", *settings_of(name)]


def processes_with(text: str) -> list[int]:
    """Numbers of this machine's processes that have a text in their command lines."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if text.encode() in file.read_bytes():
                found.append(int(file.parent.name))
    return found


def run_in_two_goes(name: str, output: Path, data: Path) -> Path:
    """End a recipe after a checkpoint, then resume it to its end; what is true between is checked here."""
    folder, words = output / name, arguments_of(name, output, data)
    with open(output / "printed.txt", "w+") as printed:
        command = [sys.executable, str(ROOT / "tools" / "reproduce.py"), *words]
        process = subprocess.Popen(command, env=environment(), stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None and not (folder / "train" / "last_checkpoint").is_file():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=120)
    text = (output / "printed.txt").read_text()
    assert status == 130 and "interrupted; the same command resumes from here" in text, text
    run = read_run(folder)
    assert (run.state, run.error, run.metrics) == ("failed", "interrupted", {})
    (interrupted,) = run.steps
    assert (interrupted.name, interrupted.status) == ("train", -signal.SIGTERM) and interrupted.seconds > 1
    assert processes_with(str(folder)) == []
    (folder / "run.json").write_text(json.dumps(asdict(replace(run, steps=[replace(interrupted, seconds=7200.0)]))))
    assert main(words) == 0
    assert 7200 < read_run(folder).steps[0].seconds < 10_800  # the time of both goes
    return folder


def check_finished(folder: Path, arguments: list[str], other: str, capsys) -> None:
    """A finished recipe is left as it is, and with other settings its folder is refused."""
    before = {file: file.read_bytes() for file in (folder / "run.json", folder / "log.txt")}
    assert main(arguments) == 0
    assert "finished already" in capsys.readouterr().out
    assert main([*arguments, other]) == 1
    assert "holds a run with other settings" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before


@pytest.fixture(scope="module")
def detector(tmp_path_factory, smoke_root) -> Path:
    """Folder of a detector's run that was interrupted and resumed."""
    return run_in_two_goes(DETECTOR, tmp_path_factory.mktemp("run"), smoke_root)


def test_an_interrupted_detector_goes_on_from_its_last_checkpoint(detector, smoke_root, capsys):
    run, log = read_run(detector), (detector / "log.txt").read_text()
    assert (run.recipe, run.state, run.smoke, run.error) == (DETECTOR, "finished", False, "")
    assert run.ended > run.started and "torch" in run.versions and run.machine.startswith("1 process on ")
    assert [(step.name, step.status) for step in run.steps] == [("train", 0)] and run.steps[0].seconds > 0
    starts = [line for line in log.splitlines() if "Starting training from iteration" in line]
    assert len(starts) == 2 and starts[0].endswith(" 0") and not starts[1].endswith(" 0")
    last = json.loads((detector / "train" / "metrics.json").read_text().splitlines()[-1])
    assert run.metrics == {"box_ap": pytest.approx(last["bbox/AP"], abs=1e-4)}
    check_finished(detector, arguments_of(DETECTOR, detector.parent, smoke_root), "SEED=2", capsys)


@pytest.mark.slow
def test_an_interrupted_segmentor_goes_on_from_its_last_checkpoint(tmp_path, smoke_root, capsys):
    folder = run_in_two_goes(SEGMENTOR, tmp_path, smoke_root)
    run, log = read_run(folder), (folder / "log.txt").read_text()
    assert [(step.name, step.status) for step in run.steps] == [("train", 0), ("test_tta", 0)]
    assert "resumed epoch: " in log and log.count("\n=== 20") == 3
    (file,) = (folder / "test_tta").glob("*/*.json")
    tested = json.loads(file.read_text())
    metrics = {"miou_multi_scale": tested["mIoU"], "pix_acc_multi_scale": tested["aAcc"]}
    assert run.metrics == pytest.approx(metrics, abs=1e-4)
    check_finished(folder, arguments_of(SEGMENTOR, tmp_path, smoke_root), "randomness.seed=2", capsys)


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_alone_with_the_same_metrics(detector, smoke_root, tmp_path):
    model = detector / "train" / "model_final.pth"
    assert main(arguments_of(DETECTOR, tmp_path, smoke_root, "--eval-only", str(model))) == 0
    run = read_run(tmp_path / DETECTOR)
    assert [step.name for step in run.steps] == ["evaluate"] and run.eval_only == str(model)
    assert run.metrics == pytest.approx(read_run(detector).metrics, abs=1e-3)
    assert not (tmp_path / DETECTOR / "train").exists()


@pytest.mark.slow
def test_two_processes_share_a_training_of_both_frameworks(tmp_path, smoke_root, capsys):
    settings = ["SOLVER.MAX_ITER=2", "train_cfg.max_epochs=1", "train_dataloader.batch_size=2"]
    settings += [*settings_of(SEGMENTOR), "train_dataloader.dataset.indices=8"]
    arguments = arguments_of(DETECTOR, tmp_path, smoke_root)
    arguments[arguments.index("--num-gpus") + 1] = "2"
    arguments.insert(1, SEGMENTOR)
    assert main([*arguments, *settings_of(SEGMENTOR), *settings]) == 0, capsys.readouterr().out
    for name, trace in ((DETECTOR, "World size: 2"), (SEGMENTOR, "Distributed training: True")):
        assert trace in (tmp_path / name / "log.txt").read_text()
        run = read_run(tmp_path / name)
        assert run.state == "finished" and run.machine.startswith("2 processes on ")
        assert ("SOLVER.MAX_ITER=2" in run.settings) == (name == DETECTOR)


@pytest.mark.slow
def test_a_command_that_fails_is_named_with_its_error_and_log(tmp_path, smoke_root, capsys):
    arguments = arguments_of(DETECTOR, tmp_path, smoke_root)
    assert main([*arguments, "MODEL.META_ARCHITECTURE=Nothing"]) == 1
    out = capsys.readouterr().out
    assert "0 of 1 recipes finished" in out and f"log: {tmp_path / DETECTOR / 'log.txt'}" in out
    run = read_run(tmp_path / DETECTOR)
    assert run.state == "failed" and "Nothing" in run.error
    assert [step.status for step in run.steps] == [1] and run.error in out


# What ends before anything is started


def test_recipes_whose_data_are_missing_fail_with_what_is_missing(tmp_path, capsys):
    arguments = ["--output-dir", str(tmp_path / "out"), "--data-root", str(tmp_path), "--num-gpus", "1"]
    assert main(["run", DETECTOR, SEGMENTOR, *arguments]) == 1
    out = capsys.readouterr().out
    assert f"FAILED: {tmp_path / 'coco' / 'train2017'}: no such folder" in out and "ADEChallengeData2016" in out
    assert "instances_train2017.json" in out and "0 of 2 recipes finished" in out
    run = read_run(tmp_path / "out" / DETECTOR)
    assert run.state == "failed" and run.steps == [] and "no such folder" in run.error
    (tmp_path / "mine.pth").write_bytes(b"")
    arguments[1] += "_evaluated"  # where only the data of the evaluation are needed
    assert main(["run", DETECTOR, "--eval-only", str(tmp_path / "mine.pth"), *arguments]) == 1
    out = capsys.readouterr().out
    assert "val2017" in out and "train2017" not in out


KILLED = """
import os, signal, sys
from pathlib import Path
from reproduction.commands import Command
from reproduction.common import locked
from reproduction.run import run_command
folder = Path(sys.argv[1])
with locked(folder) as lock:
    code = f"import os, time; os.kill({os.getpid()}, 9); time.sleep(600)"
    run_command(Command("train", ("-c", code, sys.argv[1]), folder), folder / "log.txt", lock)
"""


def test_a_recipe_whose_training_outlives_a_killed_run_is_left_alone(tmp_path, capsys, smoke_root):
    (folder := tmp_path / DETECTOR).mkdir()
    command = [sys.executable, "-c", KILLED, str(folder)]
    assert subprocess.run(command, env=environment(), check=False).returncode == -signal.SIGKILL
    (training,) = processes_with(str(folder))
    try:
        assert main(arguments_of(DETECTOR, tmp_path, smoke_root)) == 1
    finally:
        os.kill(training, signal.SIGKILL)
    assert "is in use: another process runs this recipe" in capsys.readouterr().out
    assert read_run(folder) is None


def test_a_dry_run_prints_commands_and_writes_nothing(tmp_path, capsys):
    arguments = ["run", DETECTOR, SEGMENTOR, "--output-dir", str(tmp_path / "out"), "--num-gpus", "1", "--dry-run"]
    assert main(arguments) == 0
    tools = [word.rpartition("/")[2] for word in capsys.readouterr().out.split() if word.endswith(".py")]
    assert [tool for tool in tools if tool.startswith(("train_", "test_"))] == [
        "train_net.py", "train_seg.py", "test_seg.py",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([DETECTOR, "--set", "SEED"], "--set must be KEY=VALUE, got 'SEED'"),
        ([DETECTOR, "--set", "train_cfg.max_iters=8"], "is for none of the recipes, which are of detectron2"),
        ([DETECTOR, "--num-gpus", "0"], "--num-gpus must be positive, got 0"),
        ([DETECTOR, "--num-machines", "2", "--machine-rank", "2"], "--machine-rank must be from 0 to"),
        ([DETECTOR, "--eval-only", "none.pth"], "--eval-only must be a file, got none.pth"),
        (["coco", "--eval-only", "none.pth"], "--eval-only goes with one recipe, got "),
    ],
)
def test_a_wrong_command_ends_in_one_line(arguments, message):
    assert message in error_of(main, "run", *arguments).removeprefix("reproduce.py run: error: ")


def test_torchrun_and_a_published_name_of_another_file_are_refused(tmp_path, monkeypatch):
    file = tmp_path / PUBLISHED[DETECTOR].name
    file.write_bytes(b"another file")
    with pytest.raises(SystemExit, match="is not the published"):
        main(["run", DETECTOR, "--eval-only", str(file), "--output-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(SystemExit, match="once per machine without torchrun, which it starts itself"):
        main(["run", DETECTOR])


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("Traceback\nValueError: bad\ntorch.distributed.elastic.errors.ChildFailedError: x\n", "ValueError: bad"),
        ("\x1b[32mtrain_net.py: error: no such file\x1b[0m\n", "train_net.py: error: no such file"),
        ("one\ntwo\n\n", "train ended with status 3: two"),
        ("KeyError: 1\n\n=== now\n", "train ended with status 3: no output"),
    ],
)
def test_the_error_of_a_command_is_found_in_its_log(tmp_path, log, error):
    (tmp_path / "log.txt").write_text(f"\n=== earlier\n{log}")
    assert find_error(tmp_path / "log.txt", Step("train", "train_net.py", 1.0, 3)) == error
