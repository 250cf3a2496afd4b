"""Several processes with MMSegmentation on CPUs: equal to one process, and no peer is waited for for ever."""

import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from resnest_backbones.mmseg.engine.train import _replace_sync_norms
from tests.helpers import start_tool
from tests.mmseg.helpers import logged, make_label_map_dataset, write_config
from tests.models.process_group import run_processes
from tests.network import Machine, train_to_the_end, train_until_one_is_lost

ENDS = "the other one ends with an error; both continue with --resume"
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what is different on a machine without a GPU")


def segmentor(config: Path, **backbone: object) -> nn.Module:
    init_default_scope("mmseg")
    cfg = Config.fromfile(config)
    cfg.model.backbone.update({"out_indices": (0, 1, 2, 3), "output_stride": 8, **backbone})
    last = cfg.model.backbone.out_indices[-1]
    cfg.model.decode_head.update(in_channels=256 << last, in_index=-1)
    cfg.model.auxiliary_head[0].update(in_channels=128 << last, in_index=-2)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head[0]):
        head.dropout_ratio = 0.0
        losses = head.loss_decode if isinstance(head.loss_decode, list) else [head.loss_decode]
        for loss in losses:
            loss.pop("class_weight", None)
    assert _replace_sync_norms(cfg.model)
    torch.manual_seed(0)
    return MODELS.build(cfg.model).double()


def batch() -> tuple[torch.Tensor, list[SegDataSample]]:
    chance = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 21, (4, 1, 64, 64), generator=chance)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one), metainfo={"img_shape": (64, 64)}) for one in labels]
    return torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=chance), samples


def step(model: nn.Module, inner: nn.Module, images: torch.Tensor, samples: list) -> dict[str, torch.Tensor]:
    losses = model(images, samples, mode="loss")
    sum(value for name, value in losses.items() if "loss" in name).backward()
    lost = [name for name, p in inner.named_parameters() if p.requires_grad and p.grad is None]
    assert lost == []
    gradients = {f"gradient of {name}": p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}
    return gradients | {name: b.clone() for name, b in inner.named_buffers()}


def in_a_group(rank: int, config: Path) -> list[dict[str, torch.Tensor]]:
    images, samples = batch()
    share = slice(2 * rank, 2 * rank + 2)
    found = []
    cases = [{}, {"frozen_stages": 1}, {"frozen_stages": 4}, {"output_stride": 16}, {"output_stride": 32}]
    for case in [*cases, {"out_indices": (1, 2)}]:
        inner = segmentor(config, **case)
        model = MMDistributedDataParallel(inner, broadcast_buffers=False, find_unused_parameters=False)
        found.append(step(model, inner, images[share], samples[share]))
        model.zero_grad()
        step(model, inner, images[share], samples[share])  # where DDP would miss gradients of the first
    return found[:2]


@needs_no_gpu
@pytest.mark.fault("two processes instead of one", "gradients and statistics of batch norm are equal")
@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch_and_use_every_parameter(tmp_path):
    config = write_config(tmp_path)
    found = run_processes(partial(in_a_group, config=config), folder=tmp_path)
    for number, case in enumerate(({}, {"frozen_stages": 1})):
        alone = segmentor(config, **case)
        want = step(alone, alone, *batch())
        for ours in (process[number] for process in found):
            assert ours.keys() == want.keys()
            for name, value in want.items():
                torch.testing.assert_close(ours[name], value, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@needs_no_gpu
@pytest.mark.slow
@pytest.mark.parametrize("how", [
    pytest.param(signal.SIGKILL, marks=pytest.mark.fault("a machine of two that dies (SIGKILL)", ENDS)),
    pytest.param(signal.SIGSTOP, marks=pytest.mark.fault("a machine of two that stops responding (SIGSTOP)", ENDS)),
])  # fmt: skip
def test_two_machines_train_and_a_lost_one_ends_the_other_and_both_resume(how, tmp_path):
    data, work_dir = make_label_map_dataset(tmp_path / "data"), tmp_path / "run"
    config = write_config(tmp_path)

    def start(rank: int, machines: list[Machine], port: int, *, iterations: int = 5000, more: tuple = ()):
        launcher = ["-m", "torch.distributed.run", "--nnodes", 2, "--node-rank", rank, "--nproc-per-node", 1]
        launcher += ["--max-restarts", 0, "--master-addr", machines[0].address, "--master-port", port]
        launcher += ["--local-addr", machines[rank].address]
        options = ["--cfg-options", "randomness.seed=3", "train_cfg.val_interval=100000"]
        command = [config, "--data-root", data, "--work-dir", work_dir, "--launcher", "pytorch", *options]
        command += [f"train_cfg.max_iters={iterations}", *more]
        return start_tool("train_seg", *command, machine=machines[rank], launcher=launcher)

    silent = partial(start, more=("env_cfg.dist_cfg.timeout=20",))
    train_until_one_is_lost(silent, work_dir / "iter_2.pth", how)
    last = max(int(file.stem.removeprefix("iter_")) for file in work_dir.glob("iter_*.pth"))
    train_to_the_end(partial(start, iterations=last + 2, more=("--resume",)))
    assert f"resumed epoch: 0, iter: {last}" in logged(work_dir)
