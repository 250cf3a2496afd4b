"""Several processes and machines with Detectron2 on CPUs: equal to one process, and no peer is waited for for ever."""

import signal
from functools import partial

import pytest
import torch

pytest.importorskip("detectron2")

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from resnest_backbones.detectron2 import ResNeSt
from resnest_backbones.detectron2.engine.run_setup import parallel
from tests.detectron2 import helpers
from tests.detectron2.helpers import FPN_DETECTOR
from tests.detectron2.test_faults import CONFIG, TINY_DETECTOR, write_coco
from tests.helpers import start_tool
from tests.models.process_group import run_processes
from tests.network import Machine, train_to_the_end, train_until_one_is_lost

STAGES = ["stem", "res2", "res3", "res4", "res5"]


def images() -> torch.Tensor:
    return torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def step_of_trunk(net: nn.Module, batch: torch.Tensor, inner: nn.Module) -> dict[str, torch.Tensor]:
    sum(x.square().mean() for x in net(batch).values()).backward()
    gradients = {f"gradient of {name}": p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}
    return gradients | {name: b.clone() for name, b in inner.named_buffers()}


def trunk(norm: str) -> ResNeSt:
    torch.manual_seed(0)
    return ResNeSt("resnest14", norm=norm, freeze_at=2).double()


ALL = [(number, features) for number in range(6) for features in (STAGES[1:], STAGES)]


def in_a_group(rank: int, norm: str, detectors: list[tuple]) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """A step of the trunk, and weights and statistics of detectors after two steps; one image each."""
    net = trunk("SyncBN")
    ours = step_of_trunk(parallel(net, "cpu", broadcast_buffers=False), images()[2 * rank : 2 * rank + 2], net)
    trained = []
    for freeze_at, features in detectors:
        keys = {"MODEL.RESNETS.NORM": norm, "MODEL.FPN.NORM": norm}
        keys |= {"MODEL.BACKBONE.FREEZE_AT": freeze_at, "MODEL.RESNETS.OUT_FEATURES": features}
        model = parallel(helpers.detector(FPN_DETECTOR, keys), "cpu", broadcast_buffers=False)
        assert isinstance(model, DistributedDataParallel) and not model.find_unused_parameters
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(2):  # the second forward is where it misses gradients of the first
            optimizer.zero_grad()
            helpers.training_losses(model, helpers.images(2)[rank : rank + 1])
            optimizer.step()
        trained.append({name: value.clone() for name, value in model.module.state_dict().items()})
    return ours, trained


@pytest.mark.fault("two processes instead of one", "gradients and statistics of batch norm are equal")
@pytest.mark.fault("each FREEZE_AT in two processes", "no parameter goes unused")
@pytest.mark.parametrize(
    ("norm", "detectors"), [("naiveSyncBN_N", [(2, STAGES)]), ("SyncBN", ALL)], ids=["naiveSyncBN_N", "SyncBN"]
)
@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch_and_use_every_parameter(norm, detectors, tmp_path):
    alone = trunk("BN")
    want = step_of_trunk(alone, images(), alone)
    (one, left), (two, right) = run_processes(partial(in_a_group, norm=norm, detectors=detectors), folder=tmp_path)
    for ours in (one, two):
        assert ours.keys() == want.keys()
        for name, value in want.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
    assert len(left) == len(right) == len(detectors)
    for mine, yours in zip(left, right, strict=True):
        assert all(torch.equal(value, yours[name]) for name, value in mine.items())


# Machines

ENDS = "the other one ends with an error; both continue with --resume"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="machines that share a GPU")
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, marks=pytest.mark.fault("a machine of two that dies (SIGKILL)", ENDS)),
        pytest.param(signal.SIGSTOP, marks=pytest.mark.fault("a machine of two that stops responding (SIGSTOP)", ENDS)),
    ],
    ids=["dies", "falls silent"],
)
def test_two_machines_train_and_a_lost_one_ends_the_other_and_both_resume(how, tmp_path):
    data, output = write_coco(tmp_path / "data", ["plain", "grey", "odd size", "palette"]), tmp_path / "run"

    def start(rank: int, machines: list[Machine], port: int, *, iterations: int = 1000, more: tuple = ()):
        where = ["--num-machines", 2, "--machine-rank", rank, "--num-gpus", 1]
        where += ["--dist-url", f"tcp://{machines[0].address}:{port}"]
        keys = ["OUTPUT_DIR", output, "SOLVER.MAX_ITER", iterations, "SEED", 3, "SOLVER.CHECKPOINT_PERIOD", 2]
        command = ["--config-file", CONFIG, *where, *more, *data, *TINY_DETECTOR, *keys, "DATASETS.TEST", "()"]
        return start_tool("train_net", *command, machine=machines[rank])

    silent = partial(start, more=("--dist-timeout", 20))
    assert "World size: 2" in train_until_one_is_lost(silent, output / "model_0000001.pth", how)
    first = max(int(file.stem.removeprefix("model_")) for file in output.glob("model_0*.pth"))
    printed = train_to_the_end(partial(start, iterations=first + 2, more=("--resume",)))
    assert f"Starting training from iteration {first + 1}" in printed
    assert (output / "model_final.pth").exists()
