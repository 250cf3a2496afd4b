"""What ``tools/train_seg.py`` makes of odd images, broken files, full disks and losses that are no numbers."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

import test_seg
import train_seg
from resnest_backbones.checkpoint import read_checkpoint
from resnest_backbones.errors import DatasetError
from tests.helpers import ODD_IMAGES, interrupted_at, odd_image, read_only, small_disk
from tests.mmseg.helpers import EPOCHS, fails, last_metrics, logged, run_here, write_config


def write_data(root: Path, names: list[str]) -> Path:
    """Images of these kinds in ADE20K's layout, each with a label map of its left and right half."""
    for split in ("training", "validation"):
        (root / "annotations" / split).mkdir(parents=True)
        for name in names:
            file, width, height = odd_image(name, root / "images" / split)
            labels = np.ones((height, width), np.uint8)
            labels[:, width // 2 :] = 2
            Image.fromarray(labels).save(root / "annotations" / split / f"{file.stem}.png")
    (root / "classes.txt").write_text("left\nright\n")
    return root


def options(*more: str) -> list[str]:
    return ["--cfg-options", "randomness.seed=3", *more]


@pytest.mark.fault("odd images", "a segmentor trains on them and is evaluated")
def test_odd_images_are_trained_on_and_evaluated(config, tmp_path, record_property):
    data = write_data(tmp_path / "data", ODD_IMAGES)
    more = options("train_cfg.max_iters=3", "train_dataloader.batch_size=3", "train_cfg.val_interval=3")
    run_here(train_seg.run, config, "--data-root", data, "--work-dir", tmp_path / "run", *more)
    assert "Iter(train) [3/3]" in logged(tmp_path / "run")
    assert 0 <= last_metrics(tmp_path / "run")["mIoU"] <= 100
    record_property("times", len(ODD_IMAGES))


@pytest.mark.parametrize(("name", "reason"), [("web page", "its format is unknown"), ("wide", "resize")])
@pytest.mark.fault("images that cannot be used", "an error names the file")
def test_an_image_that_cannot_be_used_is_named(name, reason, tmp_path):
    data = write_data(tmp_path / "data", ["wide"])
    file = data / "images" / "training" / "wide.png"
    if name == "web page":
        file.write_text("<html>not found</html>")
    init_default_scope("mmseg")
    steps = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (128, 96), "keep_ratio": True}]
    folders = {"img_path": "images/training", "seg_map_path": "annotations/training"}
    own = {"type": "LabelMapDataset", "data_root": str(data), "data_prefix": folders, "pipeline": steps}
    for settings in (own, {"type": "SeededDataset", "dataset": own}):
        with pytest.raises(DatasetError, match=f"{file} cannot be .*{reason}"):
            DATASETS.build(settings)[0]


@pytest.mark.fault("images that cannot be used", "an error names the file")
@pytest.mark.slow
def test_a_truncated_image_ends_the_tool_in_one_line(config, tmp_path):
    data = write_data(tmp_path / "data", ["truncated"])
    message = fails(train_seg.run, config, "--data-root", data, "--work-dir", tmp_path / "run", *options())
    assert f"{data}/images/training/truncated.jpg cannot be read as an image: image file is truncated" in message


@pytest.mark.fault("a loss that becomes NaN", "the training ends, naming iteration, learning rate and images")
def test_a_loss_that_is_no_number_ends_the_training_with_where_it_was(custom_data, config, tmp_path):
    work_dir = tmp_path / "run"
    more = options("optim_wrapper.optimizer.lr=1e20", "default_hooks.checkpoint.interval=1")
    message = fails(train_seg.run, config, "--data-root", custom_data, "--work-dir", work_dir, *more)
    assert "training diverged at iteration 1, at learning rate " in message and "e+19, with the images " in message
    assert str(custom_data / "images" / "training") in message and "loss nan" in message
    for file in work_dir.glob("*.pth"):  # written in the iteration before, whose loss was a number
        assert file.name == "iter_1.pth"


@pytest.mark.fault("a full disk", "the training ends, naming the file, and resumes with more room")
@pytest.mark.slow
def test_a_full_disk_ends_the_training_and_leaves_the_last_checkpoint(trained, custom_data, config, tmp_path):
    room = 1.7 * (trained / "iter_4.pth").stat().st_size / 1024
    arguments = [config, "--data-root", custom_data, "--work-dir", tmp_path / "run"]
    more = options("train_cfg.max_iters=4", "train_cfg.val_interval=100")
    with small_disk(tmp_path / "run", int(room)) as work_dir:
        message = fails(train_seg.run, *arguments, *more)
        assert "iter_4.pth could not be written: No space left on device" in message
        assert [file.name for file in work_dir.glob("*.pth")] == ["iter_2.pth"] and not [*work_dir.glob(".*.partial")]
        assert read_checkpoint(work_dir / "iter_2.pth")["meta"]["iter"] == 2
        subprocess.run(["mount", "-o", "remount,size=600m", str(work_dir)], check=True)
        run_here(train_seg.run, *arguments, "--resume", *more)
        assert read_checkpoint(work_dir / "iter_4.pth")["meta"]["iter"] == 4
        assert "resumed epoch: 0, iter: 2" in logged(work_dir)


@pytest.mark.fault("a read-only output folder", "the tool ends in one line that names it")
def test_a_read_only_work_dir_is_missed_before_the_training(custom_data, config, tmp_path):
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    with read_only(work_dir):
        message = fails(train_seg.run, config, "--data-root", custom_data, "--work-dir", work_dir)
    assert f"the output folder {work_dir} cannot be written: Read-only file system" in message


@pytest.mark.parametrize("damage", ["truncated", "flipped", "web page"])
@pytest.mark.fault("a damaged checkpoint to resume from", "an error names the file")
def test_a_damaged_checkpoint_is_not_gone_on_with_or_tested(damage, custom_data, config, tmp_path):
    file = tmp_path / "iter_2.pth"
    torch.save({"state_dict": {"weight": torch.ones(1000)}, "meta": {"iter": 2, "epoch": 0}}, file)
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[content.index(torch.ones(9).numpy().tobytes()) + 2] ^= 1
    file.write_bytes({"truncated": content[:-700], "flipped": content, "web page": b"<html>Sign in</html>"}[damage])
    (tmp_path / "last_checkpoint").write_text(str(file))
    data = ["--data-root", custom_data, "--work-dir", tmp_path]
    for message in (fails(train_seg.run, config, *data, "--resume"), fails(test_seg.run, config, file, *data)):
        assert str(file) in message and ("web page" if damage == "web page" else "truncated or damaged") in message


@pytest.mark.fault("a batch of one image with batch norm", "an error names the setting")
def test_a_batch_of_one_image_is_refused_where_batch_norm_cannot_take_it(custom_data, config, tmp_path):
    arguments = [config, "--data-root", custom_data, "--work-dir", tmp_path / "run"]
    single = options("train_dataloader.batch_size=1", "train_cfg.max_iters=1", "train_cfg.val_interval=100")
    assert "train_dataloader.batch_size must be 2 or more per process" in fails(train_seg.run, *arguments, *single)
    # The batch norms of the trunk rest: single images are fine. The heads' have many pixels each.
    run_here(train_seg.run, *arguments, *single, "model.backbone.norm_eval=True")


@pytest.mark.fault("a batch of one image with batch norm", "an error names the setting")
@pytest.mark.slow
def test_an_epoch_may_not_end_in_a_batch_of_one_image(custom_data, tmp_path):
    shutil.copytree(custom_data, tmp_path / "data")
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / "data" / kind / "training" / f"003.{suffix}").unlink()
    more = EPOCHS + 'train_dataloader["dataset"] = train_dataloader["dataset"]["dataset"]\n'
    arguments = [write_config(tmp_path, more=more), "--data-root", tmp_path / "data", "--work-dir", tmp_path / "run"]
    message = fails(train_seg.run, *arguments)
    assert "got 1: 3 images in batches of 2; set train_dataloader.drop_last=True" in message
    run_here(train_seg.run, *arguments, "--cfg-options", "train_dataloader.drop_last=True")


@pytest.mark.fault("an empty dataset", "an error names the folder")
def test_a_data_set_without_images_is_named(custom_data, config, tmp_path):
    data = write_data(tmp_path / "data", ["plain"])
    (data / "images" / "training" / "plain.png").unlink()
    message = fails(train_seg.run, config, "--data-root", data, "--work-dir", tmp_path / "run")
    assert f"the image folder {data}/images/training has no images" in message


def test_ctrl_c_says_what_was_saved_and_how_to_go_on(custom_data, config, tmp_path, capsys):
    words = [config, "--data-root", custom_data, "--work-dir", tmp_path]
    with pytest.raises(SystemExit) as raised, interrupted_at(tmp_path / "last_checkpoint"):
        run_here(train_seg.run, *words, "--cfg-options", "train_cfg.max_iters=500")
    assert raised.value.code == 130
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert f": interrupted; the last checkpoint is {tmp_path / 'iter_'}" in line and line.endswith("with --resume")


def test_weights_that_cannot_be_downloaded_are_left_out_as_the_error_says(custom_data, config, tmp_path):
    words = [config, "--data-root", custom_data, "--work-dir", tmp_path]
    url = "http://127.0.0.1:9/weights.pth"
    wanted = ["model.backbone.init_cfg.type=Pretrained", f"model.backbone.init_cfg.checkpoint={url}"]
    assert fails(train_seg.run, *words, "--cfg-options", *wanted).endswith(
        "; --cfg-options model.backbone.init_cfg=None trains without initial weights"
    )
    assert "did you mean resnest50" in fails(train_seg.run, *words, "--cfg-options", "load_from=resnest://resnest51")
    run_here(train_seg.run, *words, "--cfg-options", "model.backbone.init_cfg=None", "train_cfg.max_iters=1")
