"""An optimised segmentor labels what the segmentor labels."""

import pytest

pytest.importorskip("mmseg")

import torch
from mmcv.cnn import ConvModule
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from resnest_backbones import model_zoo
from resnest_backbones.acceleration.inference import optimize_for_inference
from tests.acceleration.test_inference import trained

CONFIGS = ["deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480", "upernet_resnest50_4xb4-160k_ade20k-512x512"]


@pytest.mark.parametrize("name", CONFIGS)
def test_an_optimised_segmentor_equals_the_segmentor(name):
    cfg = model_zoo.get_config(name)
    init_default_scope("mmseg")
    cfg.model.backbone.update(name="resnest14", init_cfg=None)
    torch.manual_seed(0)
    model = trained(MODELS.build(cfg.model)).double()
    fast = optimize_for_inference(model)
    assert type(fast) is type(model)
    assert not [m for m in fast.modules() if isinstance(m, ConvModule) and isinstance(m.norm, torch.nn.BatchNorm2d)]
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        wanted, found = model(x), fast(x)
    assert (found - wanted).abs().max() <= 1e-11 * wanted.abs().max()
