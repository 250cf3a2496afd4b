"""``tools/train_seg.py`` and ``tools/test_seg.py``: real trainings and tests, on a machine with or without GPUs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch._dynamo.utils import counters

import test_seg
import train_seg
from resnest_backbones.errors import ConfigError
from resnest_backbones.mmseg.engine.train import setup_run
from resnest_backbones.train import train_segmentor
from tests.helpers import ROOT, Payload, environment
from tests.mmseg.helpers import (
    ade_layout,
    as_in_a_new_process,
    fails,
    last_metrics,
    load,
    logged,
    run_here,
    write_config,
)

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what is different on a machine without a GPU")


def test_it_trains_validates_and_keeps_the_last_checkpoints(trained):
    assert {file.name for file in trained.glob("*.pth")} == {"iter_4.pth", "iter_6.pth"}
    assert (trained / "last_checkpoint").read_text() == str(trained / "iter_6.pth")
    meta = load(trained / "iter_6.pth")["meta"]
    assert meta["iter"] == 6 and meta["dataset_meta"]["classes"] == ("red", "green", "blue")
    assert logged(trained).count("aAcc:") == 2  # at iterations 3 and 6
    assert torch.cuda.is_available() or "No GPU found: running on the CPU" in logged(trained)


def test_the_saved_checkpoint_tests_to_the_metrics_of_the_last_validation(
    trained, custom_data, config, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    checkpoint, data = trained / "iter_6.pth", ["--data-root", custom_data]
    run_here(test_seg.run, config, checkpoint, *data, "--out", tmp_path / "maps", "--show-dir", tmp_path / "drawn")
    metrics = last_metrics(Path("work_dirs", config.stem))
    assert metrics == last_metrics(trained)
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"mIoU {metrics['mIoU']:.2f}, aAcc {metrics['aAcc']:.2f}, mAcc {metrics['mAcc']:.2f}"
    )
    maps = sorted((tmp_path / "maps").iterdir())
    assert [file.name for file in maps] == ["000.png", "001.png", "002.png", "003.png"]
    assert all(set(np.unique(Image.open(file))) <= {1, 2, 3} for file in maps)
    drawn = sorted((tmp_path / "drawn" / "vis_data" / "vis_image").iterdir())
    assert len(drawn) == 4 and all(Image.open(file).size == (256, 96) for file in drawn)  # annotation and prediction


def test_the_dumped_config_runs_by_itself_and_says_the_same(trained, tmp_path):
    dumped = next(trained.glob("*.py"))
    options = ["train_cfg.max_iters=1", "train_cfg.val_interval=1", "default_hooks.checkpoint.interval=1"]
    with as_in_a_new_process():
        done = train_segmentor(str(dumped), work_dir=str(tmp_path), cfg_options=options)
    assert done.output_dir == tmp_path and done.model == tmp_path / "iter_1.pth"
    assert done.metrics == pytest.approx(last_metrics(tmp_path), nan_ok=True)
    cfg = Config.fromfile(tmp_path / dumped.name)
    assert cfg.train_dataloader.dataset.dataset.type == "RepeatDataset"
    names = ["ResNeStCheckpoint", "SeedIterations", "StopAtInvalidLoss", "CheckBatch", "ValidateAfterResume"]
    assert [hook.type for hook in cfg.custom_hooks] == [f"{name}Hook" for name in names]


@needs_no_gpu
def test_mixed_precision_is_bfloat16_on_the_cpu_and_a_training_may_resume_without_it(custom_data, config, tmp_path):
    seen = set()

    def look(module, _, output):
        if isinstance(module, torch.nn.Conv2d):
            seen.add((module.training, output.dtype))

    arguments = [config, "--data-root", custom_data, "--work-dir", tmp_path]
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
    assert "Mixed precision on the CPU uses float32 and bfloat16" in logged(tmp_path)
    assert "Iter(train) [3/3]" in logged(tmp_path)
    kinds = {value.dtype for value in load(tmp_path / "iter_2.pth")["state_dict"].values()}
    assert kinds <= {torch.float32, torch.int64}


@pytest.mark.slow
def test_a_compiled_backbone_trains_and_resumes_uncompiled(custom_data, config, tmp_path):
    def run(iterations, *more):
        torch._dynamo.reset()
        counters.clear()
        options = ["--cfg-options", f"train_cfg.max_iters={iterations}", "train_cfg.val_interval=2", *more]
        run_here(train_seg.run, config, "--data-root", custom_data, "--work-dir", tmp_path, "--resume", *options)
        return counters["stats"]["unique_graphs"]

    switches = ["model.backbone.channels_last=True", "model.backbone.compile=eager"]
    # Crops have one size and need one graph, the larger images of the evaluation another.
    assert run(2, *switches) == 2
    assert run(4) == 0


@pytest.mark.slow
def test_real_photographs_with_150_classes_are_trained_on_and_validated(config, shared, tmp_path):
    root = ade_layout(shared, tmp_path / "ade")
    options = ["--cfg-options", "train_cfg.max_iters=2"]
    run_here(train_seg.run, config, "--data-root", root, "--work-dir", tmp_path / "run", *options)
    assert load(tmp_path / "run" / "iter_2.pth")["state_dict"]["decode_head.conv_seg.weight"].shape[0] == 150
    assert 0 <= last_metrics(tmp_path / "run")["aAcc"] <= 100


def test_wrong_data_ends_the_tool_with_one_line(custom_data, config, tmp_path, monkeypatch):
    damaged = Path(shutil.copytree(custom_data, tmp_path / "damaged"))
    for file in sorted((damaged / "annotations" / "training").iterdir())[1:]:
        labels = np.array(Image.open(file))
        labels[50:, 50:] = 9
        Image.fromarray(labels).save(file)
    arguments = [config, "--data-root", damaged, "--work-dir", tmp_path / "run"]
    worker = ["--cfg-options", "train_dataloader.num_workers=1"]  # the error comes from there
    assert "labels beyond the 3 classes or 255: 9 (" in fails(train_seg.run, *arguments)
    monkeypatch.setattr("resnest_backbones.data.label_maps.CHECKED_LABEL_MAPS", 1)  # the first, which is sound
    assert f"the label map {damaged}/annotations/training/" in (said := fails(train_seg.run, *arguments, *worker))
    assert "got 9 (" in said
    shutil.rmtree(damaged / "annotations" / "training")
    line = f"error: the folder of annotations {damaged}/annotations/training does not exist"
    assert fails(train_seg.run, *arguments).endswith(line)


def test_a_checkpoint_of_other_classes_or_without_a_head_is_refused_by_name(trained, config, custom_data, tmp_path):
    def error(checkpoint: Path, data: Path) -> str:
        return fails(test_seg.run, config, checkpoint, "--data-root", data, "--work-dir", tmp_path)

    more = Path(shutil.copytree(custom_data, tmp_path / "data"))
    (more / "classes.txt").write_text("red\ngreen\nblue\nblack\n")
    classes = "different classes than the model: 3 (red, green, blue) in the model, 4 (red, green, blue, black"
    assert classes in error(trained / "iter_6.pth", more)
    state = load(trained / "iter_6.pth")["state_dict"]
    torch.save({"state_dict": state}, tmp_path / "unnamed.pth")
    shapes = "decode_head.conv_seg.weight is (3, 16, 1, 1) in the file and (4, 16, 1, 1) in the model"
    assert shapes in error(tmp_path / "unnamed.pth", more)
    state = {key: value for key, value in state.items() if not key.startswith("decode_head.convs")}
    torch.save({"state_dict": state}, tmp_path / "part.pth")
    message = error(tmp_path / "part.pth", custom_data)
    assert str(tmp_path / "part.pth") in message and "missing (decode_head.convs.0" in message


@pytest.fixture(scope="module")
def reordered(custom_data, tmp_path_factory) -> Path:
    """The custom dataset with its classes in another order, in the label maps too."""
    root = Path(shutil.copytree(custom_data, tmp_path_factory.mktemp("reordered") / "data"))
    (root / "classes.txt").write_text("blue\nred\ngreen\n")
    for file in root.glob("annotations/*/*.png"):
        Image.fromarray(np.array([0, 2, 3, 1], np.uint8)[np.array(Image.open(file))]).save(file)
    return root


def test_classes_in_another_order_are_tested_by_name(trained, config, reordered, tmp_path):
    run_here(test_seg.run, config, trained / "iter_6.pth", "--data-root", reordered, "--work-dir", tmp_path)
    assert last_metrics(tmp_path) == pytest.approx(last_metrics(trained))
    assert "matched by name: 3 (red, green, blue) in the model, 3 (blue, red, green) in the data" in logged(tmp_path)


def test_a_training_with_other_classes_does_not_resume_but_fine_tunes(trained, config, reordered, tmp_path):
    folder, data = Path(shutil.copytree(trained, tmp_path / "run")), ["--data-root", reordered]
    line = fails(train_seg.run, config, *data, "--work-dir", folder, "--resume")
    assert f"--resume continues from {trained / 'iter_6.pth'}, whose classes differ from the training data" in line
    assert "3 (red, green, blue) there, 3 (blue, red, green) in the data" in line
    (reordered / "classes.txt").write_text("blue\nred\ngreen\nwhite\n")
    assert "3 (red, green, blue) there, 4 (blue, " in fails(
        train_seg.run, config, *data, "--work-dir", folder, "--resume"
    )
    more = ["--cfg-options", "train_cfg.max_iters=1", "train_cfg.val_interval=9", f"load_from={folder / 'iter_6.pth'}"]
    dumped = tmp_path / "of_a_resumed_run.py"
    dumped.write_text(f'{config.read_text()}\ncustom_hooks = [dict(type="RequireWholeCheckpointHook")]\n')
    run_here(train_seg.run, dumped, *data, "--work-dir", tmp_path / "new", *more)
    log = logged(tmp_path / "new")
    assert (
        len(re.findall(r"iter_6\.pth: \d+ of \d+ tensors match; 4 with a different shape \(decode_head\.conv_seg", log))
        == 1
    )
    assert "do not match exactly" not in log


def test_a_checkpoint_that_would_run_code_is_refused(config, custom_data, tmp_path):
    file = tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "meta": Payload(tmp_path / "trap")}, file)
    for run, more in ((test_seg.run, [file]), (train_seg.run, ["--cfg-options", f"load_from={file}"])):
        assert str(file) in fails(run, config, *more, "--data-root", custom_data, "--work-dir", tmp_path / "run")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        (train_seg.run, ["nowhere.py"], "a config file or the name of a config, got 'nowhere.py'"),
        (test_seg.run, ["{config}", "nowhere.pth"], "checkpoint must be a file, got nowhere.pth"),
        (train_seg.run, ["{config}", "--cfg-options", "load_from=no.pth"], "load_from must be a file, got no.pth"),
        (train_seg.run, ["{config}", "--classes", "c.txt"], "--classes requires --data-root"),
        (train_seg.run, ["{config}", "--data-root", "nowhere"], "the dataset root nowhere is not a folder"),
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


def torchrun(tool: str, *arguments: object) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments), "--launcher", "pytorch"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_no_gpu
@pytest.mark.slow
def test_two_processes_train_and_test_on_the_cpu(trained, custom_data, config, tmp_path):
    data = ["--data-root", custom_data]
    torchrun("train_seg", config, *data, "--work-dir", tmp_path / "two", "--cfg-options", "train_cfg.max_iters=2")
    log = logged(tmp_path / "two")
    assert "CpuSyncBN" in log and "Iter(train) [2/2]" in log and "MMDistributedDataParallel" in log
    printed = torchrun("test_seg", config, trained / "iter_6.pth", *data, "--work-dir", tmp_path / "test")
    # Each process had half of the images; the metrics are of all.
    assert last_metrics(tmp_path / "test") == last_metrics(trained)
    assert [line for line in printed.splitlines() if line.startswith("mIoU ")] == [printed.splitlines()[-1]]


@needs_no_gpu
def test_a_launcher_without_its_environment_is_said_to_lack_it(monkeypatch):
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NODELIST", "here")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for launcher, name in (("pytorch", "RANK"), ("slurm", "SLURM_PROCID"), ("mpi", "OMPI_COMM_WORLD_RANK")):
        with pytest.raises(ConfigError, match=f"--launcher {launcher} needs the environment variable {name}"):
            setup_run(Config(), train_seg.build_argument_parser().parse_args(["config.py", "--launcher", launcher]))


def test_label_maps_that_teach_nothing_end_training_and_test_before_any_work(shared, config, trained, tmp_path):
    """tests/data/test_shared_cases.py has the other cases."""
    case = shared / "cases" / "segmentation" / "01a_binary_0_255"
    if not case.is_dir():
        pytest.skip("the shared cases are not there")
    arguments = ["--data-root", case, "--work-dir", tmp_path / "run"]
    message = "every pixel of {} of {} label maps in "
    assert message.format(4, 4) in fails(train_seg.run, config, *arguments)
    assert not (tmp_path / "run").exists()
    assert message.format(2, 2) in fails(test_seg.run, config, trained / "iter_6.pth", *arguments)


def test_a_fresh_run_moves_an_earlier_one_out_of_its_way(trained, config, custom_data, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    more = ["--cfg-options", "train_cfg.max_iters=1", f"load_from={folder / 'iter_6.pth'}"]
    run_here(train_seg.run, config, "--data-root", custom_data, "--work-dir", folder, *more)
    (moved,) = folder.glob("before_*")
    assert {file.name for file in moved.iterdir()} >= {"iter_4.pth", "iter_6.pth", "last_checkpoint", config.name}
    assert {file.name for file in folder.glob("*.pth")} == {"iter_1.pth", "iter_6.pth"}
    assert "Iter(train) [6/6]" not in logged(folder) and f"was moved to {moved}" in logged(folder)


def test_the_screen_begins_with_what_the_machine_changes_and_leaves_the_config_to_the_file(
    custom_data, config, tmp_path, capsys
):
    words = [config, "--data-root", custom_data, "--cfg-options", "train_cfg.max_iters=1"]
    for verbose in ([], ["--verbose"]):
        work_dir = tmp_path / f"{len(verbose)}"
        run_here(train_seg.run, *words, "--work-dir", work_dir, *verbose)
        screen, log = capsys.readouterr().out, logged(work_dir)
        for begins in ("Config:", "Hooks will be executed"):
            assert begins in log and (begins in screen) == bool(verbose)
        assert "\x1b" not in log
        first = next(line for line in screen.splitlines() if "mmengine - " in line)
        assert torch.cuda.is_available() or first.endswith("No GPU found: running on the CPU")
