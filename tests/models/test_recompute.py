"""A training step that recomputes gives what one that keeps everything gives, and keeps less than the original."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from resnest_backbones import ResNeSt, ResNeStSpec, build
from resnest_backbones.models import recompute
from resnest_backbones.models.blocks import Bottleneck, DeepStem
from resnest_backbones.models.layers import DropBlock
from tests.helpers import recorded


def tiny(**options: object) -> nn.Module:
    return ResNeSt(ResNeStSpec("tiny", (1, 1, 1, 1), stem_width=8, bottleneck_width=16), **options)


def with_offsets(net: nn.Module) -> nn.Module:
    """Sampling offsets of about a pixel, and masks, where a new network has none."""
    for module in net.modules():
        if isinstance(module, Bottleneck) and module.conv2_offset is not None:
            nn.init.normal_(module.conv2_offset.weight, std=0.05)
            nn.init.normal_(module.conv2_offset.bias)
    return net


def set_recompute(net: nn.Module, on: bool) -> nn.Module:
    for module in net.modules():
        if isinstance(module, (Bottleneck, DeepStem)):
            module.recompute = on
    return net


def step(net: nn.Module, x: Tensor, *, image_gradient: bool = True) -> dict[str, Tensor]:
    """Outputs, gradients and buffers of a training step; the loss weighs each output by another number."""
    x = x.clone().requires_grad_(image_gradient)
    out = net(x)
    out = out if isinstance(out, dict) else {"out": out}
    weights = {name: torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype, device=y.device) for name, y in out.items()}
    sum((y * weights[name].view_as(y)).sum() for name, y in out.items()).backward()
    gradients = {f"grad {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    found = {**out, **gradients, **{f"buffer {name}": b for name, b in net.named_buffers()}}
    return {**found, "grad image": x.grad} if image_gradient else found


def assert_same_step(net: nn.Module, x: Tensor, tolerance: float = 1e-10, **options: bool) -> None:
    found, wanted = (step(set_recompute(copy.deepcopy(net), on), x, **options) for on in (True, False))
    assert found.keys() == wanted.keys()
    largest = max(value.abs().max() for name, value in wanted.items() if name.startswith("grad"))
    for name, value in wanted.items():
        # Before a norm that goes by the batch, the gradient of a bias is nothing but rounding.
        scale = largest if name.startswith("grad") else value.abs().max()
        assert (found[name] - value).abs().max() <= tolerance * scale, name


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Names of the functions that recompute, as the trunk calls them."""
    names: list[str] = []
    for name in ("stem", "bottleneck"):
        monkeypatch.setattr(recompute, name, recorded(getattr(recompute, name), names))
    return names


def images(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("radix", [1, 2, 4])
@pytest.mark.parametrize("cardinality", [1, 2, 4])
@pytest.mark.parametrize(("stride", "avd_first"), [(1, False), (2, False), (2, True)])
def test_a_block_gives_the_same_gradients(radix, cardinality, stride, avd_first, calls, fill_randomly):
    options = {"width": 16, "radix": radix, "cardinality": cardinality, "stride": stride, "avd_first": avd_first}
    block = fill_randomly(Bottleneck(24, 16, avg_pool=stride == 2, **options)).train()
    assert_same_step(block, images(2, 24, 11, 14))
    assert calls == ["bottleneck"]


NORMS: dict[str, tuple[Callable, bool]] = {
    "BN": (nn.BatchNorm2d, True),
    "BN in evaluation": (nn.BatchNorm2d, False),
    "cumulative BN": (lambda channels: nn.BatchNorm2d(channels, momentum=None), True),
    "BN without scale and shift": (lambda channels: nn.BatchNorm2d(channels, affine=False), True),
    "SyncBN of one process": (nn.SyncBatchNorm, False),
    "frozen": (FrozenBatchNorm2d, True),
}


# Where no norm goes by the batch, one image will do.
@pytest.mark.parametrize(
    ("name", "shape"), [*((name, (2, 3, 33, 47)) for name in NORMS), ("BN in evaluation", (1, 3, 32, 32))]
)
def test_a_trunk_gives_the_same_gradients_with_all_batch_norms(name, shape, calls, fill_randomly):
    norm_layer, training = NORMS[name]
    net = fill_randomly(tiny(norm_layer=norm_layer)).train(training)
    for _ in range(2):  # of cumulative statistics, the second step differs from the first
        assert_same_step(net, images(*shape))
    assert calls.count("bottleneck") == 2 * 4 and calls.count("stem") == 2


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 8, "multi_grid": (1,)},
        {"output_stride": 8, "avg_pool_at_stride_1": False},
        {"gradient_checkpointing": True},
        {"drop_path_rate": 0.5},
        {"num_classes": 4, "out_features": ("logits", "stem")},
    ],
)
def test_a_trunk_of_other_options_gives_the_same_gradients(options, calls, fill_randomly):
    net = fill_randomly(tiny(**options)).train()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        found = step(set_recompute(copy.deepcopy(net), True), images(2, 3, 48, 32))
        torch.manual_seed(3)
        wanted = step(set_recompute(copy.deepcopy(net), False), images(2, 3, 48, 32))
    largest = max(value.abs().max() for name, value in wanted.items() if name.startswith("grad"))
    assert found.keys() == wanted.keys() and calls
    assert all((found[name] - value).abs().max() <= 1e-10 * max(largest, 1) for name, value in wanted.items())


def test_blocks_that_drop_are_not_computed_again(calls):
    net, x = tiny(drop_block_rate=0.1, recompute="auto").double().train(), images(2, 3, 48, 32)
    step(net, x)
    assert calls.count("bottleneck") == 2
    with pytest.raises(ValueError, match=r'recompute must be "auto" or False .* cannot be recomputed.*DropBlock'):
        set_recompute(net, True)(x)
    for module in net.modules():
        if isinstance(module, DropBlock):
            module.p = 0.0
    assert_same_step(net, x)


@pytest.mark.parametrize("frozen", ["nothing", "res3", "conv2.conv.", "conv2_offset"])
@pytest.mark.parametrize(
    "options", [{}, {"deform_modulated": True, "deform_groups": 2}, {"norm_layer": FrozenBatchNorm2d}]
)
def test_deformable_blocks_give_the_same_gradients(options, frozen, calls, fill_randomly):
    net = with_offsets(fill_randomly(tiny(out_features=("res3",), deform_stages=("res2", "res3"), **options))).train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad = frozen not in name
    assert_same_step(net, images(2, 3, 47, 33))
    assert calls.count("bottleneck") == 2


@pytest.mark.parametrize("frozen", ["stem", "res2", "norm", "conv2.fc1", "conv1.weight"])
def test_frozen_parameters_get_no_gradient_and_the_others_the_same(frozen, calls, fill_randomly):
    net = fill_randomly(tiny(out_features=("res3",))).train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad = frozen not in name
    assert_same_step(net, images(2, 3, 48, 32), image_gradient=False)
    assert calls


def test_gradients_of_chosen_tensors_and_a_second_backward(fill_randomly):
    net = fill_randomly(tiny(out_features=("res2",))).train()
    x = images(2, 3, 32, 32)
    loss = net(x)["res2"].square().sum()
    weight = net.res2[0].conv3.weight
    (first,) = torch.autograd.grad(loss, weight, retain_graph=True)
    loss.backward(retain_graph=True)
    assert torch.equal(first, weight.grad)
    loss.backward()
    assert torch.allclose(weight.grad, 2 * first, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_gradients_agree_within_the_rounding_of_few_bits(dtype, calls, fill_randomly):
    net = fill_randomly(build("resnest14", out_features=("res2", "res3")).double()).float().train()
    x = images(2, 3, 48, 32).float()
    with torch.autocast("cpu", dtype=dtype):
        low = [step(set_recompute(copy.deepcopy(net), on), x) for on in (True, False)]
    assert calls
    exact = step(set_recompute(copy.deepcopy(net), False), x)
    for name, value in exact.items():
        if name.startswith("grad") and "fc1.bias" not in name:
            errors = [(run[name] - value).norm() / value.norm() for run in low]
            assert low[0][name].dtype == value.dtype
            assert errors[0] <= 1.5 * errors[1] + 1e-3, name


def test_recomputing_can_be_turned_off_or_insisted_on(calls):
    net = build("resnest14", out_features=("res2",), recompute=False)
    net(torch.randn(2, 3, 48, 32))
    assert calls == []
    build("resnest14", out_features=("res2",), recompute=True)(torch.randn(2, 3, 48, 32))
    assert calls == ["stem", "bottleneck"]
    with pytest.raises(ValueError, match="recompute must be .auto., True or False, got 'on'"):
        build("resnest14", recompute="on")
    net = tiny(recompute=True, norm_layer=lambda channels: nn.GroupNorm(1, channels))
    with pytest.raises(ValueError, match='recompute must be "auto" or False if a part of a block is of a kind.*GroupN'):
        net(torch.randn(2, 3, 48, 32))
    with torch.no_grad():
        net(torch.randn(2, 3, 48, 32))  # where nothing is kept, nothing need be recomputed


def test_what_waits_for_a_module_gets_its_output(calls):
    seen = []
    net = build("resnest14").train()
    net.res3[0].conv2.bn0.register_forward_hook(lambda *_: seen.append("norm"))
    net.stem.relu2.register_forward_hook(lambda *_: seen.append("relu"))
    net(torch.randn(2, 3, 48, 32))
    assert seen == ["relu", "norm"]
    assert calls.count("bottleneck") == 3 and "stem" not in calls


@pytest.mark.parametrize(
    "norm_layer",
    [None, lambda channels: nn.GroupNorm(1, channels), lambda c: nn.BatchNorm2d(c, track_running_stats=False)],
)
def test_other_norms_are_called_as_they_are(norm_layer, calls):
    features = tiny(norm_layer=norm_layer)(torch.randn(2, 3, 48, 32))
    sum(value.sum() for value in features.values()).backward()
    assert calls == []


def test_a_convolution_with_a_bias_or_a_computed_weight_is_called_as_it_is(calls):
    biased, computed = (Bottleneck(8, 2, width=4) for _ in range(2))
    biased.conv1.bias = nn.Parameter(torch.ones(4))
    nn.utils.parametrizations.weight_norm(computed.conv3)
    for block in (biased, computed):
        block(torch.randn(2, 8, 6, 6)).sum().backward()
    assert calls == []


def test_nothing_is_recomputed_without_gradients_in_a_trace_or_in_a_transform(calls):
    net = build("resnest14", out_features=("res2",)).eval()
    x = torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        net(x)
    torch.jit.trace(net, x, strict=False, check_trace=False)
    parameters = dict(net.named_parameters())
    gradients = torch.func.grad(lambda p: torch.func.functional_call(net, p, (x,))["res2"].sum())(parameters)
    assert calls == [] and gradients["res2.0.conv3.weight"].abs().sum() > 0
    net(x)
    assert calls


def test_a_batch_of_one_value_per_channel_is_refused_in_pytorchs_words():
    block = Bottleneck(8, 4, width=4).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
        block(torch.randn(1, 8, 1, 1))
    assert block.conv1.norm.num_batches_tracked == 0


def saved_for_backward(net: nn.Module, x: Tensor) -> int:
    """Bytes of all storages that a forward pass keeps, parameters included."""
    kept: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), id):
        output = net(x)
    assert output
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_less_is_kept_for_backward_by_deformable_blocks():
    x = torch.randn(2, 3, 128, 128)
    options = {"deform_stages": ("res3", "res4"), "deform_modulated": True}
    parameters = sum(p.numel() * p.element_size() for p in build("resnest26", **options).parameters())
    ours, plain = (saved_for_backward(build("resnest26", recompute=on, **options), x) for on in (True, False))
    assert ours - parameters < 0.61 * (plain - parameters)


@pytest.mark.slow
def test_less_is_kept_for_backward_than_by_the_original_and_by_a_resnet():
    resnest_original, timm = pytest.importorskip("resnest.torch"), pytest.importorskip("timm")
    from benchmarks.peers import Stages

    x = torch.randn(2, 3, 256, 256)
    parameters = sum(p.numel() * p.element_size() for p in build("resnest50").parameters())
    original = saved_for_backward(Stages(resnest_original.resnest50()), x)
    resnet = saved_for_backward(timm.create_model("resnet50d", features_only=True), x)
    ours = saved_for_backward(build("resnest50"), x)
    assert ours < 0.9 * resnet
    assert ours - parameters < 0.61 * (original - parameters)
