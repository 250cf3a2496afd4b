"""The blocks of the trunk: deformable convolution, drop path and DropBlock."""

import pytest
import torch
from torch import nn
from torchvision.ops import DropBlock2d, deform_conv2d

from resnest_backbones import Bottleneck, ResNeSt
from resnest_backbones.models.layers import DropBlock
from tests.models.test_resnest import STAGES, TINY, assert_every_parameter_learns, on_meta


def deformable_pair(modulated: bool, groups: int, fill_randomly) -> tuple[ResNeSt, ResNeSt]:
    """A deformable network, and the plain one with the same weights."""
    arguments = {"out_features": ("res2", "res4"), "output_stride": 8}
    deformable = ResNeSt(
        TINY, deform_stages=("res3", "res4"), deform_modulated=modulated, deform_groups=groups, **arguments
    )
    plain = fill_randomly(ResNeSt(TINY, **arguments))
    deformable.double().load_state_dict({**deformable.state_dict(), **plain.state_dict()})
    return deformable.eval(), plain.eval()


@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution_starts_as_the_plain_one_and_modulated_as_half_of_it(groups, fill_randomly):
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    deformable, plain = deformable_pair(False, groups, fill_randomly)
    torch.testing.assert_close(deformable(x), plain(x), rtol=1e-11, atol=1e-12)
    for stage in ("res2", "res3", "res4"):
        assert all((block.conv2_offset is not None) == (stage != "res2") for block in getattr(deformable, stage))
    deformable, plain = deformable_pair(True, groups, fill_randomly)
    plain.res3[0].conv2.conv.weight.data.mul_(0.5)
    x = torch.randn(2, 64, 12, 10, dtype=torch.float64).repeat(1, 4, 1, 1)
    torch.testing.assert_close(deformable.res3[0](x), plain.res3[0](x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_deformable_block_equals_torchvisions_operator(modulated, groups, fill_randomly):
    block = Bottleneck(
        32, 64, width=16, radix=2, dilation=2, deformable=True, deform_modulated=modulated, deform_groups=groups
    )
    fill_randomly(block).eval()
    assert block.conv2_offset.out_channels == (3 if modulated else 2) * 9 * groups
    x = torch.randn(2, 32, 6, 7, dtype=torch.float64)
    seen = []
    block.conv2.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block(x)

    before = block.conv1(x).relu()
    predicted = block.conv2_offset(before)
    offset, mask = predicted[:, : 18 * groups], predicted[:, 18 * groups :].sigmoid()
    assert offset.abs().max() > 0.5, "the offsets must matter"
    weight = block.conv2.conv.weight
    by_hand = deform_conv2d(before, offset, weight, padding=2, dilation=2, mask=mask if modulated else None)
    torch.testing.assert_close(seen[0], by_hand, rtol=0, atol=0)


@pytest.mark.parametrize("modulated", [False, True])
def test_offsets_learn_from_the_first_step(modulated):
    net = ResNeSt(TINY, deform_stages=STAGES, deform_modulated=modulated, deform_groups=2)
    assert_every_parameter_learns(net, net(torch.randn(2, 3, 64, 64)))
    for stage in STAGES:
        assert all(block.conv2_offset.weight.grad.abs().max() > 0 for block in getattr(net, stage))


def test_drop_path_keeps_the_expectation_and_rests_in_evaluation(fill_randomly):
    block = fill_randomly(Bottleneck(256, 64, width=16, drop_path_rate=0.25)).eval()
    samples = torch.randn(1, 256, 2, 2, dtype=torch.float64).expand(2000, -1, -1, -1)
    branch = []
    block.conv3.register_forward_hook(lambda module, inputs, output: branch.append(output[0].detach().clone()))
    whole = block(samples)
    torch.testing.assert_close(whole[0], (branch[0] + samples[0]).relu())

    block.drop_path.train()
    outputs = block(samples)
    dropped = (outputs == samples.relu()).all(dim=(1, 2, 3))
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.05)
    kept = (branch[0] / 0.75 + samples[0]).relu().expand_as(outputs)
    torch.testing.assert_close(outputs[~dropped], kept[~dropped])


def test_drop_path_grows_linearly_over_the_blocks():
    net = on_meta("resnest26", drop_path_rate=0.7)
    rates = [getattr(block.drop_path, "p", 0.0) for stage in STAGES for block in getattr(net, stage)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_drop_block_is_where_the_original_has_it_and_exact_at_rate_0(fill_randomly):
    net = fill_randomly(ResNeSt(TINY, drop_block_rate=0.1, norm_layer=None)).train()
    blocks = {name: module for name, module in net.named_modules() if isinstance(module, DropBlock2d)}
    names = [f"{stage}.{i}" for stage in ("res4", "res5") for i in (0, 1)]
    assert list(blocks) == [f"{name}.{part}" for name in names for part in ("conv2.drop_block", "drop_block")]
    assert all((block.p, block.block_size) == (0.1, 3) for block in blocks.values())
    calls, x = [], torch.randn(2, 3, 96, 96, dtype=torch.float64)
    for name, module in blocks.items():
        module.register_forward_pre_hook(lambda _, inputs, name=name: calls.append((name, inputs[0].shape[1])))
    plain = fill_randomly(ResNeSt(TINY, norm_layer=None)).train()
    assert not torch.equal(net(x)["res4"], plain(x)["res4"])
    width = {"res4": 64, "res5": 128}
    wanted = (("drop_block", 1), ("conv2.drop_block", 2), ("drop_block", 16))  # with channels, in widths of the block
    assert calls == [(f"{name}.{part}", times * width[name[:4]]) for name in names for part, times in wanted]
    for rate, mode in ((0.0, True), (0.1, False)):  # as a trainer sets it
        for block in blocks.values():
            block.p = rate
        for name, feature in net.train(mode)(x).items():
            assert torch.equal(feature, plain.train(mode)(x)[name])


@pytest.mark.parametrize("size", [(14, 14), (3, 7), (2, 5), (1, 1)])
def test_drop_block_keeps_the_expectation(size):
    drop, ones = DropBlock.of_rate(0.2).train(), torch.ones(64, 96, *size, dtype=torch.float64)
    dropped = drop(ones)
    assert dropped.mean().item() == pytest.approx(1.0, abs=1e-6)
    # Blocks overlap, so that somewhat less than the rate is dropped (equation 1 of arXiv 1810.12890).
    assert 0.15 <= (dropped == 0).double().mean().item() <= 0.21
    if min(size) >= 3:  # a value is dropped with a whole block around it
        zero = (dropped == 0).double()
        whole_blocks = nn.functional.pad(-nn.functional.max_pool2d(-zero, 3, 1), [2] * 4)
        assert torch.equal(nn.functional.max_pool2d(whole_blocks, 3, 1), zero)


def test_a_compiled_block_takes_every_rate_of_drop_block(fill_randomly):
    block = fill_randomly(Bottleneck(256, 64, width=16, drop_block_rate=0.1, norm_layer=None)).train()
    graphs, counts = [], []
    x = torch.randn(2, 256, 5, 5, dtype=torch.float64)
    compiled = torch.compile(block, backend=lambda graph, _: graphs.append(graph) or graph)
    for rate in (0.1, 0.2, 0.3, 0.0):
        for module in (block.drop_block, block.conv2.drop_block):
            module.p = rate
        torch.manual_seed(1)
        wanted = block(x)
        torch.manual_seed(1)
        torch.testing.assert_close(compiled(x), wanted)
        counts.append(len(graphs))
    assert counts == [counts[0]] * 4


def test_a_bad_stride_of_a_block_is_named():
    with pytest.raises(ValueError, match=r"stride must be 1 if avg_pool is False, got 2"):
        Bottleneck(64, 64, width=64, stride=2)
    with pytest.raises(ValueError, match=r"stride must be 1 or 2, got 3"):
        Bottleneck(64, 64, width=64, stride=3, avg_pool=True)


def test_a_stem_without_its_pool_is_half_of_it():
    net = ResNeSt(TINY).eval()
    x = torch.randn(1, 3, 32, 48)
    half = net.stem[:-1](x)
    assert half.shape == (1, 16, 16, 24) and isinstance(net.stem[-1], nn.MaxPool2d)
    torch.testing.assert_close(net.stem[-1](half), net.stem(x))
