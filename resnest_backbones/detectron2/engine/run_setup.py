"""What a run needs before it starts, from either kind of config: device, processes, seed, logs, steps of training."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from resnest_backbones import __name__ as PACKAGE
from resnest_backbones.acceleration import resolve_device
from resnest_backbones.checkpoint import remove_unfinished, set_aside, write_atomically
from resnest_backbones.errors import ConfigError, check_writable
from resnest_backbones.models.norms import synchronise_on_cpu
from resnest_backbones.weights import SCHEME, get_record

logger = logging.getLogger(__name__)


_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# How messages of Detectron2 begin that are for the file: the config, and the traceback of what ends in one line.
_FOR_THE_FILE = ("Contents of args.config_file", "Running with full config", "Exception during training")
_OF_A_RUN = ("model_*.pth", "last_checkpoint", "metrics.json")
_BESIDE_IT = ("log.txt*", "config.yaml*", "seed.txt", "events.out.tfevents.*", "inference*")


def device_or_cpu(wanted: str, key: str) -> str:
    """Return the device of a config; the CPU where it is a GPU, as Detectron2's defaults have it, and there is none."""
    return "cpu" if wanted.startswith("cuda") and not torch.cuda.is_available() else resolve_device(wanted, key)


def prepare(
    args: argparse.Namespace, *, device: str, key: str, weights: str, output_dir: str, seed: int, amp: bool
) -> tuple[str, int, list[str]]:
    """Check device and weights, and move an earlier run out of the way; return device, seed, and lines for the user.

    An error about the device, or about published weights of no such name, comes before any work; ``key`` is the
    device's in the config.
    """
    wanted, device, messages = device, device_or_cpu(device, key), []
    if weights.startswith(SCHEME):
        get_record(weights)
    if comm.is_main_process() and not args.resume and not args.eval_only:
        messages = set_aside(output_dir, _OF_A_RUN, _BESIDE_IT, keep=weights)
    comm.synchronize()
    if device != wanted:
        messages.append("No GPU found: running on the CPU")
    if device.startswith("cpu") and amp:
        messages.append("Mixed precision on the CPU uses float32 and bfloat16, without loss scaling")
    return device, resolve_seed(seed, output_dir, args), messages


def resolve_seed(seed: int, output_dir: str, args: argparse.Namespace) -> int:
    """Return a seed of 0 or more; else that of the run to resume, else a new one, the same in all processes."""
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


def check_sizes(cfg: CfgNode) -> None:
    """Raise a ``ConfigError`` where the sizes of training images do not go with the way to draw one of them."""
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    key = "INPUT.MIN_SIZE_TRAIN"
    if sampling not in ("range", "choice"):
        raise ConfigError(f"{key}_SAMPLING must be range or choice, got {sampling!r}")
    if not sizes or min(sizes) < 0:
        raise ConfigError(f"{key} must be shorter-side sizes in pixels, got {sizes}")
    if sampling == "range" and len(sizes) != 2:
        raise ConfigError(
            f"{key} must be the smallest and the largest size with {key}_SAMPLING range, got {sizes}: write "
            f"'({min(sizes)},{max(sizes)})', or set {key}_SAMPLING choice"
        )


def check_cropped_polygons() -> None:
    """Raise a ``ConfigError`` before the first step where the package that crops polygons is not installed."""
    if importlib.util.find_spec("shapely") is None:
        raise ConfigError("the config crops training images with masks, which needs the package shapely: install it")


def check_batch(cfg: CfgNode) -> None:
    """Raise a ``ConfigError`` where the batch does not divide among the processes, or is too small for batch norm.

    Batch norm needs two values per channel; the attention's has one per image, since its input is pooled.
    """
    batch, processes, norm = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size(), cfg.MODEL.RESNETS.NORM
    if batch < 1 or batch % processes:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH must be a positive multiple of the {processes} processes, got {batch}")
    images = batch if "SyncBN" in norm else batch // processes
    is_batch_norm = norm in ("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
    if images == 1 and is_batch_norm and "resnest" in cfg.MODEL.BACKBONE.NAME:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH must be 2 or more {'in total' if 'SyncBN' in norm else 'per process'} with "
            f"MODEL.RESNETS.NORM {norm}, got {batch} for {processes} processes; FrozenBN, GN and LN accept single "
            "images"
        )


def setup_run(cfg: CfgNode | DictConfig, args: argparse.Namespace, output_dir: str, messages: list[str]) -> None:
    """Set up logs, seed and output folder as Detectron2 does, and log ``messages`` first, as warnings.

    The log file has no codes of colors, and has the whole config and tracebacks, which the screen shows with
    ``--verbose`` only.
    """
    if comm.is_main_process():
        check_writable(output_dir)
        if not args.eval_only:
            remove_unfinished(output_dir)
    setup_logger(output_dir, distributed_rank=comm.get_rank(), name=PACKAGE)
    for message in messages:
        logger.warning(message)
    for handler in setup_logger(output_dir, distributed_rank=comm.get_rank()).handlers:  # default_setup takes the same
        if getattr(handler, "stream", None) is not sys.stdout:
            setattr(handler, "format", partial(_without_colors, handler.format))  # noqa: B010
        elif not args.verbose:
            handler.addFilter(lambda record: not str(record.msg).startswith(_FOR_THE_FILE))
    default_setup(cfg, args)


def _without_colors(format: Callable[[logging.LogRecord], str], record: logging.LogRecord) -> str:
    """Format without the codes of colors, which Detectron2 puts into the config that it logs."""
    return _COLOR.sub("", format(record))


def parallel(model: nn.Module, device: str, **options: Any) -> nn.Module:
    """Wrap a model in Detectron2's DistributedDataParallel, on CPUs too, where there are several processes."""
    if device.startswith("cpu"):
        options["device_ids"] = None
        synchronise_on_cpu(model)
    return create_ddp_model(model, **options)


def build_step_trainer(model: nn.Module, loader: Any, optimizer: Optimizer, *, device: str, amp: bool) -> SimpleTrainer:
    """Return Detectron2's trainer of single steps, in mixed precision where ``amp`` asks for it."""
    if not amp:
        return SimpleTrainer(model, loader, optimizer)
    if not device.startswith("cpu"):
        return AMPTrainer(model, loader, optimizer)
    # AMPTrainer is for GPUs only. bfloat16 has float32's range, so a forward pass in it is all that is needed.
    forward = model.forward

    def forward_in_bfloat16(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
            return forward(*args, **kwargs)

    setattr(model, "forward", forward_in_bfloat16)  # noqa: B010
    return SimpleTrainer(model, loader, optimizer)


class NestedState:
    """The state of a trainer as Detectron2's ``DefaultTrainer`` saves it, so that either's checkpoints resume there."""

    def __init__(self, trainer: SimpleTrainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Return the trainer's state; what is not of hooks lies under ``_trainer``."""
        state = self._trainer.state_dict()
        outer = {key: state[key] for key in ("iteration", "hooks") if key in state}
        return {**outer, "_trainer": {key: value for key, value in state.items() if key != "hooks"}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned."""
        outer = {key: value for key, value in state.items() if key != "_trainer"}
        self._trainer.load_state_dict({**state["_trainer"], **outer})
