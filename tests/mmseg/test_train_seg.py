"""``tools/train_seg.py`` and ``tools/test_seg.py``: real training, be killed and go on, on whatever machine this is."""

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, init_default_scope
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, MODELS
from PIL import Image
from torch._dynamo.utils import counters

import test_seg
import train_seg
from resnest_backbones.data import derive_seed
from resnest_backbones.errors import CheckpointError, ConfigError, DatasetError, one_line_errors
from resnest_backbones.mmseg.config import type_name, use_custom_dataset
from resnest_backbones.mmseg.engine.resumable import (
    WHOLE_FILES,
    SeededIndex,
    SeedIterationsHook,
    make_resumable,
    repair_last_checkpoint,
)
from resnest_backbones.mmseg.engine.train import build_train_parser, setup_run
from tests.helpers import ROOT, environment, run_tool, start_tool
from tests.mmseg.helpers import (
    ade_layout,
    as_in_a_new_process,
    last_figures,
    logged,
    make_label_map_dataset,
    run_here,
    write_config,
)

MMSEG_CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs"
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what is different on a machine without a GPU")


def load(file: Path) -> dict:
    return torch.load(file, weights_only=False)  # this test's own file


def assert_same_weights(one: Path, other: Path) -> None:
    states = [load(file) for file in (one, other)]
    assert states[0]["state_dict"].keys() == states[1]["state_dict"].keys()
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key
    momenta = [state["optimizer"]["state"] for state in states]
    assert all(torch.equal(v["momentum_buffer"], momenta[1][k]["momentum_buffer"]) for k, v in momenta[0].items())


@pytest.fixture(scope="module")
def own_data(tmp_path_factory) -> Path:
    return make_label_map_dataset(tmp_path_factory.mktemp("data") / "own")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def trained(own_data, config, tmp_path_factory) -> Path:
    """The work dir of six iterations on data of one's own, from a config for other data and without a seed."""
    work_dir = tmp_path_factory.mktemp("trained")
    run_here(train_seg.run, config, "--data-root", own_data, "--work-dir", work_dir)
    return work_dir


def test_it_trains_validates_and_keeps_the_last_checkpoints(trained):
    assert {file.name for file in trained.glob("*.pth")} == {"iter_4.pth", "iter_6.pth"}
    assert (trained / "last_checkpoint").read_text() == str(trained / "iter_6.pth")
    meta = load(trained / "iter_6.pth")["meta"]
    assert meta["iter"] == 6 and meta["dataset_meta"]["classes"] == ("red", "green", "blue")
    assert logged(trained).count("aAcc:") == 2  # at iterations 3 and 6


@needs_no_gpu
def test_it_says_that_there_is_no_gpu(trained):
    assert "There is no GPU here: running on the CPU" in logged(trained)


def test_the_saved_checkpoint_tests_to_the_figures_of_the_last_validation(
    trained, own_data, config, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    checkpoint, data = trained / "iter_6.pth", ["--data-root", own_data]
    run_here(test_seg.run, config, checkpoint, *data, "--out", tmp_path / "maps", "--show-dir", tmp_path / "drawn")
    figures = last_figures(Path("work_dirs", config.stem))
    assert figures == last_figures(trained)
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"mIoU {figures['mIoU']:.2f}, aAcc {figures['aAcc']:.2f}, mAcc {figures['mAcc']:.2f}"
    )
    maps = sorted((tmp_path / "maps").iterdir())
    assert [file.name for file in maps] == ["000.png", "001.png", "002.png", "003.png"]
    assert all(set(np.unique(Image.open(file))) <= {1, 2, 3} for file in maps)
    drawn = sorted((tmp_path / "drawn" / "vis_data" / "vis_image").iterdir())
    assert len(drawn) == 4 and all(Image.open(file).size == (256, 96) for file in drawn)  # annotation and prediction


def test_test_time_augmentation_is_mmsegmentation_s_own(trained, own_data, config, tmp_path):
    arguments = [config, trained / "iter_6.pth", "--data-root", own_data, "--tta", "--out", tmp_path / "maps"]
    run_here(test_seg.run, *arguments, "--work-dir", tmp_path)
    figures = last_figures(tmp_path)
    assert all(0 <= value <= 100 for value in figures.values())
    assert "SegTTAModel" in (tmp_path / config.name).read_text()
    # what it evaluated is what it wrote
    right = total = 0
    for file in (tmp_path / "maps").iterdir():
        truth = np.asarray(Image.open(own_data / "annotations" / "validation" / file.name))
        predicted = np.asarray(Image.open(file))
        right, total = right + (predicted == truth)[truth > 0].sum(), total + (truth > 0).sum()
    assert figures["aAcc"] == pytest.approx(100 * right / total, abs=0.006)


def kill_after(file: Path, process: subprocess.Popen) -> None:
    """Kill a tool, and its workers, as soon as a file is there."""
    deadline = time.monotonic() + 300
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert file.exists(), output


def test_killed_in_the_middle_it_goes_on_to_the_very_same_weights_and_momenta(trained, own_data, config, tmp_path):
    seed = load(trained / "iter_6.pth")["meta"]["seed"]
    # Samples come from two workers here and from the process itself there: it makes no difference.
    options = ["--cfg-options", f"randomness.seed={seed}", "train_dataloader.num_workers=2"]
    arguments = [config, "--data-root", own_data, "--work-dir", tmp_path, *options]
    kill_after(tmp_path / "iter_4.pth", start_tool("train_seg", *arguments, start_new_session=True))
    assert not (tmp_path / "iter_6.pth").exists()
    run_here(train_seg.run, *arguments, "--resume")
    assert "resumed epoch: 0, iter: 4" in logged(tmp_path) or "resumed epoch: 0, iter: 2" in logged(tmp_path)
    assert_same_weights(trained / "iter_6.pth", tmp_path / "iter_6.pth")
    assert last_figures(tmp_path) == last_figures(trained)


def test_resumed_without_a_seed_it_takes_the_one_that_the_broken_run_drew(trained, own_data, config, tmp_path):
    shutil.copy(trained / "iter_4.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("/elsewhere/iter_4.pth")  # as in a folder that was moved
    run_here(train_seg.run, config, "--data-root", own_data, "--work-dir", tmp_path, "--resume")
    assert_same_weights(trained / "iter_6.pth", tmp_path / "iter_6.pth")


EPOCHS = """
train_dataloader["sampler"] = dict(type="DefaultSampler", shuffle=True)
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=3, val_interval=3)
default_hooks["checkpoint"] = dict(type="CheckpointHook", by_epoch=True, interval=1)
log_processor = dict(by_epoch=True)
"""


def test_a_validation_that_the_break_may_have_cut_off_is_made_first(trained, own_data, config, tmp_path):
    shutil.copy(trained / "iter_6.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_6.pth"))
    run_here(train_seg.run, config, "--data-root", own_data, "--work-dir", tmp_path, "--resume")
    assert last_figures(tmp_path) == last_figures(trained)
    assert "Iter(train)" not in logged(tmp_path)


def test_a_training_of_other_classes_is_not_gone_on_with(trained, own_data, tmp_path):
    shutil.copytree(own_data, tmp_path / "data")
    (tmp_path / "data" / "classes.txt").write_text("red\ngreen\nblue\nblack\n")
    shutil.copy(trained / "iter_6.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_6.pth"))
    arguments = [write_config(tmp_path), "--data-root", tmp_path / "data", "--work-dir", tmp_path]
    assert "iter_6.pth does not fit the model" in fails(train_seg.run, *arguments, "--resume")


def test_a_training_counted_in_epochs_goes_on_to_the_very_same_weights(own_data, tmp_path):
    config = write_config(tmp_path, more=EPOCHS)
    arguments = [config, "--data-root", own_data, "--cfg-options", "randomness.seed=3"]
    run_here(train_seg.run, *arguments, "--work-dir", tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    shutil.copy(tmp_path / "whole" / "epoch_2.pth", tmp_path / "broken")
    (tmp_path / "broken" / "last_checkpoint").write_text(str(tmp_path / "broken" / "epoch_2.pth"))
    workers = "train_dataloader.num_workers=2"
    run_here(train_seg.run, *arguments, workers, "--work-dir", tmp_path / "broken", "--resume")
    assert "resumed epoch: 2, iter: 12" in logged(tmp_path / "broken")
    assert "other augmentations" not in logged(tmp_path / "broken")
    assert_same_weights(tmp_path / "whole" / "epoch_3.pth", tmp_path / "broken" / "epoch_3.pth")


def test_resume_goes_on_from_load_from_where_it_is_set_and_anew_where_there_is_nothing(
    trained, own_data, config, tmp_path
):
    common = [config, "--data-root", own_data, "--resume", "--cfg-options", "val_evaluator.0.iou_metrics=['mDice']"]
    stop = "train_cfg.max_iters=5"
    run_here(train_seg.run, *common, stop, f"load_from={trained / 'iter_4.pth'}", "--work-dir", tmp_path / "a")
    assert "resumed epoch: 0, iter: 4" in logged(tmp_path / "a") and "Iter(train) [5/5]" in logged(tmp_path / "a")
    run_here(train_seg.run, *common, "train_cfg.max_iters=1", "--work-dir", tmp_path / "b")
    assert "Iter(train) [1/1]" in logged(tmp_path / "b") and "resumed epoch" not in logged(tmp_path / "b")


def test_the_dumped_config_runs_by_itself_and_says_the_same(trained, tmp_path):
    dumped = next(trained.glob("*.py"))
    one = ["--cfg-options", "train_cfg.max_iters=1"]
    run_here(train_seg.run, dumped, "--work-dir", tmp_path, *one)
    cfg = Config.fromfile(tmp_path / dumped.name)
    assert cfg.train_dataloader.dataset.dataset.type == "RepeatDataset"
    assert [hook.type for hook in cfg.custom_hooks] == [
        "ResNeStCheckpointHook",
        "SeedIterationsHook",
        "StopAtInvalidLossHook",
        "CheckBatchHook",
        "ValidateAfterResumeHook",
    ]


@needs_no_gpu
def test_mixed_precision_is_bfloat16_on_the_cpu_and_a_training_may_go_on_without_it(own_data, config, tmp_path):
    seen = set()

    def look(module, _, output):
        if isinstance(module, torch.nn.Conv2d):
            seen.add((module.training, output.dtype))

    arguments = [config, "--data-root", own_data, "--work-dir", tmp_path]
    options = ["--cfg-options", "optim_wrapper.accumulative_counts=2", "train_cfg.val_interval=2"]
    handle = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        run_here(train_seg.run, *arguments, "--amp", *options, "train_cfg.max_iters=2")
        assert seen == {(True, torch.bfloat16), (False, torch.float32)}
        seen.clear()
        run_here(train_seg.run, *arguments, "--resume", *options, "train_cfg.max_iters=3")
        assert seen == {(True, torch.float32), (False, torch.float32)}
    finally:
        handle.remove()
    assert "Mixed precision on the CPU is of float32 and bfloat16" in logged(tmp_path)
    assert "Iter(train) [3/3]" in logged(tmp_path)
    assert {value.dtype for value in load(tmp_path / "iter_2.pth")["state_dict"].values()} <= {
        torch.float32,
        torch.int64,
    }


def test_a_compiled_backbone_trains_and_goes_on_uncompiled(own_data, config, tmp_path):
    def run(iterations, *more):
        torch._dynamo.reset()
        counters.clear()
        options = ["--cfg-options", f"train_cfg.max_iters={iterations}", "train_cfg.val_interval=2", *more]
        run_here(train_seg.run, config, "--data-root", own_data, "--work-dir", tmp_path, "--resume", *options)
        return counters["stats"]["unique_graphs"]

    switches = ["model.backbone.channels_last=True", "model.backbone.compile=eager"]
    # Crops have one size and need one graph, the larger images of the evaluation another.
    assert run(2, *switches) == 2
    assert run(4) == 0


def test_real_photographs_with_150_classes_train_and_test(shared, tmp_path):
    root = ade_layout(shared, tmp_path / "ade")
    config = write_config(tmp_path)
    options = ["--cfg-options", "train_cfg.max_iters=2"]
    run_here(train_seg.run, config, "--data-root", root, "--work-dir", tmp_path / "run", *options)
    checkpoint = tmp_path / "run" / "iter_2.pth"
    assert load(checkpoint)["state_dict"]["decode_head.conv_seg.weight"].shape[0] == 150
    run_here(test_seg.run, config, checkpoint, "--data-root", root, "--work-dir", tmp_path / "eval")
    assert last_figures(tmp_path / "eval") == last_figures(tmp_path / "run")


# Wrong inputs


def fails(run, *arguments) -> str:
    with pytest.raises(SystemExit) as raised:
        run_here(run, *arguments)
    message = str(raised.value.code)
    assert "\n" not in message and ": error: " in message
    return message


@pytest.fixture
def damaged(own_data, tmp_path) -> Path:
    return Path(shutil.copytree(own_data, tmp_path / "damaged"))


def put_label_9(root: Path) -> None:
    for file in (root / "annotations" / "training").iterdir():
        labels = np.array(Image.open(file))
        labels[50:, 50:] = 9
        Image.fromarray(labels).save(file)


def test_labels_outside_the_class_range_end_the_training_with_the_file(damaged, config, tmp_path):
    put_label_9(damaged)
    options = ["--cfg-options", "train_dataloader.num_workers=1"]  # the error comes from a worker
    message = fails(train_seg.run, config, "--data-root", damaged, "--work-dir", tmp_path / "run", *options)
    assert str(damaged / "annotations" / "training") in message and ".png" in message and "9" in message


def test_the_tool_ends_with_status_1_and_one_line(damaged, config, tmp_path):
    shutil.rmtree(damaged / "annotations" / "training")
    arguments = ["--data-root", damaged, "--work-dir", tmp_path / "run"]
    status, printed = run_tool("train_seg", config, *arguments)
    assert status == 1 and "Traceback" not in printed
    line = f"train_seg.py: error: the folder of annotations {damaged}/annotations/training does not exist"
    assert printed.splitlines()[-1] == line


def test_a_checkpoint_of_another_depth_is_refused_by_name(trained, own_data, tmp_path):
    deeper = write_config(tmp_path, name="resnest50")
    arguments = [deeper, trained / "iter_6.pth", "--data-root", own_data, "--work-dir", tmp_path]
    message = fails(test_seg.run, *arguments)
    assert str(trained / "iter_6.pth") in message and "another network" in message


def test_a_checkpoint_of_other_classes_or_without_a_head_is_refused_by_name(
    trained, config, own_data, shared, tmp_path
):
    root = ade_layout(shared, tmp_path / "ade")
    message = fails(test_seg.run, config, trained / "iter_6.pth", "--data-root", root, "--work-dir", tmp_path)
    assert str(trained / "iter_6.pth") in message
    assert "decode_head.conv_seg.weight is (3, 16, 1, 1) in the file and (150, 16, 1, 1) in the model" in message
    content = load(trained / "iter_6.pth")
    state = {key: value for key, value in content["state_dict"].items() if not key.startswith("decode_head.convs")}
    torch.save({"state_dict": state}, tmp_path / "part.pth")
    message = fails(test_seg.run, config, tmp_path / "part.pth", "--data-root", own_data, "--work-dir", tmp_path)
    assert str(tmp_path / "part.pth") in message and "missing (decode_head.convs.0" in message


class Tripwire:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_checkpoint_that_would_run_code_is_refused(config, own_data, tmp_path):
    file = tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "meta": Tripwire(tmp_path / "trap")}, file, pickle_module=pickle)
    for run, more in ((test_seg.run, [file]), (train_seg.run, ["--cfg-options", f"load_from={file}"])):
        assert str(file) in fails(run, config, *more, "--data-root", own_data, "--work-dir", tmp_path / "run")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        (train_seg.run, ["nowhere.py"], "config must be a file, got nowhere.py"),
        (test_seg.run, ["{config}", "nowhere.pth"], "checkpoint must be a file, got nowhere.pth"),
        (
            train_seg.run,
            ["{config}", "--cfg-options", "load_from=nowhere.pth"],
            "load_from must be a file, got nowhere",
        ),
        (train_seg.run, ["{config}", "--classes", "c.txt"], "--classes goes with --data-root"),
        (train_seg.run, ["{config}", "--data-root", "nowhere"], "the root nowhere of the dataset is not a folder"),
        (train_seg.run, ["{config}", "--amp", "--cfg-options", "optim_wrapper.type=Other"], "the config has Other"),
        (test_seg.run, ["{bare}", "{bare}", "--tta"], "--tta needs tta_model and tta_pipeline in the config"),
        (test_seg.run, ["{bare}", "{bare}", "--show-dir", "x"], "--show and --show-dir need a hook in the config"),
        (train_seg.run, ["{orphan}"], "lost_base.py"),
    ],
)
def test_arguments_are_checked_first(run, arguments, message, config, tmp_path, monkeypatch):
    bare = write_config(tmp_path, more='tta_model = tta_pipeline = None\ndefault_hooks.pop("visualization")\n')
    orphan = tmp_path / "orphan.py"
    orphan.write_text('_base_ = "lost_base.py"\n')
    monkeypatch.chdir(tmp_path)
    places = {"config": config, "bare": bare, "orphan": orphan}
    assert message in fails(run, *(argument.format(**places) for argument in arguments))


def test_an_error_that_came_through_a_worker_is_told_in_its_own_words():
    tracebacks = [
        "Caught DatasetError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n"
        "resnest_backbones.mmseg.transforms.DatasetError: a.png is wrong\n",
        "a.png is wrong",
    ]
    for text in tracebacks:
        with pytest.raises(SystemExit) as raised, one_line_errors("tool.py"):
            raise DatasetError(text)
        assert raised.value.code == "tool.py: error: a.png is wrong"


# Several processes


def torchrun(tool: str, *arguments: object) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments), "--launcher", "pytorch"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_no_gpu
def test_two_processes_train_and_test_on_the_cpu(trained, own_data, config, tmp_path):
    data = ["--data-root", own_data]
    torchrun("train_seg", config, *data, "--work-dir", tmp_path / "two", "--cfg-options", "train_cfg.max_iters=2")
    log = logged(tmp_path / "two")
    assert "CpuSyncBN" in log and "Iter(train) [2/2]" in log and "MMDistributedDataParallel" in log
    printed = torchrun("test_seg", config, trained / "iter_6.pth", *data, "--work-dir", tmp_path / "test")
    # each process had half of the images; the figures are of all
    assert last_figures(tmp_path / "test") == last_figures(trained)
    assert [line for line in printed.splitlines() if line.startswith("mIoU ")] == [printed.splitlines()[-1]]


@needs_no_gpu
def test_a_launcher_without_its_environment_is_said_to_lack_it(monkeypatch):
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NODELIST", "here")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for launcher, name in (("pytorch", "RANK"), ("slurm", "SLURM_PROCID"), ("mpi", "OMPI_COMM_WORLD_RANK")):
        with pytest.raises(ConfigError, match=f"--launcher {launcher} needs the environment variable {name}"):
            setup_run(Config(), build_train_parser().parse_args(["config.py", "--launcher", launcher]))


# Whole files


def test_a_write_that_is_broken_off_leaves_what_was_there(tmp_path):
    backend = get_file_backend(backend_args={"backend": WHOLE_FILES})
    backend.put(b"old", tmp_path / "a" / "file")
    with pytest.raises(TypeError):
        backend.put("no bytes", tmp_path / "a" / "file")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["file"]
    assert (tmp_path / "a" / "file").read_bytes() == b"old"


@HOOKS.register_module()
class BreakOffWhileSavingHook(Hook):
    def before_save_checkpoint(self, runner, checkpoint):
        if checkpoint["meta"]["iter"] == 4:
            raise KeyboardInterrupt


def test_an_outdated_checkpoint_stays_until_the_new_one_is_whole(own_data, tmp_path):
    more = "custom_hooks = [dict(type='BreakOffWhileSavingHook')]\ndefault_hooks['checkpoint']['max_keep_ckpts'] = 1\n"
    work_dir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_here(train_seg.run, write_config(tmp_path, more=more), "--data-root", own_data, "--work-dir", work_dir)
    assert [file.name for file in work_dir.glob("*.pth")] == ["iter_2.pth"]
    assert (work_dir / "last_checkpoint").read_text() == str(work_dir / "iter_2.pth")


@HOOKS.register_module()
class BreakOffWhileSavingTheSecondBestHook(Hook):
    saved = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.saved:
            runner.message_hub.update_info("best_score", -1.0)  # so that the next one is better

    def before_save_checkpoint(self, runner, checkpoint):
        self.saved += "optimizer" not in checkpoint  # the best has none
        if self.saved == 2:
            raise KeyboardInterrupt


def test_the_best_checkpoint_stays_until_the_new_one_is_whole(own_data, tmp_path):
    more = (
        "custom_hooks = [dict(type='BreakOffWhileSavingTheSecondBestHook')]\ntrain_cfg['val_interval'] = 1\n"
        "default_hooks['checkpoint'].update(save_best='mIoU', rule='greater', interval=100)\n"
    )
    config, work_dir = write_config(tmp_path, more=more), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_here(train_seg.run, config, "--data-root", own_data, "--work-dir", work_dir)
    assert len([*work_dir.glob("best_mIoU_*.pth")]) == 1


def test_only_the_newest_best_checkpoint_is_kept(own_data, tmp_path):
    more = (
        "train_cfg.update(val_interval=1, max_iters=4)\n"
        "default_hooks['checkpoint'].update(save_best='mIoU', rule='greater', interval=100)\n"
    )
    work_dir = tmp_path / "run"
    run_here(train_seg.run, write_config(tmp_path, more=more), "--data-root", own_data, "--work-dir", work_dir)
    assert len([*work_dir.glob("best_mIoU_*.pth")]) == 1


def test_last_checkpoint_is_made_to_name_a_file_that_is_there(tmp_path):
    pointer = tmp_path / "last_checkpoint"
    assert repair_last_checkpoint(tmp_path) is None and not pointer.exists()
    pointer.write_text("")
    with pytest.raises(CheckpointError, match=str(pointer)):
        repair_last_checkpoint(tmp_path)
    for name in ("iter_8.pth", "iter_16.pth", "best_mIoU_iter_99.pth"):
        (tmp_path / name).touch()
    assert repair_last_checkpoint(tmp_path) == tmp_path / "iter_16.pth"
    assert pointer.read_text() == str(tmp_path / "iter_16.pth")
    pointer.write_text("/elsewhere/iter_8.pth")
    assert repair_last_checkpoint(tmp_path) == tmp_path / "iter_8.pth"
    assert repair_last_checkpoint(tmp_path) == tmp_path / "iter_8.pth"


# Random numbers


def build_sampler(seed: int = 5):
    return DATA_SAMPLERS.build({"type": "SeededInfiniteSampler", "dataset": range(7), "seed": seed})


def take(sampler, count: int) -> list[tuple[int, int]]:
    stream = iter(sampler)
    return [(int(index), index.seed) for index in (next(stream) for _ in range(count))]


def test_a_place_in_the_stream_has_its_sample_and_seed_whatever_was_skipped():
    whole = take(build_sampler(), 30)
    assert len({seed for _, seed in whole}) == 30 and {index for index, _ in whole} == set(range(7))
    plain = DATA_SAMPLERS.build({"type": "InfiniteSampler", "dataset": range(7), "seed": 5})
    stream = iter(plain)
    assert [index for index, _ in whole] == [next(stream) for _ in range(30)]
    skipped = build_sampler()
    skipped.skip(11)
    assert take(skipped, 19) == whole[11:]
    assert take(build_sampler(6), 30) != whole


def test_an_index_reaches_a_worker_with_its_seed():
    index = pickle.loads(pickle.dumps(SeededIndex(3, 14)))
    assert index == 3 and index.seed == 14 and [10, 11, 12, 13][index] == 13


def test_seeds_are_those_of_their_numbers():
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3) and 0 <= derive_seed(1, 2, 3) < 2**32
    assert len({derive_seed(seed, rank, place) for seed in range(4) for rank in range(4) for place in range(50)}) == 800


def test_the_model_draws_anew_in_each_iteration_and_the_same_in_each_run():
    def drawn(seed: int, iteration: int) -> list[float]:
        SeedIterationsHook().before_train_iter(SimpleNamespace(seed=seed, iter=iteration), 0)
        return [random.random(), np.random.rand(), torch.rand(1).item()]

    assert drawn(1, 4) == drawn(1, 4)
    assert not set(drawn(1, 4)) & {*drawn(1, 5), *drawn(2, 4)}


def test_data_of_another_sampler_stays_as_it_is_and_that_is_said(config):
    cfg = Config.fromfile(config)
    cfg.train_dataloader.sampler.type = "ClassAwareSampler"
    before = cfg.train_dataloader.to_dict()
    assert ["InfiniteSampler or DefaultSampler" in message for message in make_resumable(cfg)] == [True]
    assert cfg.train_dataloader.to_dict() == before


# A data set of one's own in MMSegmentation's own configs


def test_types_are_known_however_a_config_gives_them():
    given = ["LoadAnnotations", "mmseg.LoadAnnotations", LoadAnnotations]
    assert {type_name({"type": kind}) for kind in given} == {"LoadAnnotations"}
    assert type_name({}) == ""


@pytest.mark.parametrize(
    "name",
    [
        "pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py",
        "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024.py",
        "fcn/fcn_r50-d8_4xb4-40k_pascal-context-59-480x480.py",
        "unet/unet-s5-d16_fcn_4xb4-ce-1.0-dice-3.0-40k_drive-64x64.py",
        "bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py",
        "ocrnet/ocrnet_hr18_4xb4-20k_voc12aug-512x512.py",
    ],
)
def test_any_config_takes_a_data_set_of_one_s_own(name, own_data):
    path = MMSEG_CONFIGS / name
    if not path.is_file():
        pytest.skip(f"this MMSegmentation has no {name}")
    cfg = Config.fromfile(path)
    sizes = [step.crop_size for step in cfg.train_pipeline if step.type == "RandomCrop"]
    use_custom_dataset(cfg, own_data)
    with as_in_a_new_process():
        init_default_scope("mmseg")
        for loader, split in ((cfg.train_dataloader, "training"), (cfg.val_dataloader, "validation")):
            dataset = DATASETS.build(loader.dataset)
            sample = dataset[0]["data_samples"]
            assert f"/images/{split}/" in sample.img_path and sample.reduce_zero_label
            assert set(np.unique(sample.gt_sem_seg.data)) <= {0, 1, 2, 255}
            assert dataset.metainfo["classes"] == ("red", "green", "blue")
        cfg.model.pretrained = None
        cfg.model.backbone.pop("init_cfg", None)
        cfg.model.backbone.pop("pretrained", None)
        model = MODELS.build(cfg.model)
    layers = {name: m.out_channels for name, m in model.named_modules() if name.endswith("conv_seg")}
    assert len(layers) >= 2 and set(layers.values()) == {3}
    assert [step["crop_size"] for step in _steps(cfg.train_dataloader.dataset) if step["type"] == "RandomCrop"] == sizes
    assert [evaluator.type for evaluator in cfg.test_evaluator] == ["IoUMetric"]


def _steps(dataset) -> list:
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset["pipeline"]
