"""One of two processes that train a compiled trunk beside an uncompiled one; run by test_acceleration.py."""

import copy
import sys
from pathlib import Path

import torch
from torch import distributed
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from resnest_backbones import build
from resnest_backbones.acceleration import accelerate


def main() -> None:
    meeting_point, rank = Path(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=meeting_point.as_uri(), rank=rank, world_size=2)
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
        for (name, wanted), found in zip(plain.named_parameters(), fast.parameters(), strict=True):
            assert (found.grad - wanted.grad).abs().max() <= 1e-8 * wanted.grad.abs().max().clamp(min=1e-3), name
        for (name, wanted), found in zip(plain.named_buffers(), fast.buffers(), strict=True):
            torch.testing.assert_close(found, wanted, msg=name)
    checksum = sum(p.grad.abs().sum().item() for p in fast.parameters())
    print(f"{counters['stats']['unique_graphs']} graphs, gradients {checksum:.6g}", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
