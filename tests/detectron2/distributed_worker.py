"""One of two processes that train a small detector with DistributedDataParallel; run by test_backbone.py."""

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tests.detectron2 import helpers


def train(rank: int, freeze_at: int) -> None:
    keys = {
        "MODEL.RESNETS.NORM": "naiveSyncBN_N",
        "MODEL.FPN.NORM": "naiveSyncBN_N",
        "MODEL.BACKBONE.FREEZE_AT": freeze_at,
    }
    model = helpers.detector(helpers.FPN_DETECTOR, keys)
    model = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batch = helpers.images(2)[rank : rank + 1]  # one image each: only synchronised norms can train on that
    for _ in range(2):  # the second forward is where DistributedDataParallel misses gradients of the first
        optimizer.zero_grad()
        helpers.training_losses(model, batch)
        optimizer.step()
    checksum = sum(p.double().abs().sum().item() for p in model.parameters())
    mean = model.module.backbone.bottom_up.res5[0].conv3.norm.running_mean.double().sum().item()
    print(f"FREEZE_AT {freeze_at}: parameters {checksum:.6f}, running mean {mean:.6f}", flush=True)


if __name__ == "__main__":
    meeting_point, rank = Path(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=meeting_point.as_uri(), rank=rank, world_size=2)
    for freeze_at in (0, 2):
        train(rank, freeze_at)
    distributed.destroy_process_group()
