"""An optimised trunk computes what the trunk computes, behind the same interface, and leaves the trunk alone."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from resnest_backbones import build
from resnest_backbones.inference import OptimizationError, optimize_for_inference
from resnest_backbones.variants import VARIANTS

SHALLOW = [name for name, spec in VARIANTS.items() if sum(spec.depths) <= 16]


def trained(net: nn.Module) -> nn.Module:
    """Norms with statistics, scales and shifts of their own, as training leaves them."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda like: torch.rand(like.shape, generator=generator, dtype=like.dtype)  # noqa: E731
    for module in net.modules():
        if hasattr(module, "running_var"):
            module.running_mean.copy_(draw(module.running_mean) - 0.5)
            module.running_var.copy_(draw(module.running_var) + 0.5)
            for value in (module.weight, module.bias):
                value.data.copy_(draw(value) + 0.2)
    return net.eval()


def images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).to(dtype)


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype
        assert (found[name] - value).abs().max() <= tolerance * value.abs().max(), name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"num_classes": 5}) for name in SHALLOW),
        ("resnest50", {"output_stride": 8, "multi_grid": (1, 2, 4)}),
        ("resnest50", {"deform_stages": ("res4",), "deform_modulated": True, "deform_groups": 2}),
        ("resnest14", {"deform_stages": ("res5",), "out_features": ("stem", "res3", "res5")}),
        ("resnest14", {"norm_layer": FrozenBatchNorm2d}),
        ("resnest14", {"norm_layer": nn.SyncBatchNorm, "drop_path_rate": 0.2, "gradient_checkpointing": True}),
        ("resnest14", {"norm_layer": None}),
    ],
)
def test_an_optimised_trunk_equals_the_trunk(name, options):
    net = trained(build(name, **options).double())
    with torch.no_grad():
        assert_close(optimize_for_inference(net)(images()), net(images()), 1e-12)


def test_in_single_precision_the_difference_is_rounding():
    net = trained(build("resnest50"))
    exact = copy.deepcopy(net).double()
    with torch.no_grad():
        wanted = {name: value.float() for name, value in exact(images()).items()}
        assert_close(net(images(torch.float32)), wanted, 1e-5)
        assert_close(optimize_for_inference(net)(images(torch.float32)), wanted, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_a_trunk_may_compute_in_fewer_bits_and_gives_features_in_its_own(dtype, tolerance):
    net = trained(build("resnest14"))
    x = images(torch.float32)
    with torch.no_grad():
        wanted, fast = net(x), optimize_for_inference(net, dtype=dtype)
        found = fast(x)
        assert_close(found, wanted, tolerance)
        assert any(not torch.equal(found[name], wanted[name]) for name in wanted)
    assert {parameter.dtype for parameter in fast.parameters()} == {dtype}


def test_the_original_stays_as_it_is():
    net = trained(build("resnest14")).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = optimize_for_inference(net)
    fast(images(torch.float32))
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not fast.training and not any(parameter.requires_grad for parameter in fast.parameters())
    assert type(fast) is type(net) and fast.feature_strides == net.feature_strides


def test_no_norm_is_left_and_features_lie_as_channels_last():
    fast = optimize_for_inference(trained(build("resnest14")))
    assert [name for name in fast.state_dict() if "running_mean" in name or "norm" in name] == []
    features = fast(images(torch.float32))
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in features.values())


def test_a_trunk_inside_another_model_is_found():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = build("resnest14", out_features=("res5",))
            self.head = nn.Conv2d(2048, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x)["res5"])

    model = trained(Model().double())
    with torch.no_grad():
        wanted = model(images())
        assert (optimize_for_inference(model)(images()) - wanted).abs().max() <= 1e-12 * wanted.abs().max()


def test_what_cannot_be_optimised_is_refused_with_the_reason():
    with pytest.raises(OptimizationError, match="must hold a ResNeSt of resnest_backbones, Linear has none"):
        optimize_for_inference(nn.Linear(1, 1))
    grouped = build("resnest14", norm_layer=lambda channels: nn.GroupNorm(1, channels))
    with pytest.raises(OptimizationError, match=r"^stem.conv1_1 has a GroupNorm: only batch norms"):
        optimize_for_inference(grouped)
    untracked = nn.Sequential(build("resnest14", norm_layer=lambda c: nn.BatchNorm2d(c, track_running_stats=False)))
    with pytest.raises(OptimizationError, match=r"^0.stem.conv1_1 has a BatchNorm2d: only .* running statistics"):
        optimize_for_inference(untracked)
    with pytest.raises(ValueError, match="dtype must be one of torch.float32, .*, got torch.int8"):
        optimize_for_inference(build("resnest14"), dtype=torch.int8)
