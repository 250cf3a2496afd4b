"""Any combination of the backbone's config keys builds one that learns, or is refused by a key's name."""

import re

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.modeling import build_backbone
from hypothesis import given

from tests.detectron2 import helpers
from tests.fuzzing import FEW, combined, try_many, values

STAGES = ["res2", "res3", "res4", "res5"]
BUILDERS = ("build_resnest_backbone", "build_resnest_fpn_backbone", "build_retinanet_resnest_fpn_backbone")
KEYS = combined(
    {
        "BACKBONE.NAME": values(*BUILDERS),
        "RESNETS.OUT_FEATURES": values(STAGES, ["stem", *STAGES], ["res3", "res4", "res5"], ["res4"], bad=([], ["p2"])),
    },
    {
        "RESNETS.DEPTH": values(14, 26, bad=(18, 0)),
        "RESNETS.RADIX": values(1, 2, 4, bad=(0, 3)),
        "RESNETS.NUM_GROUPS": values(1, 2, bad=(0, 3)),
        "RESNETS.BOTTLENECK_WIDTH": values(64, 40, 16, bad=(0, 1)),
        "RESNETS.WIDTH_PER_GROUP": values(64, 32, bad=(0, 30)),
        "RESNETS.AVD_FIRST": values(True, False),
        "RESNETS.NORM": values("BN", "FrozenBN", "GN", "LN", "", bad=("BatchNorm", "None")),
        "RESNETS.DEFORM_ON_PER_STAGE": values([False] * 4, [False, False, True, True], bad=([], [True] * 5)),
        "RESNETS.DEFORM_MODULATED": values(True, False),
        "RESNETS.DEFORM_NUM_GROUPS": values(1, 2, bad=(0, 7)),
        "RESNETS.RES4_DILATION": values(1, bad=(2, 3)),
        "RESNETS.RES5_DILATION": values(1, 2, bad=(4, 0)),
        "RESNETS.RES5_MULTI_GRID": values([], [1], [1, 2], bad=([0], [1, 2, 4])),
        "RESNETS.AVG_POOL_AT_STRIDE_1": values(True, False),
        "RESNETS.DROP_PATH_RATE": values(0.0, 0.2, bad=(1.0, -1.0)),
        "RESNETS.DROP_BLOCK_RATE": values(0.0, 0.2, bad=(1.0, -1.0)),
        "RESNETS.GRADIENT_CHECKPOINTING": values(True, False),
        "BACKBONE.FREEZE_AT": values(-1, 0, 1, 2, 5, bad=(-2, 6)),
        "FPN.IN_FEATURES": values(STAGES, ["res3", "res4", "res5"], ["res4"], bad=([], ["res3", "res5"], ["stem"])),
        "FPN.OUT_CHANNELS": values(8, 16, bad=(0, -1)),
        "FPN.NORM": values("", "BN", "GN", bad=("Norm",)),
        "FPN.FUSE_TYPE": values("sum", "avg", bad=("max",)),
    },
)


def check(keys: dict) -> str:
    """Build, and train one step; what became of it."""
    keys = {f"MODEL.{key}": value for key, value in keys.items()}
    if keys.get("MODEL.FPN.NORM") == "GN":
        keys["MODEL.FPN.OUT_CHANNELS"] = 32  # Detectron2's GN has 32 groups
    cfg = helpers.resnest_config({"MODEL.FPN.OUT_CHANNELS": 8, "MODEL.FPN.IN_FEATURES": STAGES}, keys)
    torch.manual_seed(0)
    try:
        net = build_backbone(cfg).train()
    except ValueError as error:
        assert re.match(r"MODEL\.(RESNETS|FPN|BACKBONE)\.[A-Z0-9_]+", str(error)), f"the key is not named: {error}"
        return "refused"
    outputs = net(torch.rand(2, 3, 64, 96))
    assert list(outputs) == list(net.output_shape())
    for name, shape in net.output_shape().items():
        height, width = (-(-side // shape.stride) for side in (64, 96))
        assert outputs[name].shape == (2, shape.channels, height, width) and outputs[name].isfinite().all()
    trainable = [p for p in net.parameters() if p.requires_grad]
    if trainable:
        sum(value.square().mean() for value in outputs.values()).backward()
    lost = helpers.parameters_without_gradient(net)
    assert lost == [], f"DistributedDataParallel would miss their gradients: {lost}"
    return "built"


@FEW
@given(KEYS)
@pytest.mark.fault("config keys of the backbone at random (Detectron2)", "it trains, or a ValueError names the key")
def test_keys_at_random_build_a_backbone_or_are_named(keys):
    check(keys)


@pytest.mark.slow
@pytest.mark.fault("config keys of the backbone at random (Detectron2)", "it trains, or a ValueError names the key")
def test_many_keys_at_random_build_a_backbone_or_are_named(record_property):
    try_many(check, record_property, "backbones", KEYS)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"FPN.IN_FEATURES": ["res2", "res6"]}, r"IN_FEATURES must be of MODEL\.RESNETS\.OUT_FEATURES, .*got"),
        ({"FPN.IN_FEATURES": ["res3", "res5"]}, r"strides that double .* got 8, 32"),
        ({"RESNETS.RES5_DILATION": 2}, r"strides that double .* got 4, 8, 16, 16"),
        ({"FPN.FUSE_TYPE": "max"}, r"MODEL\.FPN\.FUSE_TYPE must be avg or sum, got 'max'"),
    ],
    ids=str,
)
def test_a_bad_key_of_the_pyramid_is_named(keys, message):
    keys = {f"MODEL.{key}": value for key, value in keys.items()}
    with pytest.raises(ValueError, match=message):
        build_backbone(helpers.resnest_config(helpers.FPN_DETECTOR, keys))
