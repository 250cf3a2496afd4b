"""Any combination of a constructor's arguments builds a network that learns, or is refused by the argument's name."""

import re
from functools import partial

import pytest
import torch
from hypothesis import given
from torch import nn

from resnest_backbones import ResNeSt, ResNeStSpec
from tests.fuzzing import FEW, combined, try_many, values

STAGES = ["res2", "res3", "res4", "res5"]


SPEC = {
    "depths": values((1, 1, 1, 1), (2, 1, 1, 2), [1, 1, 1, 1], bad=((1, 1, 1), (0, 1, 1, 1), None, (1, 1, 1, True))),
    "stem_width": values(4, 8, 5, bad=(0, -1, 2.0, True)),
    "radix": values(1, 2, 4, bad=(0, 3, None, True)),
    "cardinality": values(1, 2, 4, bad=(0, 3, 1.0)),
    "bottleneck_width": values(8, 16, 40, bad=(0, 1, 3, "64")),
    "avd_first": values(True, False, bad=(None, "yes")),
}
OPTIONS = {
    "output_stride": values(8, 16, 32, bad=(4, 64, "8", None, 8.0, True)),
    "avg_pool_at_stride_1": values(True, False, bad=("no", None, 1)),
    "out_features": values(
        STAGES, ("conv1", "stem"), ["res3", "res5"], ("res4", "logits"), bad=((), "res5", ("res6",), None)
    ),
    "in_channels": values(1, 3, 4, bad=(0, None, 3.0)),
    "num_classes": values(None, 5, 1, bad=(0, "5", True)),
    "norm_layer": values(nn.BatchNorm2d, partial(nn.GroupNorm, 1), None, bad=("BN", nn.ReLU())),
    "attention_norm_layer": values(None, partial(nn.GroupNorm, 1), bad=("GN",)),
    "multi_grid": values(None, (1,), (1, 2), bad=((0,), 2, "12", (1.0,), (True,))),
    "deform_stages": values((), ("res5",), ["res3", "res4"], bad=("res5", None, ("stem",))),
    "deform_modulated": values(True, False, bad=("no", None, 2)),
    "deform_groups": values(1, 2, bad=(0, 7, None)),
    "drop_path_rate": values(0.0, 0.2, 0, bad=(1.0, -0.1, "0.1", float("nan"), True)),
    "drop_block_rate": values(0.0, 0.1, bad=(1.0, -0.1, "0.1")),
    "gradient_checkpointing": values(True, False, bad=("no", None)),
    "zero_init_last_norm": values(True, False, bad=("no", None)),
}
NAMED = re.compile(rf"({'|'.join([*SPEC, *OPTIONS])})\b")
ARGUMENTS = combined(SPEC, {}), combined({}, OPTIONS)


def check(spec: dict, options: dict) -> str:
    """Build, and train one step; what became of it."""
    torch.manual_seed(0)
    try:
        net = ResNeSt(ResNeStSpec("fuzzed", **spec), **options)
    except ValueError as error:
        assert NAMED.match(str(error)), f"the argument is not named: {error}"
        return "refused"
    image = torch.rand(2, options.get("in_channels", 3), 40, 56)
    outputs = net.train()(image)
    wanted = [f for f in ("conv1", "stem", *STAGES, "logits") if f in options.get("out_features", STAGES)]
    wanted += ["logits"] if options.get("num_classes") is not None and "logits" not in wanted else []
    assert list(outputs) == wanted
    for name, stride in net.feature_strides.items():
        size = tuple(-(-side // stride) for side in image.shape[2:])
        assert outputs[name].shape == (2, net.feature_channels[name], *size)
    if "res5" in net.feature_strides:
        assert net.feature_strides["res5"] == options.get("output_stride", 32)
    sum(value.square().mean() for value in outputs.values()).backward()
    assert all(value.isfinite().all() for value in outputs.values())
    lost = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert lost == [] or options.get("drop_path_rate"), lost
    return "built"


@FEW
@given(*ARGUMENTS)
@pytest.mark.fault("constructor arguments at random", "each network trains, or a ValueError names the argument")
def test_arguments_at_random_build_a_network_or_are_named(spec, options):
    check(spec, options)


@pytest.mark.slow
@pytest.mark.fault("constructor arguments at random", "each network trains, or a ValueError names the argument")
def test_many_arguments_at_random_build_a_network_or_are_named(record_property):
    try_many(check, record_property, "networks", *ARGUMENTS)
