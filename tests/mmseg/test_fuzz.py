"""Any combination of the backbone's arguments in a config builds one that learns, or is refused by its name."""

import re

import pytest
import torch
from hypothesis import given
from mmengine.registry import MODELS

import resnest_backbones.mmseg  # noqa: F401  (registers)
from resnest_backbones import ResNeStSpec
from tests.fuzzing import FEW, combined, try_many, values

SPEC = ResNeStSpec("tiny", (1, 1, 1, 1), stem_width=8, bottleneck_width=16)
NAME = {"name": values(SPEC, "resnest14", bad=("resnet50", None))}
OTHERS = {
    "out_indices": values((0, 1, 2, 3), [1, 3], (2,), bad=((), (4,), 3, (1, 1), "0")),
    "output_stride": values(8, 16, 32, bad=(4, None)),
    "avg_pool_at_stride_1": values(True, False, bad=("no", None)),
    "in_channels": values(1, 3, 4, bad=(0, None)),
    "frozen_stages": values(-1, 0, 2, 4, bad=(5, -2, None)),
    "norm_cfg": values(
        {"type": "BN", "requires_grad": True}, {"type": "SyncBN"}, {"type": "GN", "num_groups": 1}, {"type": "BN"},
        bad=({"type": "Unheard"}, {}, "BN", {"type": "GN"}),
    ),
    "norm_eval": values(True, False, bad=("yes",)),
    "with_cp": values(True, False, bad=("yes",)),
    "dcn": values(None, {"type": "DCN"}, {"type": "DCNv2", "deform_groups": 2}, bad=({"type": "DCNv3"}, "DCN", {})),
    "stage_with_dcn": values((False,) * 4, (False, False, True, True), bad=((True,), None)),
    "multi_grid": values(None, (1,), bad=((1, 2, 4), (0,))),
    "drop_path_rate": values(0.0, 0.2, bad=(1.5, None)),
    "drop_block_rate": values(0.0, 0.2, bad=(1.5,)),
    "zero_init_residual": values(True, False, bad=("yes",)),
}  # fmt: skip
NAMED = re.compile(rf"({'|'.join([*NAME, *OTHERS, 'deform_groups'])})\b")
SETTINGS = combined(NAME, OTHERS)


def check(settings: dict) -> str:
    """Build, and train one step; what became of it."""
    torch.manual_seed(0)
    try:
        net = MODELS.build({"type": "ResNeStBackbone", **settings})
    except ValueError as error:
        said = re.sub(r"^class `\w+` in \S+: ", "", str(error))  # some releases of MMEngine begin so
        assert NAMED.match(said), f"the argument is not named: {error}"
        return "refused"
    indices = settings.get("out_indices", (0, 1, 2, 3))
    outputs = net.train()(torch.rand(2, settings.get("in_channels", 3), 40, 56))
    stride = settings.get("output_stride", 32)
    for index, value in zip(indices, outputs, strict=True):
        step = min((4, 8, 16, 32)[index], stride)
        assert value.shape == (2, 256 << index, -(-40 // step), -(-56 // step)) and value.isfinite().all()
    if any(p.requires_grad for p in net.parameters()):
        sum(value.square().mean() for value in outputs).backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []
    return "built"


@FEW
@given(SETTINGS)
@pytest.mark.fault("backbone settings at random (MMSegmentation)", "it trains, or a ValueError names the setting")
def test_settings_at_random_build_a_backbone_or_are_named(settings):
    check(settings)


@pytest.mark.slow
@pytest.mark.fault("backbone settings at random (MMSegmentation)", "it trains, or a ValueError names the setting")
def test_many_settings_at_random_build_a_backbone_or_are_named(record_property):
    try_many(check, record_property, "backbones", SETTINGS)
