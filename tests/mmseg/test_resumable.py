"""An interrupted training that is resumed: the same weights, whole files, the same random numbers."""

import itertools
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS

import train_seg
from resnest_backbones.data import derive_seed
from resnest_backbones.errors import CheckpointError
from resnest_backbones.mmseg.engine.resumable import (
    WHOLE_FILES,
    SeedIterationsHook,
    make_resumable,
    repair_last_checkpoint,
)
from tests.helpers import kill_after, start_tool
from tests.mmseg.helpers import EPOCHS, last_metrics, load, logged, run_here, write_config


def resumable_from(checkpoint: Path, work_dir: Path, named: str | None = None) -> Path:
    """Make a work dir whose training was interrupted after a checkpoint."""
    work_dir.mkdir(exist_ok=True)
    copy = Path(shutil.copy(checkpoint, work_dir))
    (work_dir / "last_checkpoint").write_text(named or str(copy))
    return work_dir


def assert_same_weights(one: Path, other: Path) -> None:
    states = [load(file) for file in (one, other)]
    assert states[0]["state_dict"].keys() == states[1]["state_dict"].keys()
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key
    momenta = [state["optimizer"]["state"] for state in states]
    assert all(torch.equal(v["momentum_buffer"], momenta[1][k]["momentum_buffer"]) for k, v in momenta[0].items())


@pytest.mark.slow
def test_killed_in_the_middle_it_resumes_to_the_very_same_weights_and_momenta(trained, custom_data, config, tmp_path):
    seed = load(trained / "iter_6.pth")["meta"]["seed"]
    # Samples come from two workers here and from the process itself there: it makes no difference.
    options = ["--cfg-options", f"randomness.seed={seed}", "train_dataloader.num_workers=2"]
    arguments = [config, "--data-root", custom_data, "--work-dir", tmp_path, *options]
    kill_after(tmp_path / "iter_2.pth", start_tool("train_seg", *arguments))
    assert not (tmp_path / "iter_6.pth").exists()
    run_here(train_seg.run, *arguments, "--resume")
    assert "resumed epoch: 0, iter: " in logged(tmp_path)
    assert_same_weights(trained / "iter_6.pth", tmp_path / "iter_6.pth")
    assert last_metrics(tmp_path) == last_metrics(trained)


def test_resumed_without_a_seed_it_takes_the_seed_that_the_first_run_drew(trained, custom_data, config, tmp_path):
    resumable_from(trained / "iter_4.pth", tmp_path, named="/elsewhere/iter_4.pth")  # as in a folder that was moved
    run_here(train_seg.run, config, "--data-root", custom_data, "--work-dir", tmp_path, "--resume")
    assert_same_weights(trained / "iter_6.pth", tmp_path / "iter_6.pth")


def test_a_validation_that_may_have_been_cut_off_comes_first(trained, custom_data, config, tmp_path):
    resumable_from(trained / "iter_6.pth", tmp_path)
    run_here(train_seg.run, config, "--data-root", custom_data, "--work-dir", tmp_path, "--resume")
    assert last_metrics(tmp_path) == last_metrics(trained)
    assert "Iter(train)" not in logged(tmp_path)


@pytest.mark.slow
def test_a_training_counted_in_epochs_resumes_to_the_very_same_weights(custom_data, tmp_path):
    config = write_config(tmp_path, more=EPOCHS)
    arguments = [config, "--data-root", custom_data, "--cfg-options", "randomness.seed=3"]
    run_here(train_seg.run, *arguments, "--work-dir", tmp_path / "whole")
    resumable_from(tmp_path / "whole" / "epoch_2.pth", tmp_path / "broken")
    workers = "train_dataloader.num_workers=2"
    run_here(train_seg.run, *arguments, workers, "--work-dir", tmp_path / "broken", "--resume")
    assert "resumed epoch: 2, iter: 12" in logged(tmp_path / "broken")
    assert "other augmentations" not in logged(tmp_path / "broken")
    assert_same_weights(tmp_path / "whole" / "epoch_3.pth", tmp_path / "broken" / "epoch_3.pth")


def test_resume_takes_load_from_if_set_and_starts_anew_where_there_is_nothing(trained, custom_data, config, tmp_path):
    common = [config, "--data-root", custom_data, "--resume", "--cfg-options", "val_evaluator.1.iou_metrics=['mDice']"]
    stop = "train_cfg.max_iters=5"
    run_here(train_seg.run, *common, stop, f"load_from={trained / 'iter_4.pth'}", "--work-dir", tmp_path / "a")
    assert "resumed epoch: 0, iter: 4" in logged(tmp_path / "a") and "Iter(train) [5/5]" in logged(tmp_path / "a")
    run_here(train_seg.run, *common, "train_cfg.max_iters=1", "--work-dir", tmp_path / "b")
    assert "Iter(train) [1/1]" in logged(tmp_path / "b") and "resumed epoch" not in logged(tmp_path / "b")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    backend = get_file_backend(backend_args={"backend": WHOLE_FILES})
    backend.put(b"old", tmp_path / "a" / "file")
    with pytest.raises(TypeError):
        backend.put("no bytes", tmp_path / "a" / "file")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["file"]
    assert (tmp_path / "a" / "file").read_bytes() == b"old"


@HOOKS.register_module()
class InterruptHook(Hook):
    """Interrupt while the checkpoint of iteration 4, or the third best one, is saved."""

    saved = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.saved:
            runner.message_hub.update_info("best_score", -1.0)  # so that the next one is better

    def before_save_checkpoint(self, runner, checkpoint):
        self.saved += "optimizer" not in checkpoint  # the best has none
        if self.saved == 3 or ("optimizer" in checkpoint and checkpoint["meta"]["iter"] == 4):
            raise KeyboardInterrupt


def test_an_outdated_checkpoint_stays_until_the_new_one_is_whole(custom_data, tmp_path):
    more = "custom_hooks = [dict(type='InterruptHook')]\ndefault_hooks['checkpoint']['max_keep_ckpts'] = 1\n"
    work_dir = tmp_path / "run"
    with pytest.raises(SystemExit, match="130"):
        run_here(train_seg.run, write_config(tmp_path, more=more), "--data-root", custom_data, "--work-dir", work_dir)
    assert [file.name for file in work_dir.glob("*.pth")] == ["iter_2.pth"]
    assert (work_dir / "last_checkpoint").read_text() == str(work_dir / "iter_2.pth")


@pytest.mark.slow
def test_the_best_checkpoint_stays_until_the_new_one_is_whole_and_older_ones_go(custom_data, tmp_path):
    more = (
        "custom_hooks = [dict(type='InterruptHook')]\ntrain_cfg['val_interval'] = 1\n"
        "default_hooks['checkpoint'].update(save_best='mIoU', rule='greater', interval=100)\n"
    )
    config, work_dir = write_config(tmp_path, more=more), tmp_path / "run"
    with pytest.raises(SystemExit, match="130"):
        run_here(train_seg.run, config, "--data-root", custom_data, "--work-dir", work_dir)
    assert [file.name for file in work_dir.glob("best_mIoU_*.pth")] == ["best_mIoU_iter_2.pth"]


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


def build_sampler(seed: int = 5, kind: str = "SeededInfiniteSampler"):
    return DATA_SAMPLERS.build({"type": kind, "dataset": range(7), "seed": seed})


def take(sampler, count: int) -> list[tuple[int, int]]:
    stream = iter(sampler)
    return [next(stream) for _ in range(count)]


def test_a_place_in_the_stream_has_its_sample_and_seed_whatever_was_skipped():
    whole = take(build_sampler(), 30)
    assert len({seed for _, seed in whole}) == 30 and {index for index, _ in whole} == set(range(7))
    stream = iter(build_sampler(kind="InfiniteSampler"))
    assert [index for index, _ in whole] == [next(stream) for _ in range(30)]
    skipped = build_sampler()
    skipped.skip(11)
    assert take(skipped, 19) == whole[11:]
    assert take(build_sampler(6), 30) != whole
    numbers = itertools.product(range(4), range(4), range(50))  # seed, rank and place
    assert len({derive_seed(*each) for each in numbers}) == 800 and derive_seed(1, 2, 3) == derive_seed(1, 2, 3)


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
