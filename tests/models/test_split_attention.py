"""SplitAttentionConv2d against the paper's equations, written out."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

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
def test_it_computes_the_equations_of_the_paper_in_either_memory_format(radix, cardinality, norm_layer, fill_randomly):
    block = SplitAttentionConv2d(48, radix=radix, cardinality=cardinality, norm_layer=norm_layer)
    block = fill_randomly(block).eval()
    x = torch.randn(3, 48, 6, 5, dtype=torch.float64)
    want = written_out(block, x)
    torch.testing.assert_close(block(x), want, rtol=1e-11, atol=1e-12)
    block, x = (value.to(memory_format=torch.channels_last) for value in (block, x))
    torch.testing.assert_close(block(x), want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("radix", "cardinality"), CASES)
def test_attention_sums_to_one_over_the_splits_and_is_a_gate_of_one(radix, cardinality, fill_randomly):
    block = fill_randomly(SplitAttentionConv2d(48, radix=radix, cardinality=cardinality)).eval()
    attention = block.attention(torch.randn(3, 48, 1, 1, dtype=torch.float64))
    assert attention.shape == (3, radix, 48, 1, 1)
    assert ((attention > 0) & (attention < 1)).all()
    assert attention.std(dim=2).min() > 0, "each channel has weights of its own"
    if radix > 1:
        torch.testing.assert_close(attention.sum(dim=1), torch.ones(3, 48, 1, 1, dtype=torch.float64))
        assert attention.std(dim=1).min() > 0, "the splits must not all weigh the same"


def test_the_hidden_layer_is_a_quarter_and_at_least_32_wide():
    for channels, radix, hidden in ((64, 1, 32), (64, 2, 32), (64, 4, 64), (512, 2, 256)):
        assert attention_channels(channels, radix) == hidden
        assert SplitAttentionConv2d(channels, radix=radix).fc1.out_channels == hidden


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, r"channels must be a positive integer, got 0"),
        ({"radix": 1.5}, r"radix must be a positive integer, got 1.5"),
        ({"cardinality": "2"}, r"cardinality must be a positive integer, got '2'"),
        ({"cardinality": 3}, r"radix x cardinality must divide channels \(64\), got radix 2 and cardinality 3"),
        ({"channels": 6, "cardinality": 3}, r"cardinality must divide the attention's hidden width \(32\), got 3"),
        ({"dilation": 0}, r"dilation must be a positive integer, got 0"),
        ({"norm_layer": lambda channels: None}, r"norm_layer must be a callable from channels to a module.*None"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SplitAttentionConv2d(**{"channels": 64, **arguments})
