"""``reproduce.py run``: real trainings of small networks, broken off, gone on with, and read."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from reproduction import run as run_module
from reproduction.cli import main
from reproduction.console import plain
from reproduction.execute import find_error
from reproduction.figures import FigureError, read_figures
from reproduction.results import RowResult, read_result, write_result
from reproduction.smoke import smoke_settings
from resnest_backbones.model_zoo import RECIPES
from tests.helpers import ROOT, environment, start_tool

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")

DETECTOR, SEGMENTOR = "faster_rcnn_resnest50_fpn_1x", "fcn_resnest50-d8_4xb4-paper_ade20k-480x480"
BASELINE = "faster_rcnn_resnet50_fpn_1x"


def settings_of(name: str) -> list[str]:
    """A network so small, and a training so long, that it can be broken off between two checkpoints."""
    settings = smoke_settings(RECIPES[name], 2)
    if name == SEGMENTOR:
        more = ["model.backbone.name=resnest14", "train_cfg.max_epochs=4", "train_cfg.val_interval=4"]
        more += [
            "model.decode_head.channels=32",
            "model.auxiliary_head.channels=32",
            "test_dataloader.dataset.indices=1",
        ]
        more += ["tta_model.scales=[0.5,1.0]", "default_hooks.checkpoint.interval=1"]
        return [*settings, *more, "default_hooks.checkpoint.save_best=None"]
    more = ["MODEL.RESNETS.DEPTH=14", "MODEL.FPN.OUT_CHANNELS=32", "MODEL.ROI_BOX_HEAD.CONV_DIM=32"]
    more += ["MODEL.ROI_BOX_HEAD.FC_DIM=64", "SOLVER.MAX_ITER=16", "SOLVER.CHECKPOINT_PERIOD=2", "SEED=1"]
    return [*settings, *more]


def arguments_of(name: str, output: Path, data: Path, *more: str) -> list[str]:
    head = ["run", name, "--output-dir", str(output), "--data-root", str(data), "--skip-data-check", *more]
    return [*head, "--progress-every", "0", "--set", *settings_of(name)]


def interrupt_after_a_checkpoint(arguments: list[str], folder: Path, number: int) -> tuple[int, str]:
    """Start the command, send the signal once a checkpoint is there; its exit status and output."""
    process = start_tool("reproduce", *arguments)
    try:
        limit = time.monotonic() + 200
        while not (folder / "train" / "last_checkpoint").is_file():
            assert process.poll() is None and time.monotonic() < limit, process.communicate()[0]
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output


def processes_with(text: str) -> list[str]:
    """Command lines of this machine's processes that have a text in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


@contextmanager
def handled(number: int) -> Iterator[None]:
    """A signal has the effect that it has in a shell's foreground: started otherwise, the tests may ignore it."""
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, default)
    try:
        yield
    finally:
        signal.signal(number, before)


def interrupt_here_after_a_checkpoint(arguments: list[str], folder: Path, number: int) -> tuple[int, str]:
    """As above, with the command in this process, which has imported what it needs."""
    ended = threading.Event()

    def interrupt() -> None:
        while not (folder / "train" / "last_checkpoint").is_file():
            if ended.wait(0.05):
                return
        os.kill(os.getpid(), number)

    watcher = threading.Thread(target=interrupt, daemon=True)
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output), handled(number):
        watcher.start()
        try:
            status = main(arguments)
        finally:
            ended.set()
            watcher.join()
    return status, output.getvalue()


def run_in_two_goes(name: str, output: Path, data: Path, number: int, status: int, *, here: bool) -> Path:
    """Break a row off, and go on with it to its end; what is true between is looked at here."""
    folder = output / name
    arguments = arguments_of(name, output, data)
    interrupt = interrupt_here_after_a_checkpoint if here else interrupt_after_a_checkpoint
    found, text = interrupt(arguments, folder, number)
    assert found == status, text
    assert "interrupted; the same command goes on from here" in text
    broken_off = read_result(folder)
    assert (broken_off.state, broken_off.error, broken_off.figures) == ("failed", "interrupted", {})
    assert processes_with(str(folder)) == []

    assert main(arguments) == 0
    return output


@pytest.fixture(scope="module")
def detector(tmp_path_factory, smoke_root) -> Path:
    """Folder of a detector's run that was broken off, and gone on with."""
    return run_in_two_goes(DETECTOR, tmp_path_factory.mktemp("run"), smoke_root, signal.SIGTERM, 143, here=False)


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory, smoke_root) -> Path:
    """Folder of a segmentor's run that was broken off, and gone on with."""
    return run_in_two_goes(SEGMENTOR, tmp_path_factory.mktemp("run"), smoke_root, signal.SIGINT, 130, here=True)


@pytest.mark.parametrize(("name", "fixture"), [(DETECTOR, "detector"), (SEGMENTOR, "segmentor")])
def test_an_interrupted_row_goes_on_from_its_last_checkpoint(name, fixture, request, smoke_root, capsys):
    output = request.getfixturevalue(fixture)
    folder = output / name
    result, log = read_result(folder), (folder / "log.txt").read_text()
    assert (result.state, result.smoke, result.error) == ("finished", False, "")
    assert result.row == name and result.ended > result.started
    assert "torch" in result.versions and result.machine.startswith(("CPU: ", "1 x "))
    assert log.count("\n=== 20") == 1 + len(result.steps)  # the training was started twice
    assert all(step.status == 0 and step.seconds > 0 for step in result.steps)
    if name == DETECTOR:
        assert [step.name for step in result.steps] == ["train"]
        assert "Starting training from iteration 0" in log
        starts = [line for line in log.splitlines() if "Starting training from iteration" in line]
        assert len(starts) == 2 and not starts[1].endswith(" 0")
        last = json.loads((folder / "train" / "metrics.json").read_text().splitlines()[-1])
        assert result.figures == {"box_ap": pytest.approx(last["bbox/AP"], abs=1e-4)}
    else:
        assert [step.name for step in result.steps] == ["train", "test_tta"]
        assert "resumed epoch: " in log
        (file,) = (folder / "test_tta").glob("*/*.json")
        tested = json.loads(file.read_text())
        figures = {"miou_multi_scale": tested["mIoU"], "pix_acc_multi_scale": tested["aAcc"]}
        assert result.figures == pytest.approx(figures, abs=1e-4)

    # A finished row is left as it is.
    before = {file: file.read_bytes() for file in (folder / "row.json", folder / "log.txt")}
    assert main(arguments_of(name, output, smoke_root)) == 0
    assert "finished already" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before

    # With other settings it would be another row's figure.
    other = [*arguments_of(name, output, smoke_root), "SEED=2" if name == DETECTOR else "randomness.seed=2"]
    assert main(other) == 1
    assert "holds a run with other settings" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before


def test_a_checkpoint_is_evaluated_alone_with_the_same_figures(detector, smoke_root, tmp_path):
    model = detector / DETECTOR / "train" / "model_final.pth"
    assert main(arguments_of(DETECTOR, tmp_path, smoke_root, "--eval-only", str(model))) == 0
    result = read_result(tmp_path / DETECTOR)
    assert [step.name for step in result.steps] == ["evaluate"]
    assert result.figures == pytest.approx(read_result(detector / DETECTOR).figures, abs=1e-3)
    assert not (tmp_path / DETECTOR / "train").exists()


@pytest.mark.slow
def test_two_processes_of_torchrun_run_rows_of_both_frameworks(tmp_path, smoke_root):
    settings = [*settings_of(DETECTOR), *settings_of(SEGMENTOR), "SOLVER.MAX_ITER=2", "train_cfg.max_epochs=1"]
    settings += ["train_dataloader.batch_size=2", "train_dataloader.dataset.indices=8"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(ROOT / "tools/reproduce.py")]
    command += ["run", DETECTOR, SEGMENTOR, "--output-dir", str(tmp_path), "--data-root", str(smoke_root)]
    command += ["--skip-data-check", "--set", *settings]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 of 2 rows finished") == 1  # one of the two did the work
    for name, trace in ((DETECTOR, "World size: 2"), (SEGMENTOR, "Distributed training: True")):
        log = (tmp_path / name / "log.txt").read_text()
        assert trace in log, log
        result = read_result(tmp_path / name)
        assert result.state == "finished"
        assert result.machine.startswith("2 x ") or "2 processes" in result.machine
        # A command of the row alone has the settings of its own framework alone.
        assert ("SOLVER.MAX_ITER=2" in result.command) == (name == DETECTOR)


# What ends before anything is started


def test_rows_whose_data_are_missing_fail_with_what_is_missing(tmp_path, capsys):
    arguments = ["run", DETECTOR, BASELINE, "--output-dir", str(tmp_path / "out"), "--data-root", str(tmp_path)]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert out.count("checking the data") == 1  # of two rows with the same data
    assert f"FAILED: data: {tmp_path / 'coco' / 'train2017'}: no such folder" in out
    assert "0 of 2 rows finished" in out
    result = read_result(tmp_path / "out" / DETECTOR)
    assert result.state == "failed" and result.steps == ()
    assert "instances_train2017.json" in (tmp_path / "out" / DETECTOR / "log.txt").read_text()


def test_an_evaluation_looks_at_the_data_for_it_alone(tmp_path, capsys):
    (tmp_path / "mine.pth").write_bytes(b"")
    arguments = ["run", DETECTOR, "--eval-only", str(tmp_path / "mine.pth"), "--data-root", str(tmp_path)]
    assert main([*arguments, "--output-dir", str(tmp_path / "out")]) == 1
    log = (tmp_path / "out" / DETECTOR / "log.txt").read_text()
    assert "val2017" in log and "train2017" not in log


def test_a_row_that_another_process_runs_is_left_alone(tmp_path, capsys, smoke_root):
    from filelock import FileLock

    (tmp_path / DETECTOR).mkdir()
    with FileLock(tmp_path / DETECTOR / ".lock"):
        assert main(arguments_of(DETECTOR, tmp_path, smoke_root)) == 1
    assert "is in use: another process runs this row" in capsys.readouterr().out
    assert read_result(tmp_path / DETECTOR) is None


def test_of_several_processes_of_torchrun_on_a_machine_one_works(tmp_path, monkeypatch, smoke_root):
    for variable, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(variable, value)
    assert main(arguments_of(DETECTOR, tmp_path, smoke_root)) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_row"], "ROW must be a name, a pattern, or a data set of `list`, got 'no_such_row'"),
        ([DETECTOR, "--set", "SEED"], "--set must be KEY=VALUE, got 'SEED'"),
        ([DETECTOR, "--num-gpus", "0"], "--num-gpus must be positive, got 0"),
        ([DETECTOR, "--eval-only", "none.pth"], "--eval-only must be a file, got none.pth"),
        (["coco", "--eval-only", "none.pth"], "--eval-only goes with one row, got 20"),
    ],
)
def test_a_wrong_command_ends_in_one_line(capsys, arguments, message):
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr().err == f"reproduce.py run: error: {message}\n"


def test_a_file_with_a_published_name_and_another_hash_is_refused(tmp_path, capsys):
    published = RECIPES[DETECTOR].file
    file = tmp_path / published.name
    file.write_bytes(b"another file")
    assert main(["run", DETECTOR, "--eval-only", str(file), "--output-dir", str(tmp_path / "out")]) == 2
    assert f"{file} is not the published {published.name}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Files that a run leaves


def test_nan_is_no_figure_and_a_half_written_line_is_passed_over(tmp_path):
    train = tmp_path / "train"
    train.mkdir()
    lines = ['{"bbox/AP": 1.0, "segm/AP": 2.0}', '{"total_loss": 1.0}', '{"bbox/AP": NaN, "segm/AP": 3.5}', '{"bbox/A']
    (train / "metrics.json").write_text("\n".join(lines))
    assert read_figures(RECIPES["mask_rcnn_resnest50_fpn_1x"], tmp_path) == {"box_ap": None, "mask_ap": 3.5}


def test_an_evaluation_gives_the_figures_of_one_scale_of_its_last_attempt(tmp_path):
    def evaluation(*, several_scales: float) -> list[str]:
        lines = ["Rank of current process: 0. World size: 1"]
        for ap in (several_scales - 2, several_scales):
            lines += ["copypaste: Task: bbox", "copypaste: AP,AP50", f"copypaste: {ap:.4f},60.0000"]
            lines += ["Evaluating with test-time augmentation ..."]
        return lines[:-1]

    (tmp_path / "evaluate").mkdir()
    lines = [*evaluation(several_scales=30), *evaluation(several_scales=44.5)]
    (tmp_path / "evaluate" / "log.txt").write_text("\n".join(f"[01/01 00:00:00 d2]: {line}" for line in lines))
    assert read_figures(RECIPES[DETECTOR], tmp_path) == {"box_ap": 42.5}


def test_a_run_without_figures_is_an_error(tmp_path):
    for name in (DETECTOR, SEGMENTOR):
        with pytest.raises(FigureError, match="must hold the figures of an evaluation, got none of"):
            read_figures(RECIPES[name], tmp_path)


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            "Traceback\nValueError: bad\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: x\n",
            "ValueError: bad",
        ),
        ("\x1b[32mtrain_net.py: error: no such file\x1b[0m\n", "train_net.py: error: no such file"),
        ("one\ntwo\n\n", "ended with status 3: two"),
        ("=== earlier\nKeyError: 1\n=== now\n", "ended with status 3: it printed nothing"),
    ],
)
def test_the_error_of_a_command_is_found_in_its_log(tmp_path, log, error):
    (tmp_path / "log.txt").write_text(log)
    assert find_error(tmp_path / "log.txt", 3) == error


def test_of_a_progress_bar_the_last_state_is_shown():
    assert plain("a  10%\ra  20%\r\x1b[31ma  30%\x1b[0m\n") == "a  30%"


def test_a_folder_of_something_else_is_an_error_of_its_row_alone(tmp_path, capsys, smoke_root):
    (tmp_path / DETECTOR).mkdir()
    (tmp_path / DETECTOR / "row.json").write_text("[]")
    assert main(arguments_of(DETECTOR, tmp_path, smoke_root)) == 1
    assert "row.json must be what the run of a row left behind" in capsys.readouterr().out
    assert (tmp_path / DETECTOR / "row.json").read_text() == "[]"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_is_an_interruption_only_within_a_run(number):
    with handled(number):
        with pytest.raises(run_module.Terminated) as caught, run_module.signals_as_interrupt():
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert caught.value.status == 128 + number
        assert signal.getsignal(number) is signal.SIG_DFL


def test_a_run_that_shall_outlive_its_terminal_does():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with run_module.signals_as_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_earlier_smoke_run_is_not_taken_for_a_run(tmp_path, capsys, smoke_root):
    command = f"python tools/reproduce.py smoke {DETECTOR} --iterations 2 --output-dir {tmp_path}"
    smoke = RowResult(DETECTOR, "finished", True, command, "CPU", {}, "2026-01-01T00:00:00+00:00")
    write_result(smoke, tmp_path / DETECTOR)
    assert main(arguments_of(DETECTOR, tmp_path, smoke_root)) == 1
    assert "holds a run with other settings (python tools/reproduce.py smoke" in capsys.readouterr().out
