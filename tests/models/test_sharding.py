"""FSDP by stage: two processes with half of each parameter train as one process does."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torchvision.ops import FrozenBatchNorm2d

from resnest_backbones import ResNeSt, ResNeStSpec
from resnest_backbones.models.blocks import Stage
from tests.models.process_group import run_processes


def step(net: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Train for a step; return the parameters after it, whole."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sum(x.square().mean() for x in net(images).values()).backward()
    optimizer.step()
    return {name: getattr(p, "full_tensor", lambda p=p: p)().detach() for name, p in net.named_parameters()}


def trunk(checkpointing: bool) -> ResNeSt:
    torch.manual_seed(0)
    spec = ResNeStSpec("tiny", (1, 2, 1, 1), stem_width=8, bottleneck_width=16)
    return ResNeSt(spec, norm_layer=FrozenBatchNorm2d, gradient_checkpointing=checkpointing).double().train()


def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def train_sharded(rank: int) -> list[dict[str, Tensor]]:
    mesh, found = init_device_mesh("cpu", (2,)), []
    for checkpointing in (False, True):
        net = trunk(checkpointing)
        for module in [m for m in net.modules() if isinstance(m, Stage)]:
            fully_shard(module, mesh=mesh)
        fully_shard(net, mesh=mesh)
        found.append(step(net, images().chunk(2)[rank]))
    return found


@pytest.mark.slow
def test_a_trunk_that_is_sharded_by_stage_learns_the_same(tmp_path):
    alone = step(trunk(False), images())
    for of_process in run_processes(train_sharded, folder=tmp_path):
        for found in of_process:
            assert found.keys() == alone.keys()
            torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-12)
