"""An optimised trunk computes what the trunk computes, behind the same interface, and leaves the trunk alone."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from resnest_backbones import build
from resnest_backbones.acceleration import fused
from resnest_backbones.acceleration.fused import FusedBottleneck
from resnest_backbones.acceleration.inference import optimize_for_inference
from resnest_backbones.errors import ExportError
from tests.helpers import recorded

SHALLOW = ["resnest14", "resnest50_fast_1s1x64d", "resnest50_fast_4s2x40d"]  # every kind of block


def trained(net: nn.Module) -> nn.Module:
    """Norms with statistics, scales and shifts of their own, as training leaves them."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda like: torch.rand(like.shape, generator=generator, dtype=like.dtype)  # noqa: E731
    for module in net.modules():
        if getattr(module, "running_var", None) is not None:
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
        ("resnest26", {"output_stride": 8, "multi_grid": (1, 2)}),
        ("resnest26", {"output_stride": 8, "avg_pool_at_stride_1": False}),
        ("resnest14", {"deform_stages": ("res4",), "deform_modulated": True, "deform_groups": 2}),
        ("resnest14", {"deform_stages": ("res5",), "out_features": ("stem", "res3", "res5")}),
        ("resnest14", {"norm_layer": FrozenBatchNorm2d}),
        ("resnest14", {"norm_layer": nn.SyncBatchNorm, "drop_path_rate": 0.2, "gradient_checkpointing": True}),
        ("resnest14", {"drop_block_rate": 0.2}),
        ("resnest14", {"norm_layer": None}),
    ],
)
def test_an_optimised_trunk_equals_the_trunk(name, options):
    net = trained(build(name, **options).double())
    with torch.no_grad():
        assert_close(optimize_for_inference(net)(images()), net(images()), 1e-12)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        *((name, {}, (1, 3, 45, 33)) for name in SHALLOW),
        ("resnest14", {}, (2, 3, 64, 96)),
        ("resnest26", {"output_stride": 8}, (2, 3, 45, 33)),
        ("resnest26", {"output_stride": 8, "avg_pool_at_stride_1": False}, (2, 3, 45, 33)),
        ("resnest26", {"deform_stages": ("res4",)}, (1, 3, 45, 33)),
        ("resnest14", {"norm_layer": None}, (1, 3, 45, 33)),
    ],
)
def test_in_single_precision_the_difference_is_rounding(name, options, size, fused_calls):
    net = trained(build(name, **options))
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = {name: value.float() for name, value in copy.deepcopy(net).double()(x.double()).items()}
        assert_close(net(x), wanted, 1e-5)
        fast = optimize_for_inference(net)
        assert_close(fast(x), wanted, 1e-5)
        assert_close(fast(x), wanted, 1e-5)  # nothing of the network was written over
        assert_close(fast(x), wanted, 1e-5)  # nor by the weights that are packed the second time
    blocks = sum(isinstance(module, FusedBottleneck) for module in fast.modules())
    shortcuts = sum(
        isinstance(module, FusedBottleneck) and isinstance(module.shortcut, nn.Conv2d) for module in fast.modules()
    )
    assert len(fused_calls) == 3 * (3 + 3 * blocks + shortcuts) and blocks >= 3


@pytest.fixture
def fused_calls(monkeypatch) -> list[str]:
    """Names of the methods with a fused convolution, as fused blocks and the stem call them."""
    calls: list[str] = []
    for name in ("plain", "relu", "add_relu"):
        monkeypatch.setattr(fused._Convolution, name, recorded(getattr(fused._Convolution, name), calls))
    return calls


def test_autocast_around_an_optimised_trunk_changes_no_more_than_its_rounding():
    net = trained(build("resnest14"))
    x = images(torch.float32)
    with torch.no_grad():
        wanted = net(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(optimize_for_inference(net)(x), wanted, 2e-2)


def test_features_kept_by_a_hook_are_not_written_over():
    net = trained(build("resnest26"))
    x = images(torch.float32)
    kept, wanted = {}, {}
    fast = optimize_for_inference(net)
    for model, found in ((fast, kept), (net, wanted)):
        for place in ("res3.0", "res4.1.conv1", "res5"):
            hook = lambda module, args, output, place=place, found=found: found.update({place: output})  # noqa: E731
            model.get_submodule(place).register_forward_hook(hook)
    with torch.no_grad():
        assert_close(fast(x), net(x), 1e-5)
    kept["res4.1.conv1"] = kept["res4.1.conv1"].contiguous()
    assert_close(kept, wanted, 1e-5)


def test_images_may_have_gradients():
    net = trained(build("resnest14", out_features=("res3",)))
    x = images(torch.float32).requires_grad_()
    wanted = torch.autograd.grad(net(x)["res3"].sum(), x)[0]
    found = torch.autograd.grad(optimize_for_inference(net)(x)["res3"].sum(), x)[0]
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_a_fast_model_is_copied_and_saved_whole(tmp_path):
    fast, x = optimize_for_inference(trained(build("resnest14"))), images(torch.float32)
    torch.save(fast, tmp_path / "fast.pt")
    with torch.no_grad():
        wanted = fast(x)
        assert_close(copy.deepcopy(fast)(x), wanted, 0)
        assert_close(torch.load(tmp_path / "fast.pt", weights_only=False)(x), wanted, 0)
        traced = torch.jit.trace(fast, x, strict=False, check_trace=False)
        assert_close(traced(x), wanted, 1e-5)


def test_weights_are_packed_for_a_size_that_comes_again_and_anew_when_they_change():
    fast = optimize_for_inference(trained(build("resnest14")))
    first, other = images(torch.float32), images(torch.float32)[..., :40]
    conv = fast.res3[0]._conv1
    with torch.no_grad():
        fast(first)
        assert conv._packed is None
        wanted = fast(first)
        packed = conv._packed
        assert packed is not None and packed.is_mkldnn
        fast(first)
        assert conv._packed is packed
        fast(other)
        assert conv._packed is None
        assert_close(fast(first), wanted, 0)
        fast(first)
        fast.load_state_dict({key: 0.5 * value for key, value in fast.state_dict().items()})
        assert_close(fast(first), copy.deepcopy(fast)(first), 0)
        assert_close(fast(first), copy.deepcopy(fast)(first), 0)
        fast.double()
        assert_close(fast(first.double()), copy.deepcopy(fast)(first.double()), 0)
    assert not any("packed" in key for key in fast.state_dict())


@pytest.mark.slow
def test_a_compiled_trunk_equals_the_trunk_for_images_of_any_size():
    net = trained(build("resnest14"))
    fast = optimize_for_inference(net, compile=True)
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        for size in ((2, 3, 64, 96), (1, 3, 96, 64), (1, 3, 128, 96), (1, 3, 160, 224), (1, 3, 256, 96)):
            x = torch.randn(size, generator=torch.Generator().manual_seed(0))
            assert_close(fast(x), net(x), 1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


def test_a_trunk_is_compiled_with_the_arguments_given():
    net = trained(build("resnest14", out_features=("res2",)))
    fast = optimize_for_inference(net, compile={"backend": "aot_eager"})
    assert type(fast) is type(net) and fast.state_dict().keys() == optimize_for_inference(net).state_dict().keys()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        assert_close(fast(images(torch.float32)), net(images(torch.float32)), 1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


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


def test_the_original_stays_as_it_is_and_the_copy_has_no_norms():
    net = trained(build("resnest14")).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = optimize_for_inference(net)
    features = fast(images(torch.float32))
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not fast.training and not any(parameter.requires_grad for parameter in fast.parameters())
    assert type(fast) is type(net) and fast.feature_strides == net.feature_strides
    assert [name for name in fast.state_dict() if "running_mean" in name or "norm" in name] == []
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in features.values())


def test_a_trunk_inside_another_model_is_found():
    trunk = build("resnest14", out_features=("res5",)).double()
    model = trained(nn.ModuleDict({"body": trunk, "head": nn.Conv2d(2048, 3, 1)}).double())
    fast = optimize_for_inference(model)
    assert "body.res5.0.conv1.bias" in fast.state_dict() and "body.res5.0.conv1.bias" not in model.state_dict()
    with torch.no_grad():
        assert_close(fast["body"](images()), model["body"](images()), 1e-12)


class DetrNorm(FrozenBatchNorm2d):
    """As in DETR and transformers: frozen by name, with the epsilon inside ``forward``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        del self.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class NormWithActivation(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.elu(super().forward(x))


@pytest.mark.parametrize(
    ("norm_layer", "left"),
    [
        (NormWithActivation, "NormWithActivation"),
        (lambda channels: nn.GroupNorm(1, channels), "GroupNorm"),
        (lambda channels: nn.BatchNorm2d(channels, track_running_stats=False), "BatchNorm2d"),
        (lambda channels: (nn.BatchNorm2d if channels != 64 else DetrNorm)(channels), "DetrNorm"),
    ],
)
def test_unknown_norms_stay_and_train_and_infer_as_they_are(norm_layer, left, caplog):
    net = trained(build("resnest14", norm_layer=norm_layer, out_features=("res2", "res3")).double())
    fast = optimize_for_inference(net)
    with torch.no_grad():
        assert_close(fast(images()), net(images()), 1e-12)
        features = fast.float()(images(torch.float32))
        assert_close(features, net.float()(images(torch.float32)), 1e-3)
    assert f" {left} are kept" in caplog.text
    net.train()(images(torch.float32))["res3"].sum().backward()
    assert net.res2[0].conv1.weight.grad.isfinite().all()


def test_what_cannot_be_optimised_is_refused_with_the_reason():
    with pytest.raises(ExportError, match="must contain a ResNeSt from resnest_backbones, Linear has none"):
        optimize_for_inference(nn.Linear(1, 1))
    with torch.device("meta"):
        grouped = build("resnest14", norm_layer=lambda channels: nn.GroupNorm(1, channels))
    with pytest.raises(ValueError, match="dtype must be one of torch.float32, .*, got torch.int8"):
        optimize_for_inference(grouped, dtype=torch.int8)
