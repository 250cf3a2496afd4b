import re

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from resnest_backbones.mmseg.preprocessor import ResNeStDataPreProcessor
from resnest_backbones.weights import WEIGHTS


def bgr_image(height: int = 20, width: int = 31) -> torch.Tensor:
    """As PackSegInputs gives it: (3, H, W) in uint8; its channels differ much, so that an exchange shows."""
    image = np.random.default_rng(0).integers(0, 86, (3, height, width))
    return torch.from_numpy((image + np.array([0, 85, 170])[:, None, None]).astype(np.uint8))


def sample(height: int = 20, width: int = 31) -> SegDataSample:
    return SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, height, width, dtype=torch.int64)))


@pytest.mark.parametrize("name", WEIGHTS)
def test_images_come_out_as_the_weights_expect_them(name):
    record, image = WEIGHTS[name], bgr_image()
    assert record.channel_order == "RGB"
    got = ResNeStDataPreProcessor(name)({"inputs": [image], "data_samples": [sample()]})["inputs"]
    rgb = image.numpy().astype(np.float64)[::-1] / 255
    want = (rgb - np.array(record.mean)[:, None, None]) / np.array(record.std)[:, None, None]
    assert got.shape == (1, 3, 20, 31) and got.dtype == torch.float32
    np.testing.assert_allclose(got[0].numpy(), want, rtol=0, atol=1e-6)


def test_training_images_are_padded_to_the_size_and_larger_ones_left():
    preprocess = ResNeStDataPreProcessor("resnest50", size=[24, 32])
    data = preprocess({"inputs": [bgr_image(), bgr_image(24, 32)], "data_samples": [sample(), sample(24, 32)]}, True)
    assert data["inputs"].shape == (2, 3, 24, 32)
    assert (data["inputs"][0, :, 20:] == 0).all() and (data["inputs"][0, :, :, 31:] == 0).all()
    labels = data["data_samples"][0].gt_sem_seg.data
    assert labels.shape == (1, 24, 32)
    assert (labels[:, :20, :31] == 1).all() and (labels[:, 20:] == 255).all() and (labels[:, :, 31:] == 255).all()


def test_the_other_settings_arrive():
    built = MODELS.build({"type": "ResNeStDataPreProcessor", "weights": "resnest://resnest101"})
    assert torch.equal(built.mean, ResNeStDataPreProcessor("resnest101").mean)
    assert not built.state_dict()  # checkpoints of other preprocessors stay loadable
    preprocess = ResNeStDataPreProcessor(
        "resnest50", size_divisor=16, pad_val=2.5, seg_pad_val=9, test_cfg={"size_divisor": 32}
    )
    data = preprocess({"inputs": [bgr_image()], "data_samples": [sample()]}, True)
    assert data["inputs"].shape == (1, 3, 32, 32)
    assert (data["inputs"][0, :, 20:] == 2.5).all()
    assert (data["data_samples"][0].gt_sem_seg.data[:, 20:] == 9).all()
    data = preprocess({"inputs": [bgr_image(33, 5)], "data_samples": [sample(33, 5)]}, False)
    assert data["inputs"].shape == (1, 3, 64, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "resnest51"}, "no published weights are known for 'resnest51'"),
        ({"weights": None}, "weights must be the name of a published weight file, got None"),
        ({"weights": "resnest50", "size": (4, 4), "size_divisor": 8},
         "size must be None if size_divisor is 8, got (4, 4)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ResNeStDataPreProcessor(**arguments)
