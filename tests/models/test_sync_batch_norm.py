"""Several processes on CPUs, and one with the whole batch: the same statistics, the same gradients."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from resnest_backbones import ResNeSt, ResNeStSpec
from resnest_backbones.models.sync_batch_norm import CpuSyncBatchNorm, synchronise_on_cpu
from tests.models.process_group import run_processes

SPEC = ResNeStSpec("tiny", (1, 1, 1, 1), stem_width=8, bottleneck_width=16)
ALL = ("stem", "res2", "res3", "res4", "res5")
# Where the network ends, and what of it is asked for: the ends of both.
FEATURES = (ALL, ("stem",), ("res2", "res3"), ("res5",))


def trunk(norm: Callable[[int], nn.Module], **arguments) -> nn.Module:
    torch.manual_seed(0)
    return ResNeSt(SPEC, norm_layer=norm, **arguments).double()


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


def train_in_a_group(rank: int) -> dict[str, Tensor]:
    """A step on this process's share of the batch, with synchronised norms."""
    net = DistributedDataParallel(synchronise_on_cpu(trunk(nn.SyncBatchNorm)), broadcast_buffers=False)
    return step(net, images().split(2)[rank])


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
    group = distributed.new_group([0])
    if rank == 0:
        try:
            CpuSyncBatchNorm(3, process_group=group).train()(torch.zeros(1, 3, 1, 1))
        except ValueError as error:
            return str(error)
    return str(tuple(own.shape))


def every_check(rank: int) -> tuple[dict[str, Tensor], int, str]:
    """All in one start of processes, which takes longer than the work."""
    return train_in_a_group(rank), without_unused_parameters(rank), alone_in_the_world(rank)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> list:
    return run_processes(every_check, folder=tmp_path_factory.mktemp("two"))


@pytest.mark.fault("two processes instead of one", "gradients and statistics of batch norm are equal")
def test_gradients_and_statistics_are_those_of_one_process_with_the_whole_batch(of_two):
    alone = step(trunk(nn.BatchNorm2d), images())
    for got, _, _ in of_two:
        assert got.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")
    assert any("bn1.running_var" in name for name in alone), "the attention's norm has one value per image"


@pytest.mark.fault("each output stride with several sets of features in two processes", "no parameter goes unused")
def test_no_parameter_goes_unused(of_two, record_property):
    assert [count for _, count, _ in of_two] == [3 * len(FEATURES)] * 2
    record_property("times", 3 * len(FEATURES))


def test_one_value_in_all_processes_together_cannot_be_normalised(of_two):
    assert [text for _, _, text in of_two] == [
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
