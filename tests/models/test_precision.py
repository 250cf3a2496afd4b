"""float16, bfloat16 and float32 compute the same network to their rounding, and large numbers become no NaN."""

import pytest
import torch

from resnest_backbones import SplitAttentionConv2d, build, list_variants

QUICK = ("resnest14",)
# Of the largest value of a feature. Each block rounds its sum again.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.08}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in list_variants()]
)
@pytest.mark.fault("each network in float16, bfloat16 and float32", "features agree with float64 within the rounding")
def test_every_network_computes_the_same_in_any_precision(name, fill_randomly, record_property):
    with torch.device("meta"):
        net = build(name)
    net = fill_randomly(net).eval()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        want = net(image)
        worst = {}
        for dtype, tolerance in TOLERANCES.items():
            got = net.to(dtype)(image.to(dtype))
            for feature, value in got.items():
                assert value.dtype == dtype
                error = ((value.double() - want[feature]).abs().max() / want[feature].abs().max()).item()
                assert error < tolerance, (feature, dtype, error)
                worst[dtype] = max(worst.get(dtype, 0.0), error)
            fill_randomly(net.double())
    record_property("times", len(TOLERANCES))
    print(name, {str(dtype): f"{error:.1e}" for dtype, error in worst.items()})


@pytest.mark.parametrize("radix", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.fault("attention logits up to the largest float16", "weights stay finite and sum to one")
def test_the_attention_survives_the_largest_logits(radix, dtype):
    block = SplitAttentionConv2d(32, radix=radix).eval()
    with torch.no_grad():
        block.fc2.bias.copy_(torch.linspace(-60000, 60000, 32 * radix))
        block.fc2.weight.zero_()
        weights = block.to(dtype).attention(torch.zeros(2, 32, 1, 1, dtype=dtype))
        assert weights.isfinite().all()
        if radix > 1:
            torch.testing.assert_close(weights.float().sum(dim=1), torch.ones(2, 32, 1, 1))
        out = block(torch.randn(2, 32, 5, 5).to(dtype))
    assert out.isfinite().all() and out.abs().max() > 0


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 255), (torch.bfloat16, 1e6), (torch.float32, 1e6)])
@pytest.mark.fault("images far from normalised", "no NaN")
def test_large_inputs_become_no_nan(dtype, scale):
    """As of a user who forgot to normalise; float16 itself ends at 65504."""
    with torch.no_grad():
        features = build("resnest14").eval().to(dtype)((scale * torch.rand(1, 3, 64, 64)).to(dtype))
    assert all(value.isfinite().all() for value in features.values())


@pytest.mark.parametrize(("output_stride", "sizes"), [(8, [(1, 1), (1, 5000), (33, 47)]), (32, [(1, 1), (5000, 1)])])
@pytest.mark.fault("images of 1 x 1, 1 x 5000 and odd sizes", "features of their sizes, no NaN")
def test_images_of_any_size_have_features(output_stride, sizes, record_property):
    net = build("resnest14", output_stride=output_stride).eval()
    for size in sizes:
        with torch.no_grad():
            features = net(torch.rand(1, 3, *size))
        for name, value in features.items():
            stride = net.feature_strides[name]
            assert value.isfinite().all() and value.shape[2:] == tuple(-(-side // stride) for side in size)
    record_property("times", len(sizes))


@pytest.mark.fault("a batch of one image with batch norm", "PyTorch's own error, no silent zero")
def test_a_batch_of_one_is_refused_by_batch_norm_itself():
    net = build("resnest14").train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        net(torch.rand(1, 3, 64, 64))
    net(torch.rand(2, 3, 1, 1))["res5"].sum().backward()  # features of 1 x 1, two of them
    assert all(p.grad.isfinite().all() for p in net.parameters())
