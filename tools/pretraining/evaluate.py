"""Top-1 and top-5 accuracy of a network, or of a file in any layout, beside what was published."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import resnest_backbones as rb
from markdown_table import markdown_table
from pretraining.data import ClassFolders, evaluation_transform
from pretraining.processes import Processes, autocast
from pretraining.recipe import CROPS
from resnest_backbones import checkpoint
from resnest_backbones.errors import ConfigError, DatasetError, check_writable
from resnest_backbones.weights import SCHEME, WEIGHTS

METRICS = "metrics.json"


def make_loader(data: Dataset[tuple[Tensor, int]], args: argparse.Namespace, processes: Processes) -> DataLoader:
    """Return a loader of this process's share of the images, each of which is in one share."""
    share = Subset(data, range(processes.rank, len(data), processes.number))  # type: ignore[arg-type]
    return DataLoader(share, args.batch_size, num_workers=args.workers, pin_memory=processes.device.type == "cuda")


@torch.no_grad()
def measure(
    net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], amp: bool, device: torch.device
) -> dict[str, float]:
    """Return ``top1``, and ``top5`` of more than five classes, in percent, over the images of all processes."""
    counts, classes = torch.zeros(3, dtype=torch.int64, device=device), 0
    net.eval()
    for images, labels in batches:
        with autocast(device, amp):
            logits = net(images.to(device))["logits"].float()
        classes = logits.shape[1]
        hits = logits.topk(min(5, classes)).indices == labels.to(device)[:, None]
        counts += torch.stack([hits[:, 0].sum(), hits.sum(), torch.tensor(len(labels), device=device)])
    if dist.is_initialized():
        dist.all_reduce(counts)
    first, five, number = counts.tolist()
    return {"top1": 100 * first / number, **({"top5": 100 * five / number} if classes > 5 else {})}


def evaluate(args: argparse.Namespace, processes: Processes) -> None:
    """Run ``--eval-only``: print the accuracy of a file on ``val/``, beside the published one."""
    if args.output_dir:
        check_writable(args.output_dir)
    facts = checkpoint.describe_file(args.eval_only)
    name = str(args.eval_only).removeprefix(SCHEME)
    record = WEIGHTS.get(name) or next((r for r in WEIGHTS.values() if r.filename == Path(name).name), None)
    network = args.network or (record.name if record else facts["network"])
    if network is None:
        raise ConfigError(f"{args.eval_only} does not say of which network it is: name it by --network")
    if not facts["num_classes"]:
        raise DatasetError(f"{args.eval_only} holds no classifier, which an evaluation needs")
    crop = args.crop or facts["crop"] or CROPS.get(network, 224)
    channels = facts["image_channels"]
    root = args.data / "val" if (args.data / "val").is_dir() else args.data
    data = ClassFolders(root, evaluation_transform(crop, channels), channels=channels, known=facts["classes"])
    if len(data.classes) != facts["num_classes"]:
        raise DatasetError(
            f"{root} must have as many classes as {args.eval_only}, {facts['num_classes']}, got {len(data.classes)}"
        )
    net = rb.build(network, out_features=("logits",), num_classes=facts["num_classes"], in_channels=channels)
    checkpoint.load_checkpoint(net, args.eval_only)
    net.to(processes.device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    measured = measure(net, make_loader(data, args, processes), args.amp, processes.device)
    if processes.rank == 0:
        if args.output_dir:
            content = json.dumps({"iteration": 0, **measured}) + "\n"
            checkpoint.write_atomically(args.output_dir / METRICS, lambda stream: stream.write(content.encode()))
        print(f"{network}, {len(data)} images of {root}, {facts['num_classes']} classes, crop {crop}, {args.eval_only}")
        print(accuracy_table(measured, record.top1 if record and record.crop == crop else None))


def accuracy_table(measured: dict[str, float], published: float | None) -> str:
    """Return measured and published accuracy; of the published files, top-1 was published alone."""
    beside = (f"{published:.2f}", f"{measured['top1'] - published:+.2f}") if published is not None else ("", "")
    rows = [("top-1", f"{measured['top1']:.2f}", *beside)]
    rows += [("top-5", f"{measured['top5']:.2f}", "", "")] if "top5" in measured else []
    return markdown_table(("accuracy (%)", "measured", "published", "difference"), rows, "lrrr")
