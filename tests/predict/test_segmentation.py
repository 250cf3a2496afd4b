"""Predictions of a segmentor are the label maps of MMSegmentation."""

import numpy as np
import pytest

pytest.importorskip("mmseg")

import torch
from mmcv.transforms import Resize
from PIL import Image

from resnest_backbones.export.models import build_model
from resnest_backbones.export.preprocess import resize_as_pipeline
from resnest_backbones.export.segmentors import export_segmentor
from resnest_backbones.mmseg.config import load_config
from resnest_backbones.mmseg.engine.infer import Predictor as FrameworkPredictor
from resnest_backbones.predict import Predictor
from resnest_backbones.predict.draw import draw_label_map
from resnest_backbones.predict.predictor import scores_by_windows
from tests.acceleration.test_inference import trained
from tests.export.helpers import drawn
from tests.export.test_segmentors import PAPER, segmentor
from tests.mmseg.helpers import as_in_a_new_process, write_config


@pytest.fixture(autouse=True)
def mmengine_as_in_a_new_process():
    with as_in_a_new_process():
        yield


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("keep_ratio", [True, False])
@pytest.mark.parametrize("size", [(64, 48), (33, 200)])
def test_images_are_resized_as_the_pipeline_does(size, keep_ratio, backend):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    step = Resize(scale=(80, 60), keep_ratio=keep_ratio, backend=backend)
    facts = {"scale": [80, 60], "keep_ratio": keep_ratio, "backend": backend}
    assert np.array_equal(resize_as_pipeline(image, facts), step({"img": image})["img"])


@pytest.mark.parametrize("size", [(100, 130), (64, 64), (40, 90)])
def test_windows_slide_as_the_segmentors_do(size):
    model = segmentor(PAPER, {"out_indices": (0, 1)}, {"in_channels": 512, "in_index": 1})
    model.test_cfg.update(crop_size=(64, 64), stride=(40, 48))
    exportable = export_segmentor(model)
    assert exportable.metadata["window"] == {"size": [64, 64], "stride": [40, 48]}
    (image,) = drawn((1, 3, *size))
    with torch.no_grad():
        scores = scores_by_windows(lambda x: exportable.module(x)[0], image, exportable.metadata["window"])
        data = model.data_preprocessor({"inputs": [image[0]]})
        wanted = model.slide_inference(data["inputs"], [{"img_shape": size, "pad_shape": size, "ori_shape": size}])
    assert torch.allclose(scores, wanted, atol=1e-5 * float(wanted.abs().max()))


def test_label_maps_are_those_of_the_framework(tmp_path):
    config, checkpoint = write_config(tmp_path, num_classes=3), str(tmp_path / "model.pth")
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
    names = str(tmp_path / "classes.txt")
    model = trained(build_model(str(config), None, classes=names).model)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, checkpoint)
    image = np.random.default_rng(0).integers(0, 256, (75, 99, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    wanted = FrameworkPredictor(load_config(config), checkpoint, class_file=names)(tmp_path / "photo.png")
    found = Predictor.from_config(str(config), checkpoint, classes=names)
    labels = found(image).labels
    assert labels.shape == (75, 99) and np.mean(labels == wanted) > 0.999 and len(np.unique(labels)) > 1
    picture = draw_label_map(image, labels, found.classes, found.metadata["palette"])
    assert picture.width >= 480 and picture.height > picture.width * 75 // 99
