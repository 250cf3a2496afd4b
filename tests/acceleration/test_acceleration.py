"""Channels-last memory and compilation change how a trunk computes, not what, for images of any size."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, distributed, nn
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import FrozenBatchNorm2d

from resnest_backbones import ResNeSt, ResNeStSpec, build, optimize_for_inference
from resnest_backbones.acceleration import accelerate
from tests.models.process_group import run_processes

TINY = ResNeStSpec("tiny", (1, 1, 1, 1), stem_width=8, bottleneck_width=16)
# Square, odd, one of them twice; the first is what a graph for one size is compiled for.
SIZES = ((64, 96), (96, 64), (65, 97), (64, 64), (33, 128), (64, 96))


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def small(fill_randomly, **options: object) -> ResNeSt:
    """Two stages of one narrow block in float64; the second has the average pools."""
    return fill_randomly(ResNeSt(TINY, out_features=("stem", "res2", "res3"), **options))


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def outcome(net: nn.Module, size: tuple[int, int]) -> dict[str, Tensor]:
    """What a call leaves: features, in training also gradients, and buffers."""
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net.zero_grad()
    with torch.set_grad_enabled(net.training):
        features = net(images)
    found = dict(features)
    if net.training:
        sum(value.square().mean() for value in features.values()).backward()
        found |= {f"gradient of {name}": p.grad for name, p in net.named_parameters() if p.requires_grad}
    return found | {name: value.clone() for name, value in net.named_buffers()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() <= tolerance * value.abs().max().clamp(min=1e-3), name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"deform_stages": ["res3"]}], ids=str)
def test_channels_last_computes_the_same(training, options, fill_randomly):
    plain = small(fill_randomly, **options).train(training)
    fast = copy.deepcopy(plain)
    accelerate(fast, channels_last=True)
    for size in SIZES[:3]:
        assert_same(outcome(fast, size), outcome(plain, size))
    features = fast(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    if "deform_stages" not in options:  # torchvision's operator writes the other order
        assert all(value.is_contiguous(memory_format=torch.channels_last) for value in features.values())
    assert fast.stem.conv1_2.weight.is_contiguous(memory_format=torch.channels_last)
    assert not plain.stem.conv1_2.weight.is_contiguous(memory_format=torch.channels_last)


def test_all_sizes_of_training_share_two_graphs_and_those_of_evaluation_one(fill_randomly):
    plain = small(fill_randomly).train()
    fast = copy.deepcopy(plain)
    accelerate(fast, channels_last=True, compile="eager")
    for training, count in ((True, 2), (False, 3), (True, 3)):
        plain.train(training)
        fast.train(training)
        for size in SIZES:
            assert_same(outcome(fast, size), outcome(plain, size))
        assert graphs() == count and not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_traced_gradients_are_the_same_for_all_sizes(checkpointing, fill_randomly):
    plain = fill_randomly(build("resnest14", out_features=("res2",), gradient_checkpointing=checkpointing)).train()
    fast = copy.deepcopy(plain)
    accelerate(fast, channels_last=True, compile="aot_eager")
    for size in SIZES:
        assert_same(outcome(fast, size), outcome(plain, size))
    assert graphs() == 2 and not counters["graph_break"]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"norm_layer": FrozenBatchNorm2d}, id="frozen norms"),
        pytest.param({"norm_layer": nn.SyncBatchNorm}, id="synchronised norms"),
        pytest.param({"norm_layer": partial(nn.GroupNorm, 8)}, id="group norms"),
        pytest.param({"deform_stages": ["res3"], "deform_modulated": True}, id="deformable"),
    ],
)
@pytest.mark.slow
def test_sizes_share_graphs_whatever_is_frozen_or_normalises(options, fill_randomly):
    net = small(fill_randomly, **options).train()
    net.stem.eval().requires_grad_(False)
    plain = copy.deepcopy(net)
    accelerate(net, compile="eager")
    for size in SIZES:
        assert_same(outcome(net, size), outcome(plain, size))
    assert graphs() == 2 and not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the C++ of three graphs takes a compiler minutes
@pytest.mark.parametrize("checkpointing, norm_layer", [(True, nn.BatchNorm2d), (False, FrozenBatchNorm2d)])
def test_the_default_backend_computes_the_same(checkpointing, norm_layer, fill_randomly):
    """In float64, for norms over the two pooled values of a batch magnify rounding a thousand times."""
    plain = small(fill_randomly, norm_layer=norm_layer, gradient_checkpointing=checkpointing).train()
    fast = copy.deepcopy(plain)
    accelerate(fast, compile=True)
    for training in (True, False):
        plain.train(training)
        fast.train(training)
        for size in SIZES[:4]:
            assert_same(outcome(fast, size), outcome(plain, size), 1e-8)
    assert graphs() == 3 and not counters["graph_break"]


def train_compiled_beside_plain(rank: int) -> list[float]:
    """The number of graphs, and a checksum of the gradients."""
    torch.manual_seed(0)
    # PyTorch splits the graph where a bucket of gradients is full; the first holds 1 MB, which res3 is beyond.
    plain = build("resnest14", out_features=("res2", "res3")).double().train()
    fast = copy.deepcopy(plain)
    accelerate(fast, channels_last=True, compile="aot_eager")
    nets = [DistributedDataParallel(net, broadcast_buffers=False) for net in (plain, fast)]
    torch.manual_seed(rank)
    for size in ((64, 96), (96, 64), (65, 97)):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        for net in nets:
            net.zero_grad()
            sum(value.square().mean() for value in net(images).values()).backward()
        found, wanted = ({name: p.grad for name, p in net.named_parameters()} for net in (fast, plain))
        assert_same(found, wanted, 1e-8)
        assert_same(dict(fast.named_buffers()), dict(plain.named_buffers()), 1e-7)
    return [graphs(), sum(p.grad.abs().sum().item() for p in fast.parameters())]


@pytest.mark.slow
@pytest.mark.skipif(not distributed.is_available(), reason="this PyTorch has no processes")
def test_two_processes_train_a_compiled_trunk_on_images_of_different_sizes(tmp_path):
    one, other = run_processes(train_compiled_beside_plain, folder=tmp_path)
    assert one == pytest.approx(other) and one[0] == 2


def test_checkpoints_go_both_ways(fill_randomly):
    plain = small(fill_randomly)
    fast = ResNeSt(TINY, out_features=("stem", "res2", "res3")).double()
    accelerate(fast, channels_last=True, compile="eager")
    fast.load_state_dict(plain.state_dict(), strict=True)
    assert fast.stem.conv1_2.weight.is_contiguous(memory_format=torch.channels_last)
    assert_same(outcome(fast, SIZES[0]), outcome(plain, SIZES[0]))
    plain.load_state_dict(fast.state_dict(), strict=True)
    assert plain.stem.conv1_2.weight.is_contiguous()


def test_a_copy_is_not_compiled_and_keeps_its_memory_format(fill_randomly):
    net = small(fill_randomly).eval()
    accelerate(net, channels_last=True, compile="eager")
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), optimize_for_inference(net)):
        assert_same(other(torch.ones(1, 3, 32, 32).double()), net(torch.ones(1, 3, 32, 32).double()))
        assert other.stem.conv1_2.weight.is_contiguous(memory_format=torch.channels_last)
        assert other(torch.ones(1, 3, 64, 32).double())["res3"].is_contiguous(memory_format=torch.channels_last)
    assert graphs() == 1


@pytest.mark.slow
def test_arguments_of_the_compiler_are_passed_on(fill_randomly):
    net = small(fill_randomly).train()
    accelerate(net, compile={"backend": "eager", "dynamic": False})
    for count, size in enumerate((SIZES[0], *SIZES[:2])):
        outcome(net, size)
        assert graphs() == max(count, 1), "one size is compiled once"


@pytest.mark.parametrize(
    "given",
    [True, "inductor", {"mode": "max-autotune-no-cudagraphs"}, {"options": {"trace.enabled": 0}}, {"options": None}],
)
def test_inductor_is_told_to_keep_to_channels_last_memory(given, monkeypatch):
    told = {}
    net = build("resnest14")
    monkeypatch.setattr(net, "compile", lambda **arguments: told.update(arguments))
    accelerate(net, compile=given)
    assert told.pop("options")["force_layout_optimization"] is True
    assert told in ({}, {"backend": "inductor"})
    assert net.stem.conv1_2.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("compile", "message"),
    [
        ("inductr", r"compile must name one of torch.compile's backends \(.*inductor.*\), got 'inductr'"),
        ({"backend": "inductr"}, "got 'inductr'"),
        ({"mode": "fastest"}, "the mode of compile must be one of default, .*, got 'fastest'"),
        (1, r"compile must be a boolean, a backend name or a dict of torch.compile arguments, got 1"),
    ],
)
def test_what_cannot_be_compiled_with_is_named(compile, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        accelerate(build("resnest14"), compile=compile)
