"""What a run needs before it starts, whichever kind of config it has: device, processes, seed, logs, one's own data."""

from __future__ import annotations

import argparse
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase, create_ddp_model, default_setup, hooks
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from resnest_backbones import __name__ as PACKAGE
from resnest_backbones.checkpoint import remove_unfinished, write_atomically
from resnest_backbones.detectron2.checkpoint import ResNeStCheckpointer
from resnest_backbones.detectron2.custom_coco import CocoSource, register_custom_coco
from resnest_backbones.detectron2.engine.data import seed_iteration
from resnest_backbones.errors import ConfigError, DivergedError, check_finite, check_writable, diverged
from resnest_backbones.models.sync_batch_norm import synchronise_on_cpu

logger = logging.getLogger(__name__)

_FINAL = "model_final"  # as Detectron2's PeriodicCheckpointer has it


class SeedIterations(HookBase):
    """Make each iteration's random numbers, and precise BN's batches, a function of the seed and its number."""

    def __init__(self, seed: int, precise_bn: hooks.PreciseBN | None = None) -> None:
        self._seed = seed
        self._precise_bn = precise_bn

    def before_step(self) -> None:
        """Called by the trainer before each iteration."""
        seed_iteration(self._seed, self.trainer.iter)
        if self._precise_bn is not None:
            self._precise_bn._data_iter = None


class SaveMissedFinal(HookBase):
    """Write the final checkpoint in a training that was broken off between its last periodic one and that.

    Such a training has no iteration left to go on with, and Detectron2 writes checkpoints after iterations alone.
    """

    def __init__(self, checkpointer: ResNeStCheckpointer) -> None:
        self._checkpointer = checkpointer

    def before_train(self) -> None:
        """Called by the trainer once the checkpoint to go on from is loaded."""
        trainer = self.trainer
        file = Path(self._checkpointer.save_dir) / f"{_FINAL}.pth"
        if trainer.start_iter < trainer.max_iter or file.exists() or not comm.is_main_process():
            return
        trainer.iter = trainer.max_iter - 1  # as it was when the last checkpoint was written
        self._checkpointer.save(_FINAL, iteration=trainer.iter)
        trainer.iter = trainer.start_iter


class StopAtInvalidLoss(HookBase):
    """End a training whose loss is no finite number, before that reaches a weight, with the images that it is of.

    Detectron2 itself says the iteration and the losses, of all processes together, or that proposals are NaN.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._images: list[str] = []
        model.register_forward_pre_hook(self._remember)
        model.register_forward_hook(self._check)

    @contextmanager
    def explain(self, trainer: TrainerBase) -> Iterator[None]:
        """Say of Detectron2's own error in a training what ours says.

        Raises:
            DivergedError: there was one, or a loss is no finite number.
        """
        try:
            yield
        except DivergedError:
            raise
        except FloatingPointError as error:
            raise diverged(str(error), **self._where(trainer)) from error

    def _where(self, trainer: TrainerBase) -> dict[str, Any]:
        rates = [group["lr"] for group in self._optimizer.param_groups]
        return {"iteration": trainer.iter, "images": self._images, "rates": rates}

    def _remember(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if model.training:
            self._images = [str(item.get("file_name", "?")) for item in inputs[0]]

    def _check(self, model: nn.Module, inputs: tuple[Any, ...], losses: Any) -> None:
        if model.training and isinstance(losses, dict):
            check_finite({name: float(value) for name, value in losses.items()}, **self._where(self.trainer))


def parallel(model: nn.Module, device: str, **options: Any) -> nn.Module:
    """Detectron2's DistributedDataParallel, which takes it for granted that each process has a GPU."""
    if device.startswith("cpu"):
        options["device_ids"] = None
        synchronise_on_cpu(model)
    return create_ddp_model(model, **options)


def device_here(wanted: str) -> str:
    """The wanted device, or the CPU where a GPU is wanted and there is none."""
    return "cpu" if wanted.startswith("cuda") and not torch.cuda.is_available() else wanted


def set_up(cfg: CfgNode | DictConfig, args: argparse.Namespace, output_dir: str, adapted: list[str]) -> None:
    """Detectron2's set-up of a run, and this package's log lines beside the framework's.

    Raises:
        OSError: the output folder cannot be written.
    """
    if comm.is_main_process():
        check_writable(output_dir)
        if not args.eval_only:
            remove_unfinished(output_dir)
    default_setup(cfg, args)
    setup_logger(output_dir, distributed_rank=comm.get_rank(), name=PACKAGE)
    for message in adapted:
        logger.warning(message)


def what_was_adapted(device: str, wanted_device: str, wanted_amp: bool) -> list[str]:
    """Messages for the user; they are logged once the framework's logger is set up."""
    messages = ["There is no GPU here: running on the CPU"] if device != wanted_device else []
    if device.startswith("cpu") and wanted_amp:
        messages.append("Mixed precision on the CPU is of float32 and bfloat16, which needs no scaling of losses")
    return messages


def build_step_trainer(model: nn.Module, loader: Any, optimizer: Optimizer, *, device: str, amp: bool) -> SimpleTrainer:
    """Detectron2's trainer of single steps, in mixed precision where asked for."""
    if not amp:
        return SimpleTrainer(model, loader, optimizer)
    if not device.startswith("cpu"):
        return AMPTrainer(model, loader, optimizer)
    # AMPTrainer is for GPUs alone. bfloat16 has float32's range, so a forward pass in it is all that is needed.
    _train_in_bfloat16(model)
    return SimpleTrainer(model, loader, optimizer)


def _train_in_bfloat16(model: nn.Module) -> None:
    forward = model.forward

    def forward_in_training(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
            return forward(*args, **kwargs)

    setattr(model, "forward", forward_in_training)  # noqa: B010


def seed_of_run(seed: int, output_dir: str, args: argparse.Namespace) -> int:
    """The config's seed; where it has none, the one that the run to be resumed drew, or a new one; equal everywhere."""
    if seed >= 0:
        return seed
    file = Path(output_dir) / "seed.txt"
    previous = int(file.read_text()) if args.resume and file.is_file() else -1
    previous = comm.all_gather(previous)[0]
    seed = previous if previous >= 0 else comm.shared_random_seed()
    if comm.is_main_process() and not args.eval_only:
        check_writable(file.parent)
        write_atomically(file, lambda stream: stream.write(f"{seed}\n".encode()))
    return seed


def check_cropped_polygons() -> None:
    """Miss the package that Detectron2 cuts the outlines of masks with before the training, not in its first step.

    Raises:
        ConfigError: shapely is not installed.
    """
    if importlib.util.find_spec("shapely") is None:
        raise ConfigError("the config crops training images with masks, which needs the package shapely: install it")


def custom_data(args: argparse.Namespace) -> tuple[str | None, str, CocoSource] | None:
    """What ``register_custom_coco`` gives for the command line's options of one's own data; None without them."""
    if not args.val_json:
        return None
    return register_custom_coco(args.train_json, args.train_images, args.val_json, args.val_images)
