"""The training: an epoch after the other, each followed by an evaluation and a checkpoint."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from torch.utils.tensorboard import SummaryWriter

from pretraining import recipe
from pretraining.data import ClassFolders, evaluation_transform, training_transform
from pretraining.evaluate import METRICS, make_loader, measure
from pretraining.processes import Processes, autocast, half_type, share_buffers
from resnest_backbones import checkpoint
from resnest_backbones.acceleration import accelerate
from resnest_backbones.checkpoint.classes import check_resumed_classes
from resnest_backbones.data import derive_seed
from resnest_backbones.errors import CheckpointError, ConfigError, DatasetError, DivergedError, check_writable

LAST, BEST = "last.pth", "best.pth"
# What a resumed training may have otherwise than the one it continues.
_FREE = ("data", "output_dir", "workers", "resume", "eval_only", "device", "verbose", "log_period", "compile")


class Trainer:
    """A network in training, and all that its last checkpoint keeps."""

    def __init__(self, args: argparse.Namespace, classes: list[str], iterations: int, processes: Processes) -> None:
        self.args, self.classes, self.iterations, self.processes = args, classes, iterations, processes
        torch.manual_seed(args.seed)
        self.net = recipe.make_network(
            args.network, len(classes), in_channels=args.in_channels, dropout=args.dropout, drop_block=args.drop_block
        ).to(processes.device)
        accelerate(self.net, channels_last=args.channels_last)
        self.optimizer = recipe.make_optimizer(self.net, args.lr, args.weight_decay)
        self.schedule = recipe.make_schedule(
            self.optimizer, epochs=args.epochs, warmup_epochs=args.warmup_epochs, iterations=iterations
        )
        self.scaler = torch.amp.GradScaler(  # of float16 alone
            processes.device.type, enabled=args.amp and half_type(processes.device) is torch.float16
        )
        self.ema = ModelEmaV3(self.net, decay=args.ema) if args.ema else None
        self.epoch, self.best = 0, -1.0

    def parallel(self) -> nn.Module:
        """Return what is called in training: the network, compiled and with gradients of all processes."""
        accelerate(self.net, compile=self.args.compile)
        return DistributedDataParallel(self.net) if self.processes.number > 1 else self.net

    def evaluated(self) -> nn.Module:
        """Return the network whose accuracy counts."""
        return self.ema.module if self.ema else self.net

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of its network."""
        args = self.args
        return {"network": args.network, "classes": self.classes, "crop": args.crop, "epoch": self.epoch}

    def state(self) -> dict[str, Any]:
        """Return all that the training goes on from."""
        average = {"state_dict_ema": self.ema.module.state_dict()} if self.ema else {}
        return {
            **self.facts(),
            "state_dict": self.net.state_dict(),
            **average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "settings": {name: value for name, value in vars(self.args).items() if name not in _FREE},
        }

    def resume(self, file: Path) -> None:
        """Go on from a checkpoint of ``state``.

        Raises:
            ConfigError: it was trained with another setting, or other classes; the message names it.
        """
        content = checkpoint.read_checkpoint(file)
        if "settings" not in content:
            raise CheckpointError(f"{file} is not a training checkpoint of tools/pretrain.py, which --resume needs")
        for name, value in content["settings"].items():
            if (own := getattr(self.args, name, None)) != value:
                option = "--" + name.replace("_", "-")
                raise ConfigError(
                    f"--resume continues {file}, which was trained with {option} {value}, got {own}; give the same, "
                    "or another --output-dir"
                )
        check_resumed_classes(content["classes"], self.classes, str(file))
        self.net.load_state_dict(content["state_dict"])
        if self.ema:
            self.ema.module.load_state_dict(content["state_dict_ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.epoch, self.best = content["epoch"], content["best"]

    def train_epoch(self, model: nn.Module, batches: DataLoader, log: Log) -> None:
        """Train for an epoch."""
        args, device = self.args, self.processes.device
        recipe.set_drop_block(self.net, args.drop_block, epoch=self.epoch, epochs=args.epochs)
        model.train()
        for number, (images, labels) in enumerate(batches):
            step = self.epoch * self.iterations + number
            self.schedule.step_update(step)
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            seed = derive_seed(args.seed, self.processes.rank, step)
            images, targets = recipe.mix_up(
                images, labels, len(self.classes), alpha=args.mixup, smoothing=args.label_smoothing, seed=seed
            )
            with autocast(device, args.amp):
                loss = F.cross_entropy(model(images)["logits"], targets)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema:
                self.ema.update(self.net)
            if (step + 1) % args.log_period == 0 or number + 1 == self.iterations:
                log.iteration(step + 1, self.epoch, loss, self.optimizer.param_groups[0]["lr"], len(images))
        self.epoch += 1


class Log:
    """Lines of the console, ``metrics.json`` and TensorBoard's file, of the first process; errors, of each."""

    def __init__(self, args: argparse.Namespace, processes: Processes, total: int) -> None:
        self.total, self.processes, self.epochs, self.folder = total, processes, args.epochs, args.output_dir
        self.began, self.first = time.monotonic(), 0
        self.board = SummaryWriter(str(args.output_dir)) if processes.rank == 0 else None

    def iteration(self, step: int, epoch: int, loss: Tensor, lr: float, images: int) -> None:
        """Log an iteration.

        Raises:
            DivergedError: its loss is not finite.
        """
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(f"the training diverged by iteration {step}, at learning rate {lr:.6g}: lower --lr")
        rate = (step - self.first) / (time.monotonic() - self.began)
        minutes = (self.total - step) / rate / 60
        self.write(
            f"epoch {epoch + 1}/{self.epochs}, iteration {step}/{self.total}: loss {value:.4f}, rate {lr:.4g}, "
            f"{rate * images * self.processes.number:.1f} images/s, {minutes:.0f} minutes left",
            step,
            {"loss": value, "lr": lr},
        )

    def write(self, line: str, step: int, metrics: dict[str, float]) -> None:
        """Write a line, and its metrics."""
        if self.board is None:
            return
        print(line, flush=True)
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()


def train(args: argparse.Namespace, processes: Processes) -> None:
    """Train, from the last checkpoint with ``--resume``.

    Raises:
        ResNeStError: data or settings cannot be used, or the loss diverged; the message names what is wrong.
    """
    channels = args.in_channels
    augmented, evaluated = (
        training_transform(args.crop, args.auto_augment, channels), evaluation_transform(args.crop, channels)
    )  # fmt: skip
    data = ClassFolders(args.data / "train", augmented, channels=channels)
    held_out = ClassFolders(args.data / "val", evaluated, channels=channels, known=data.classes)
    sampler = DistributedSampler(data, processes.number, processes.rank, seed=args.seed, drop_last=True)
    draws = torch.Generator()
    batches = DataLoader(
        data, args.batch_size, sampler=sampler, num_workers=args.workers, drop_last=True, generator=draws,
        pin_memory=processes.device.type == "cuda",
    )  # fmt: skip
    if not len(batches):
        raise DatasetError(
            f"{args.data / 'train'} has {len(data)} images, fewer than a batch of {args.batch_size * processes.number}"
        )
    args.lr = args.lr if args.lr is not None else 0.1 * args.batch_size * processes.number / 256
    check_writable(args.output_dir)
    if processes.rank == 0 and not args.resume:
        for line in checkpoint.set_aside(args.output_dir, [METRICS], [LAST, BEST, "curves.png", "events.*"]):
            print(line)
    trainer = Trainer(args, data.classes, len(batches), processes)
    if args.resume and (args.output_dir / LAST).is_file():
        trainer.resume(args.output_dir / LAST)
    model, log = trainer.parallel(), Log(args, processes, args.epochs * len(batches))
    log.first = trainer.epoch * len(batches)
    validation = make_loader(held_out, args, processes)
    while trainer.epoch < args.epochs:
        # What an epoch draws depends on its number alone, so that a resumed training draws the same.
        seed = derive_seed(args.seed, processes.rank, trainer.epoch)
        torch.manual_seed(seed)
        draws.manual_seed(seed)
        sampler.set_epoch(trainer.epoch)
        trainer.train_epoch(model, batches, log)
        share_buffers(trainer.evaluated())
        measured = measure(trainer.evaluated(), validation, args.amp, processes.device)
        is_best = measured["top1"] > trainer.best
        trainer.best = max(trainer.best, measured["top1"])
        if processes.rank == 0:
            if is_best:
                weights = trainer.evaluated().state_dict()
                content = {"state_dict": weights, **trainer.facts(), **measured}
                checkpoint.save_atomically(content, args.output_dir / BEST)
            checkpoint.save_atomically(trainer.state(), args.output_dir / LAST)
        accuracy = ", ".join(f"{name} {value:.2f}" for name, value in measured.items())
        best = f"the best is {trainer.best:.2f}"
        log.write(f"epoch {trainer.epoch}/{args.epochs}: {accuracy}; {best}", trainer.epoch * len(batches), measured)
