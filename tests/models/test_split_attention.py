"""SplitAttentionConv2d against the paper's equations, written out."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from resnest_backbones import SplitAttentionConv2d
from resnest_backbones.models.split_attention import attention_channels

CASES = [(radix, cardinality) for radix in (1, 2, 3, 4) for cardinality in (1, 2, 4)]


def written_out(block: SplitAttentionConv2d, x: torch.Tensor) -> torch.Tensor:
    """Equations 1-4 of the paper, one group, one split and one channel at a time."""
    radix, groups, per_group = block.radix, block.cardinality, block.channels // block.cardinality
    u = F.relu(block.bn0(F.conv2d(x, block.conv.weight, padding=1, groups=groups * radix)))
    splits = [u[:, r * block.channels : (r + 1) * block.channels] for r in range(radix)]
    pooled = torch.stack(splits).sum(0).mean(dim=(2, 3), keepdim=True)
    logits = block.fc2(F.relu(block.bn1(block.fc1(pooled))))[:, :, 0, 0]
    out = torch.zeros_like(splits[0])
    for k in range(groups):
        for c in range(per_group):
            scores = torch.stack([logits[:, (k * radix + r) * per_group + c] for r in range(radix)])
            weights = scores.softmax(dim=0) if radix > 1 else scores.sigmoid()
            channel = k * per_group + c
            out[:, channel] = sum(weights[r][:, None, None] * splits[r][:, channel] for r in range(radix))
    return out


@pytest.mark.parametrize(("radix", "cardinality"), CASES)
@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, partial(nn.GroupNorm, 4), None])
def test_it_computes_the_equations_of_the_paper(radix, cardinality, norm_layer, fill_randomly):
    block = SplitAttentionConv2d(48, radix=radix, cardinality=cardinality, norm_layer=norm_layer)
    block = fill_randomly(block).eval()
    x = torch.randn(3, 48, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(block(x), written_out(block, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("radix", "cardinality"), [case for case in CASES if case[0] > 1])
def test_attention_sums_to_one_over_the_splits(radix, cardinality, fill_randomly):
    block = fill_randomly(SplitAttentionConv2d(48, radix=radix, cardinality=cardinality)).eval()
    attention = block.attention(torch.randn(3, 48, 1, 1, dtype=torch.float64))
    assert attention.shape == (3, radix, 48, 1, 1)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(3, 48, 1, 1, dtype=torch.float64))
    assert attention.std(dim=1).min() > 0, "the splits must not all weigh the same"


@pytest.mark.parametrize("cardinality", [1, 2, 4])
def test_radix_one_is_a_sigmoid_gate_on_each_channel(cardinality, fill_randomly):
    block = fill_randomly(SplitAttentionConv2d(48, radix=1, cardinality=cardinality)).eval()
    x = torch.randn(3, 48, 6, 5, dtype=torch.float64)
    plain = F.relu(block.bn0(block.conv(x)))
    gate = block.attention(plain.mean(dim=(2, 3), keepdim=True))[:, 0]
    assert gate.shape == (3, 48, 1, 1)
    assert ((gate > 0) & (gate < 1)).all()
    assert gate.std(dim=1).min() > 0, "each channel has a gate of its own"
    torch.testing.assert_close(block(x), gate * plain)
    assert not torch.allclose(block(x), plain)


@pytest.mark.parametrize(("channels", "radix", "hidden"), [(64, 1, 32), (64, 2, 32), (64, 4, 64), (512, 2, 256)])
def test_the_hidden_layer_is_a_quarter_and_at_least_32_wide(channels, radix, hidden):
    assert attention_channels(channels, radix) == hidden
    assert SplitAttentionConv2d(channels, radix=radix).fc1.out_channels == hidden


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_dilation_keeps_the_size_and_is_the_convolutions(dilation):
    block = SplitAttentionConv2d(8, dilation=dilation).eval()
    assert block(torch.randn(1, 8, 7, 9)).shape == (1, 8, 7, 9)
    assert block.conv.dilation == (dilation, dilation)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_deformable_block_samples_at_the_offsets(modulated, groups, fill_randomly):
    block = fill_randomly(SplitAttentionConv2d(8, deformable=True, dilation=2)).eval()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    offset = torch.randn(2, 2 * groups * 9, 6, 5, dtype=torch.float64)
    mask = torch.rand(2, groups * 9, 6, 5, dtype=torch.float64) if modulated else None
    seen = []
    block.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block(x, offset, mask)
    by_hand = deform_conv2d(x, offset, block.conv.weight, padding=2, dilation=2, mask=mask)
    torch.testing.assert_close(seen[0], by_hand, rtol=0, atol=0)


@pytest.mark.parametrize("radix", [1, 2, 4])
def test_mixed_precision_trains_and_stays_close(radix, fill_randomly):
    block = fill_randomly(SplitAttentionConv2d(32, radix=radix)).float()
    x = torch.randn(2, 32, 6, 5)
    want = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = block(x)
        got.float().sum().backward()
    assert got.dtype == torch.bfloat16
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())
    assert (got - want).abs().max() < 0.1 * want.abs().max()


@pytest.mark.parametrize("radix", [1, 2])
def test_the_memory_format_does_not_change_the_numbers(radix, fill_randomly):
    block = fill_randomly(SplitAttentionConv2d(48, radix=radix, cardinality=2)).eval()
    x = torch.randn(2, 48, 6, 5, dtype=torch.float64)
    want = block(x)
    got = block.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, r"channels must be a positive integer, got 0"),
        ({"radix": 0}, r"radix must be a positive integer, got 0"),
        ({"radix": 1.5}, r"radix must be a positive integer, got 1.5"),
        ({"cardinality": 0}, r"cardinality must be a positive integer, got 0"),
        ({"cardinality": "2"}, r"cardinality must be a positive integer, got '2'"),
        ({"cardinality": 3}, r"radix x cardinality must divide channels \(64\), got radix 2 and cardinality 3"),
        ({"radix": 3}, r"radix x cardinality must divide channels \(64\), got radix 3 and cardinality 1"),
        ({"channels": 6, "cardinality": 3}, r"cardinality must divide the attention's hidden width \(32\), got 3"),
        ({"dilation": 0}, r"dilation must be a positive integer, got 0"),
        ({"norm_layer": lambda channels: None}, r"norm_layer must be a callable from channels to a module.*None"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SplitAttentionConv2d(**{"channels": 64, **arguments})
