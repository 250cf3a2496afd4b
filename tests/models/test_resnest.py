"""The trunk: what it declares is what it computes, for every variant and every argument."""

import copy
import inspect
import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from resnest_backbones import VARIANTS, ResNeSt, ResNeStSpec, build, list_variants, optimize_for_inference
from resnest_backbones.models.arguments import ResNeStOptions, TrunkOptions

STAGES = ("res2", "res3", "res4", "res5")
ALL = ("stem", *STAGES, "logits")
TINY = ResNeStSpec("tiny", (2, 1, 2, 2), stem_width=8, bottleneck_width=16)


def dilations(net: ResNeSt, stage: str) -> list[int]:
    return [block.conv2.conv.dilation[0] for block in getattr(net, stage)]


def on_meta(spec: str | ResNeStSpec, **arguments) -> ResNeSt:
    with torch.device("meta"):
        return ResNeSt(spec, **arguments)


def assert_every_parameter_learns(net: nn.Module, outputs: dict[str, torch.Tensor]) -> None:
    sum(x.square().mean() for x in outputs.values()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


# One of each kind of block; the rest differ in their number.
FAST = ("resnest14", "resnest50_fast_1s1x64d", "resnest50_fast_4s2x40d")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in list_variants()]
)
def test_every_variant_computes_what_it_declares_and_learns(name):
    net = build(name, out_features=ALL, num_classes=7).train()
    outputs = net(torch.randn(2, 3, 33, 47))
    stem = 2 * VARIANTS[name].stem_width
    assert net.feature_channels == {"stem": stem, "res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
    assert net.feature_strides == {"stem": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
    assert list(outputs) == list(ALL)
    assert outputs["logits"].shape == (2, 7)
    for feature in net.feature_channels:
        rounded_up = [-(-side // net.feature_strides[feature]) for side in (33, 47)]
        assert outputs[feature].shape == (2, net.feature_channels[feature], *rounded_up), feature
    assert_every_parameter_learns(net, outputs)


@pytest.mark.parametrize(
    ("out_features", "num_classes"), [(("stem",), None), (("res2", "res3"), None), (("logits",), 5), (("res2",), 5)]
)
def test_no_parameter_is_made_that_gets_no_gradient(out_features, num_classes):
    net = ResNeSt(TINY, out_features=out_features, num_classes=num_classes)
    outputs = net(torch.randn(2, 3, 64, 64))
    assert set(outputs) == {*out_features, *(["logits"] if num_classes else [])}
    assert_every_parameter_learns(net, dict([outputs.popitem()]))


def test_feature_info_and_out_channels_describe_what_is_returned():
    net = on_meta(TINY, out_features=("res4", "conv1", "stem"), output_stride=32)
    assert net.feature_info == (("conv1", 16, 2), ("stem", 16, 4), ("res4", 1024, 16))
    assert net.feature_info[2].name == "res4" and net.out_channels == 1024
    assert on_meta(TINY, out_features=("conv1",)).out_channels == 16
    assert on_meta(TINY, num_classes=3, out_features=("logits",)).feature_info == ()


@pytest.mark.parametrize("out_features", [("conv1", "res3"), ("conv1",)])
def test_conv1_is_the_stem_before_its_pool_and_changes_nothing_else(out_features, fill_randomly):
    net = fill_randomly(ResNeSt(TINY, out_features=out_features))
    plain = fill_randomly(ResNeSt(TINY, out_features=("stem", "res3")))
    x = torch.randn(2, 3, 33, 48, dtype=torch.float64)
    for model in (net, net.eval(), optimize_for_inference(net)):
        found, wanted = model(x), plain.train(net.training)(x)
        assert found["conv1"].shape == (2, 16, 17, 24)
        torch.testing.assert_close(net.stem.maxpool(found["conv1"]), wanted["stem"], rtol=1e-9, atol=1e-12)
        for name in out_features[1:]:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-12)
    fresh = ResNeSt(TINY, out_features=out_features)
    assert_every_parameter_learns(fresh, fresh(x.float()))


@pytest.mark.parametrize(
    "options", [{}, {"avg_pool_at_stride_1": False, "deform_stages": STAGES}, {"multi_grid": (1, 2)}]
)
def test_a_changed_output_stride_is_the_one_that_was_built(options):
    for spec in (TINY, replace(TINY, avd_first=True)):
        net = on_meta(spec, **options)
        for output_stride in (8, 16, 32):
            built = on_meta(spec, output_stride=output_stride, **options)
            net.set_output_stride(output_stride)
            assert str(net) == str(built) and net.feature_info == built.feature_info
            assert net.output_stride == built.output_stride == output_stride
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        net.set_output_stride(4)


def test_a_copy_and_another_memory_format_compute_the_same(fill_randomly):
    net = fill_randomly(ResNeSt(TINY, drop_path_rate=0.1, deform_stages=("res5",))).eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    want = net(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(x), want, rtol=0, atol=0)
    plain = fill_randomly(ResNeSt(TINY)).eval()
    want = plain(x)
    torch.testing.assert_close(
        plain.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), want
    )


def test_convolutions_start_with_the_originals_spread():
    net = build("resnest14")
    for conv in (net.stem.conv1_2, net.res3[0].conv2.conv, net.res5[0].conv3, net.res5[0].conv2.fc1):
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


DILATIONS = {
    32: {"res4": [1] * 6, "res5": [1, 1, 1]},
    16: {"res4": [1] * 6, "res5": [1, 2, 2]},
    8: {"res4": [1, 2, 2, 2, 2, 2], "res5": [2, 4, 4]},
}


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("name", ["resnest50", "resnest50_fast_2s2x40d"])
def test_blocks_are_dilated_and_pooled_as_in_the_original_or_only_where_they_stride(name, output_stride, everywhere):
    net = on_meta(name, output_stride=output_stride, avg_pool_at_stride_1=everywhere)
    default = on_meta(name, output_stride=output_stride)
    assert str(net) == str(default) or not everywhere
    assert {stage: dilations(net, stage) for stage in ("res4", "res5")} == DILATIONS[output_stride]
    assert dilations(net, "res2") == [1] * 3
    assert dilations(net, "res3") == [1] * 4
    stride_so_far = 4
    for stage in STAGES:
        for i, block in enumerate(getattr(net, stage)):
            pools = {"before": block.pool_before, "after": block.pool_after}
            pooled = [place for place, pool in pools.items() if isinstance(pool, nn.AvgPool2d)]
            stride = net.feature_strides[stage] // stride_so_far if i == 0 else 1
            if i > 0 or stage == "res2" or (stride == 1 and not everywhere):
                assert pooled == [] and not isinstance(block.shortcut_pool, nn.AvgPool2d)
                continue
            assert pooled == (["before"] if "fast" in name else ["after"])
            pool = pools[pooled[0]]
            assert (pool.kernel_size, pool.stride, pool.padding) == (3, stride, 1)
            assert isinstance(block.shortcut_pool, nn.AvgPool2d) == (stride == 2)
        stride_so_far = net.feature_strides[stage]


@pytest.mark.parametrize(
    ("output_stride", "strides", "grid"),
    [(32, (8, 16, 32), [1, 2, 4]), (16, (8, 16, 16), [2, 4, 8]), (8, (8, 8, 8), [4, 8, 16])],
)
def test_sizes_and_multi_grid_follow_the_output_stride(output_stride, strides, grid):
    size = (33, 47)
    net = ResNeSt(TINY, output_stride=output_stride, out_features=("res3", "res4", "res5")).eval()
    assert tuple(net.feature_strides.values()) == strides
    for (name, x), stride in zip(net(torch.randn(1, 3, *size)).items(), strides, strict=True):
        assert x.shape[2:] == tuple(-(-side // stride) for side in size), name
    net = on_meta("resnest50", output_stride=output_stride, multi_grid=(1, 2, 4))
    assert dilations(net, "res5") == grid
    assert dilations(net, "res4") == DILATIONS[output_stride]["res4"]


def test_another_norm_replaces_every_batch_norm_and_the_attention_may_have_its_own():
    net = ResNeSt(TINY, norm_layer=partial(nn.GroupNorm, 4), attention_norm_layer=partial(nn.GroupNorm, 1))
    groups = {name: m.num_groups for name, m in net.named_modules() if isinstance(m, nn.GroupNorm)}
    assert groups.keys() == {name for name, m in on_meta(TINY).named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert all(number == (1 if name.endswith("conv2.bn1") else 4) for name, number in groups.items())
    assert_every_parameter_learns(net, net(torch.randn(1, 3, 32, 32)))


def test_the_typed_options_are_those_of_the_constructor():
    parameters = [p for p in inspect.signature(ResNeSt).parameters.values() if p.kind is p.KEYWORD_ONLY]
    written = {**TrunkOptions.__annotations__, **ResNeStOptions.__annotations__}
    assert {p.name: p.annotation for p in parameters} == {k: v.__forward_arg__ for k, v in written.items()}


@pytest.mark.parametrize("in_channels", [1, 4])
def test_without_norms_there_is_none_and_images_may_have_any_channels(in_channels):
    net = ResNeSt(TINY, norm_layer=None, in_channels=in_channels)
    assert not [name for name in net.state_dict() if "norm" in name or "bn" in name]
    assert_every_parameter_learns(net, net(torch.randn(1, in_channels, 32, 32)))


def test_zero_initialised_blocks_start_as_their_shortcuts():
    net = ResNeSt(TINY, norm_layer=partial(nn.GroupNorm, 4), zero_init_last_norm=True).eval()
    for block in (block for stage in STAGES for block in getattr(net, stage)):
        assert not block.conv3.norm.weight.any()
        assert block.conv1.norm.weight.all()
    block = net.res2[1]
    x = torch.randn(1, 256, 4, 4)
    torch.testing.assert_close(block(x), x.relu(), rtol=0, atol=0)


@pytest.mark.parametrize("frozen", [False, True])
def test_checkpointing_changes_memory_and_nothing_else(frozen, fill_randomly):
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    results = []
    for gradient_checkpointing in (False, True):
        net = ResNeSt(TINY, drop_path_rate=0.3, gradient_checkpointing=gradient_checkpointing, deform_stages=("res4",))
        fill_randomly(net).train()
        if frozen:  # as detectors do: batch norms in evaluation within a network in training
            net.res2.eval()
        for _ in range(2):
            torch.manual_seed(1)
            outputs = net(x)
            sum(value.square().mean() for value in outputs.values()).backward()
        gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
        results.append((outputs, gradients, dict(net.named_buffers())))
    for without, with_checkpointing in zip(*results, strict=True):
        torch.testing.assert_close(with_checkpointing, without, rtol=1e-12, atol=1e-15)
    buffers = results[1][2]
    assert buffers["res5.0.conv1.norm.num_batches_tracked"] == 5
    assert buffers["res2.0.conv1.norm.num_batches_tracked"] == (3 if frozen else 5)


def test_checkpointing_recomputes_blocks_in_training_only_and_leaves_buffers_where_they_were():
    net = ResNeSt(TINY, gradient_checkpointing=True, out_features=("res2",))
    before = {name: buffer.data_ptr() for name, buffer in net.named_buffers()}
    x, calls = torch.randn(2, 3, 32, 32), []
    net.res2[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    net.eval()(x)["res2"].mean().backward()
    assert len(calls) == 1
    with torch.no_grad():
        net.train()(x)
    assert len(calls) == 2
    net(x)["res2"].mean().backward()
    assert len(calls) == 4
    assert {name: buffer.data_ptr() for name, buffer in net.named_buffers()} == before


def test_stages_are_called_so_that_hooks_and_wrappers_of_them_work():
    net, calls = ResNeSt(TINY).train(), []
    for stage in STAGES:
        net.get_submodule(stage).register_forward_hook(lambda module, inputs, output, s=stage: calls.append(s))
    net(torch.randn(2, 3, 32, 32))
    assert calls == list(STAGES)
    calls.clear()
    net.gradient_checkpointing = True
    net(torch.randn(2, 3, 32, 32))
    assert calls == list(STAGES)


@pytest.mark.parametrize("radix", [1, 2, 4])
def test_torchvision_extracts_features_of_inner_modules(radix, fill_randomly):
    spec = ResNeStSpec("tiny", (1, 1, 1, 2), stem_width=8, radix=radix, bottleneck_width=16)
    net = fill_randomly(ResNeSt(spec, gradient_checkpointing=radix == 4))
    body = create_feature_extractor(net, {"stem.relu3": "half", "res3": "3", "res5.1.conv2": "splits", "res5": "5"})
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    for model in (net.train(), body.train()):
        torch.manual_seed(0)
        model(x)["res3" if model is net else "3"].sum().backward()
    with torch.no_grad():
        found, wanted = body.eval()(x), net.eval()(x)
    assert found["half"].shape == (2, 16, 32, 24) and found["splits"].shape == (2, 128, 2, 2)
    torch.testing.assert_close([found["3"], found["5"]], [wanted["res3"], wanted["res5"]])


NORM = "must be a callable from channels to a module, or None"
BAD = [
    ({"spec": 14}, r"name must be one of .*, got 14; available: resnest14, "),
    ({"output_stride": 64}, r"output_stride must be 8, 16 or 32, got 64"),
    ({"out_features": "res5"}, r"out_features must be a sequence of conv1, stem, res2, .*, res5, logits, got 'res5'"),
    ({"out_features": ()}, r"out_features must name at least one of conv1, .*, logits, got none"),
    ({"out_features": ("logits",)}, r"num_classes must be a positive integer if out_features has 'logits', got None"),
    ({"norm_layer": "BN"}, rf"norm_layer {NORM}, got 'BN'"),
    ({"norm_layer": lambda channels: 3}, rf"norm_layer {NORM}.* 3"),
    ({"multi_grid": (1, 2, 4)}, r"multi_grid must be 1 positive integers, one per block of res5, got \(1, 2, 4\)"),
    ({"multi_grid": (1,), "out_features": ("res4",)}, r"multi_grid must be None if res5 is not built, got \(1,\)"),
    ({"deform_stages": ("stem",)}, r"deform_stages must be a sequence of res2, res3, res4, res5, got 'stem'"),
    ({"deform_groups": 3, "deform_stages": ("res3",)}, r"deform_groups must divide the block's width, 128, got 3"),
    ({"drop_block_rate": "0.1"}, r"drop_block_rate must be a number in \[0, 1\), got '0.1'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_bad_argument_is_named_with_what_is_allowed_and_what_came(arguments, message):
    with pytest.raises(ValueError, match=message):
        on_meta(**{"spec": "resnest14", **arguments})
