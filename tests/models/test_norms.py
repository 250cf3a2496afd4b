"""Several processes on CPUs, and one with the whole batch: the same statistics, the same gradients."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from resnest_backbones import ResNeSt, ResNeStSpec
from resnest_backbones.models.norms import CpuSyncBatchNorm, synchronise_on_cpu
from tests.models.process_group import run_processes
from tests.models.test_recompute import saved_for_backward, with_offsets

SPEC = ResNeStSpec("tiny", (1, 1, 1, 1), stem_width=8, bottleneck_width=16)
ALL = ("stem", "res2", "res3", "res4", "res5")
# Where the network ends, and what of it is asked for: the ends of both.
FEATURES = (ALL, ("stem",), ("res2", "res3"), ("res5",))
# What the trunk is besides, how many of its parts are frozen, and how it is trained in processes.
CASES: dict[str, tuple[dict, int, dict]] = {
    "recomputed": ({"recompute": True}, 0, {}),
    "kept": ({"recompute": False}, 0, {}),
    "static graph": ({"recompute": True, "output_stride": 8}, 0, {"static_graph": True}),
    "checkpointed": ({"recompute": True, "gradient_checkpointing": True}, 0, {"static_graph": True}),
    "deformable": ({"recompute": True, "deform_stages": ("res3", "res5"), "deform_modulated": True}, 0, {}),
    **{f"frozen to {name}": ({"recompute": True}, parts, {}) for parts, name in enumerate(ALL[:-1], 1)},
}


def trunk(norm: Callable[[int], nn.Module], frozen: int = 0, **arguments) -> nn.Module:
    torch.manual_seed(0)
    net = with_offsets(ResNeSt(SPEC, norm_layer=norm, **arguments).double())
    for name in ALL[:frozen]:
        net.get_submodule(name).eval().requires_grad_(False)
    return net


def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def step(net: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """A training step; gradients, buffers and the outputs' mean by name."""
    outputs = net(batch)
    weigh = lambda x: x * torch.linspace(0, 1, x.shape[1]).view(1, -1, 1, 1)  # noqa: E731
    sum(x.square().mean() + weigh(x).mean() for x in outputs.values()).backward()
    inner = net.module if isinstance(net, DistributedDataParallel) else net
    gradients = {f"gradient of {name}": p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}
    return gradients | {name: b.clone() for name, b in inner.named_buffers()}


def train_in_a_group(rank: int, cases: Sequence[str] = tuple(CASES)) -> dict[str, dict[str, Tensor]]:
    """For each case, a step on this process's share of the batch, with synchronised norms."""
    found = {}
    for name in cases:
        arguments, frozen, options = CASES[name]
        net = synchronise_on_cpu(trunk(nn.SyncBatchNorm, frozen, **arguments))
        net = DistributedDataParallel(net, broadcast_buffers=False, **options)
        found[name] = step(net, images().split(2)[rank])
    return found


def count_collectives(rank: int) -> tuple[int, int, int]:
    """The norms of a trunk, and what its forward and backward exchange by calls of Python."""
    net = synchronise_on_cpu(trunk(nn.SyncBatchNorm, recompute=True))
    gather, reduce = distributed.all_gather, distributed.all_reduce
    with (
        patch.object(distributed, "all_gather", wraps=gather) as one,
        patch.object(distributed, "all_reduce", wraps=reduce) as other,
    ):
        step(net, images().split(2)[rank])
    return sum(isinstance(m, CpuSyncBatchNorm) for m in net.modules()), one.call_count, other.call_count


def keep_for_backward(rank: int) -> tuple[int, int]:
    """Bytes with synchronised norms, and with plain ones."""
    synchronised = synchronise_on_cpu(trunk(nn.SyncBatchNorm))
    return saved_for_backward(synchronised, images()), saved_for_backward(trunk(nn.BatchNorm2d), images())


def train_with_few_bits(rank: int) -> dict[str, Tensor]:
    """Relative errors of gradients under autocast, recomputed and kept, (2,) each."""
    with_bits = lambda net: step(synchronise_on_cpu(net.float()), images().split(2)[rank].float())  # noqa: E731
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = [with_bits(trunk(nn.SyncBatchNorm, recompute=on)) for on in (True, False)]
    exact = with_bits(trunk(nn.SyncBatchNorm))
    weights = [name for name in exact if name.endswith("weight") and "gradient" in name]
    return {
        name: torch.stack([(run[name] - exact[name]).norm() / exact[name].norm() for run in low]) for name in weights
    }


def train_with_naive_norms(rank: int) -> list[dict[str, Tensor]]:
    """Steps with Detectron2's norm on images of other sizes in each process, recomputed and kept."""
    if not find_spec("detectron2"):
        return []
    from detectron2.layers.batch_norm import NaiveSyncBatchNorm

    share = images().split(2)[rank][..., : 64 - 32 * rank]
    return [step(trunk(NaiveSyncBatchNorm, recompute=on), share) for on in (True, False)]


def without_unused_parameters(rank: int) -> int:
    """Two steps for each output stride and set of features: the second is where DDP misses gradients of the first."""
    count = 0
    for output_stride in (8, 16, 32):
        for features in FEATURES:
            net = synchronise_on_cpu(trunk(nn.SyncBatchNorm, output_stride=output_stride, out_features=features))
            net = DistributedDataParallel(net, broadcast_buffers=False, find_unused_parameters=False)
            for _ in range(2):
                step(net, images()[rank : rank + 1])
            count += 1
    return count


def alone_in_the_world(rank: int) -> str:
    norm = CpuSyncBatchNorm(3).train()
    own = norm(torch.randn(1, 3, 1, 1))  # one value in each of two processes
    norm.process_group = distributed.new_group([0])
    if rank == 0:
        try:
            norm(torch.zeros(1, 3, 1, 1))
        except ValueError as error:
            return str(error)
    return str(tuple(own.shape))


# One start of processes takes longer than their work. In the slow tests they do all of it.
FEW = ("recomputed", "frozen to res2")
QUICK = {"train_in_a_group": partial(train_in_a_group, cases=FEW)}
QUICK |= {check.__name__: check for check in (alone_in_the_world, count_collectives, keep_for_backward)}
ALL_CHECKS = (train_in_a_group, without_unused_parameters, train_with_few_bits, train_with_naive_norms)


def do_checks(rank: int, checks: dict[str, Callable[[int], object]]) -> dict[str, object]:
    return {name: check(rank) for name, check in checks.items()}


def run_checks(checks: dict[str, Callable[[int], object]], folder: Path) -> dict[str, list]:
    """What each check found in the two processes."""
    found = run_processes(partial(do_checks, checks=checks), folder=folder)
    return {name: [own[name] for own in found] for name in checks}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> dict[str, list]:
    return run_checks(QUICK, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def all_of_two(tmp_path_factory) -> dict[str, list]:
    return run_checks({check.__name__: check for check in ALL_CHECKS}, tmp_path_factory.mktemp("two"))


@pytest.mark.fault("two processes instead of one", "gradients and statistics of batch norm are equal")
@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case in FEW else pytest.mark.slow) for case in CASES])
def test_gradients_and_statistics_are_those_of_one_process_with_the_whole_batch(case, request):
    arguments, frozen, _ = CASES[case]
    found = request.getfixturevalue("of_two" if case in FEW else "all_of_two")
    alone = step(trunk(nn.BatchNorm2d, frozen, **arguments | {"recompute": False}), images())
    for got in found["train_in_a_group"]:
        assert got[case].keys() == alone.keys()
        for name, value in alone.items():
            message = lambda text, n=name: f"{n}: {text}"  # noqa: E731
            torch.testing.assert_close(got[case][name], value, rtol=1e-9, atol=1e-12, msg=message)
    assert any("bn1.running_var" in name for name in alone), "the attention's norm has one value per image"


def test_each_norm_exchanges_once_in_forward_and_once_in_backward(of_two):
    for norms, forward, backward in of_two["count_collectives"]:
        assert forward == backward == norms == 3 + 4 * 4 + 4


def test_no_more_is_kept_for_backward_than_with_plain_norms(of_two):
    for synchronised, plain in of_two["keep_for_backward"]:
        assert synchronised < 1.01 * plain


@pytest.mark.slow
def test_under_autocast_gradients_agree_within_the_rounding_of_few_bits(all_of_two):
    for errors in all_of_two["train_with_few_bits"]:
        for name, (recomputed, kept) in errors.items():
            assert recomputed <= 1.5 * kept + 1e-3, name


@pytest.mark.slow
def test_detectron2s_norm_keeps_its_own_statistics(all_of_two):
    pytest.importorskip("detectron2")
    for recomputed, kept in all_of_two["train_with_naive_norms"]:
        assert recomputed.keys() == kept.keys()
        for name, value in kept.items():
            torch.testing.assert_close(
                recomputed[name], value, rtol=1e-7, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
            )


@pytest.mark.fault("each output stride with several sets of features in two processes", "no parameter goes unused")
@pytest.mark.slow
def test_no_parameter_goes_unused(all_of_two, record_property):
    assert all_of_two["without_unused_parameters"] == [3 * len(FEATURES)] * 2
    record_property("times", 3 * len(FEATURES))


def test_one_value_in_all_processes_together_cannot_be_normalised(of_two):
    assert of_two["alone_in_the_world"] == [
        "Expected more than 1 value per channel when training, got input size torch.Size([1, 3, 1, 1])",
        "(1, 3, 1, 1)",
    ]


def test_alone_it_is_pytorchs_own():
    one, other = trunk(nn.SyncBatchNorm), trunk(nn.BatchNorm2d)
    for a, b in zip(step(synchronise_on_cpu(one), images()).values(), step(other, images()).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)  # the trunk goes through plain norms again in backward


def test_parameters_stay_the_same_objects():
    model = nn.Sequential(nn.SyncBatchNorm(3), nn.BatchNorm2d(3))
    before = [*model.parameters()]
    assert synchronise_on_cpu(model) is model
    assert [type(m) for m in model] == [CpuSyncBatchNorm, nn.BatchNorm2d]
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert type(copy.deepcopy(model)[0]) is CpuSyncBatchNorm
