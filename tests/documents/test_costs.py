"""The costs of the recipes are those of the models that their configs build, by a count that is fvcore's."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torchvision.ops import DeformConv2d

from documents.costs import COSTS_FILE, costs, count, multiply_adds, write_costs
from resnest_backbones import VARIANTS, build, list_variants
from resnest_backbones.model_zoo import RECIPES

# One of each kind of model: counted in every run; the others by `make test-full`.
SOME = (
    "mask_rcnn_resnet50_fpn_1x",
    "faster_rcnn_resnest50_dcnv2_fpn_1x",
    "panoptic_fpn_resnest200_3x_tricks",
    "fcn_resnest50-d8_4xb4-paper_ade20k-480x480",
    "deeplabv3plus_resnest101-d8_4xb2-80k_cityscapes-512x1024",
)


def test_every_recipe_has_its_cost_and_nothing_else_has_one(tmp_path):
    assert list(costs()) == list(RECIPES)
    write_costs(costs(), tmp_path / "costs.json")
    assert (tmp_path / "costs.json").read_text() == COSTS_FILE.read_text()
    assert all(cost.parameters > 20e6 and cost.multiply_adds > 1e11 for cost in costs().values())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in RECIPES]
)
def test_the_cost_of_a_recipe_is_that_of_the_model_that_its_config_builds(name):
    pytest.importorskip(RECIPES[name].framework)
    assert count(name) == costs()[name]


# tests/models/test_variants.py counts them with fvcore.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name.endswith(("t14", "t50")) else pytest.mark.slow) for name in list_variants()],
)
def test_the_count_of_a_network_is_that_of_its_record(name):
    with torch.device("meta"):
        net = build(name, out_features=("logits",), num_classes=1000).eval()
        assert multiply_adds(net, torch.zeros(1, 3, 224, 224)) == VARIANTS[name].multiply_adds


LAYERS = (
    nn.ConvTranspose2d(8, 16, 2, stride=2),
    nn.Conv2d(8, 16, 3, groups=4),
    nn.Sequential(nn.Flatten(), nn.Linear(800, 3)),
)


@pytest.mark.parametrize("module", LAYERS, ids=lambda module: type(module).__name__)
def test_the_count_of_a_layer_is_fvcores(module):
    image = torch.zeros(2, 8, 10, 10)
    analysis = FlopCountAnalysis(module, image).unsupported_ops_warnings(False).by_operator()
    assert multiply_adds(module, image) == analysis["conv"] + analysis["linear"] > 0


def test_a_norm_costs_one_for_each_element_and_a_deformable_convolution_what_a_convolution_does():
    with torch.device("meta"):
        for norm in (nn.BatchNorm2d(8), nn.SyncBatchNorm(8), nn.GroupNorm(2, 8)):
            assert multiply_adds(norm.eval(), torch.zeros(2, 8, 10, 10)) == 2 * 8 * 10 * 10
        image, offset = torch.zeros(2, 8, 10, 10), torch.zeros(2, 18, 10, 10)
        deformable = DeformConv2d(8, 16, 3, padding=1, groups=2)
        plain = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        assert multiply_adds(deformable, image, offset) == multiply_adds(plain, image) == 2 * 100 * 16 * 4 * 9
