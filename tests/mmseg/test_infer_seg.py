"""``tools/infer_seg.py``: label maps of any images, as files and drawn with a legend."""

import re
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.registry import MODELS
from PIL import Image

import infer_seg
import test_seg
from resnest_backbones.data import make_palette, read_image
from resnest_backbones.mmseg import use_safe_loading
from resnest_backbones.mmseg.engine.infer import Predictor
from tests.helpers import odd_image
from tests.mmseg.helpers import as_in_a_new_process, fails, last_metrics, run_here, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config"), num_classes=3)


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    """A network with random weights, whose norms are as if it had seen data; the file names its classes."""
    file = tmp_path_factory.mktemp("checkpoint") / "random.pth"
    torch.manual_seed(0)
    with as_in_a_new_process():
        init_default_scope("mmseg")
        model = MODELS.build(Config.fromfile(config).model)
    meta = {"dataset_meta": {"classes": ("rot", "grün", "blau"), "palette": [[255, 0, 0], [0, 255, 0], [0, 0, 255]]}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, file)
    return file


def read(file) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_label_maps_are_those_that_the_test_evaluates(custom_data, config, checkpoint, tmp_path):
    images = custom_data / "images" / "validation"
    for tta in ([], ["--tta"]):
        run_here(infer_seg.run, config, checkpoint, images, "--out-dir", tmp_path / "out", *tta)
        arguments = ["--data-root", custom_data, "--work-dir", tmp_path / "test", "--out", tmp_path / "maps"]
        run_here(test_seg.run, config, checkpoint, *arguments, *tta)
        right = total = 0
        for number in range(4):
            own, theirs = (read(tmp_path / f / f"{number:03d}.png") for f in ("out/label_maps", "maps"))
            assert own.dtype == np.uint8 and own.shape == (96, 128)
            assert np.array_equal(own, theirs) and set(np.unique(own)) <= {1, 2, 3}
            truth = read(custom_data / "annotations" / "validation" / f"{number:03d}.png")
            right, total = right + (own == truth)[truth > 0].sum(), total + (truth > 0).sum()
        assert last_metrics(tmp_path / "test")["aAcc"] == pytest.approx(100 * right / total, abs=0.006)


def test_images_of_one_name_in_two_folders_are_not_written_over_each_other(custom_data, config, checkpoint, tmp_path):
    for kind in ("images", "annotations"):
        for folder in ("a", "b"):
            shutil.copytree(custom_data / kind / "validation", tmp_path / "data" / kind / "validation" / folder)
    shutil.copy(custom_data / "classes.txt", tmp_path / "data")
    arguments = [config, checkpoint, "--data-root", tmp_path / "data", "--work-dir", tmp_path / "test"]
    message = fails(test_seg.run, *arguments, "--out", tmp_path / "maps")
    assert re.search(r"--out needs images with different names, got .*a/000.jpg and .*b/000.jpg", message)
    assert not (tmp_path / "maps").exists() or not [*(tmp_path / "maps").iterdir()]


def test_mmsegmentations_own_inference_takes_the_configs(custom_data, config, checkpoint):
    text = Path(config).read_text().replace('type="LoadAnnotations"', 'type="LoadCheckedAnnotations", num_classes=3')
    checked = Path(config).with_name("checked.py")
    checked.write_text(text)
    file = str(custom_data / "images" / "validation" / "000.jpg")
    with as_in_a_new_process():
        use_safe_loading()
        model = init_model(str(checked), str(checkpoint), device="cpu")
        assert "LoadCheckedAnnotations" in str(model.cfg.test_pipeline)
        inferencer = MMSegInferencer(str(checked), str(checkpoint), device="cpu")
        for image in (file, mmcv.imread(file)):
            predicted = inference_model(model, image).pred_sem_seg.data
            assert predicted.shape == (1, 96, 128)
            assert np.array_equal(inferencer(image, show=False)["predictions"], predicted[0])


def test_names_and_colours_come_from_the_checkpoint_or_from_a_file(custom_data, config, checkpoint, tmp_path):
    image = custom_data / "images" / "validation" / "000.jpg"
    for number, more in enumerate(([], ["--data-root", custom_data], ["--classes", custom_data / "classes.txt"])):
        options = ["--opacity", 1, "--device", "cpu", *more]
        run_here(infer_seg.run, config, checkpoint, image, "--out-dir", tmp_path / str(number), *options)
    pictures = [read(tmp_path / str(number) / "drawn" / "000.png") for number in range(3)]
    assert pictures[0].shape[1] == 512  # four times as large, so that names can be read
    labels = np.kron(read(tmp_path / "0" / "label_maps" / "000.png"), np.ones((4, 4), dtype=np.uint8))
    assert np.array_equal(pictures[0][:384], np.eye(3, dtype=np.uint8)[labels - 1] * 255)
    assert np.array_equal(pictures[1], pictures[2])
    assert np.array_equal(pictures[1][:384], np.array(make_palette(3), dtype=np.uint8)[labels - 1])


def test_the_callers_config_is_left_as_it_is(config, custom_data, checkpoint):
    cfg = Config.fromfile(config)
    before = cfg.pretty_text
    with as_in_a_new_process():
        Predictor(cfg, str(checkpoint), class_file=custom_data / "classes.txt", tta=True, device="cpu")
    assert cfg.pretty_text == before


def test_odd_images_are_read_as_the_pipelines_read_them_and_broken_ones_are_named(config, checkpoint, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("grey", "rgba", "16 bits", "turned by exif"):
        file, *_ = odd_image(name, folder)
        want = mmcv.imread(str(file), channel_order="rgb")
        np.testing.assert_array_equal(read_image(file), want, err_msg=name)
    (folder / "broken.jpg").write_bytes(b"no image")
    message = fails(infer_seg.run, config, checkpoint, folder, "--out-dir", tmp_path / "out")
    assert f"error: {folder / 'broken.jpg'} cannot be read as an image" in message
    shapes = {file.stem: read(file).shape for file in (tmp_path / "out" / "label_maps").iterdir()}
    assert shapes == {"grey": (64, 96), "rgba": (64, 96), "16_bits": (64, 96), "turned_by_exif": (96, 64)}
    assert len(list((tmp_path / "out" / "drawn").iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{own}/nowhere.jpg"], "{own}/nowhere.jpg"),
        (["{own}/images/validation", "--opacity", "1.5"], "--opacity must be from 0 to 1, got 1.5"),
        (["{own}/images/validation", "--classes", "{tmp}/two.txt"], "does not fit the model of the config"),
        (["{own}/images/validation", "--cfg-options", "tta_model=None", "--tta"], "--tta needs tta_model"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, custom_data, config, checkpoint, tmp_path):
    (tmp_path / "two.txt").write_text("a\nb\n")
    given = [argument.format(own=custom_data, tmp=tmp_path) for argument in arguments]
    said = fails(infer_seg.run, config, checkpoint, *given, "--out-dir", tmp_path / "out")
    assert message.format(own=custom_data) in said and not (tmp_path / "out").exists()


def test_a_config_that_names_no_classes_asks_for_a_file(config, custom_data, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "bare.pth")
    arguments = [config, tmp_path / "bare.pth", custom_data / "images" / "validation", "--out-dir", tmp_path / "out"]
    message = fails(infer_seg.run, *arguments)
    assert "the model has 3 classes but 21 names: pass a file of class names with --classes" in message
    message = fails(infer_seg.run, *arguments, "--cfg-options", "test_dataloader.dataset.type=BaseSegDataset")
    assert "neither the checkpoint nor the config names the classes" in message
