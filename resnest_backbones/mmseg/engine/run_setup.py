"""What a run needs beside its config: errors in one line, a machine without GPUs, changes of configs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from torch import distributed

from resnest_backbones.errors import CheckpointError, ConfigError, DatasetError, DivergedError, WeightsError

_SYNC_NORMS = ("SyncBN", "MMSyncBN")
_AMP_KEYS = ("loss_scale", "dtype", "use_fsdp")


# What the tools end with in one line: a file, a data set or the config is wrong.
RUN_ERRORS = (CheckpointError, ConfigError, DatasetError, DivergedError, DatasetError, OSError, WeightsError)


# A machine without GPUs


def adapt_to_cpu(cfg: Config) -> list[str]:
    """Change what needs a GPU in a config; nothing where there is one.

    Returns:
        What was changed, for the user.
    """
    if get_device() != "cpu":
        return []
    messages = ["There is no GPU here: running on the CPU"]
    wrapper = cfg.get("optim_wrapper")
    if wrapper and type_name(wrapper) == "AmpOptimWrapper":
        wrapper.type = "CPUAmpOptimWrapper"
        for key in _AMP_KEYS:
            wrapper.pop(key, None)
        messages.append("Mixed precision on the CPU is of float32 and bfloat16, which needs no scaling of losses")
    if cfg.get("launcher", "none") != "none":
        if _replace_sync_norms(cfg.model):
            messages.append("SyncBN exchanges its statistics by gloo: CpuSyncBN of this package takes its place")
        if cfg.pop("sync_bn", None) is not None:
            messages.append("sync_bn is left out: MMEngine converts norms for GPUs only; name SyncBN in the norm_cfg")
        usual = {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "find_unused_parameters": cfg.get("find_unused_parameters", False),
        }
        cfg.model_wrapper_cfg = {**(cfg.get("model_wrapper_cfg") or usual), "device_ids": None}
    return messages


def _replace_sync_norms(settings: Any) -> bool:
    """Turn SyncBN into one that works on CPUs everywhere below; whether there was any."""
    if isinstance(settings, dict):
        found = type_name(settings) in _SYNC_NORMS
        if found:
            settings["type"] = "CpuSyncBN"
        return any([found, *(_replace_sync_norms(value) for value in settings.values())])
    return isinstance(settings, (list, tuple)) and any([_replace_sync_norms(value) for value in settings])


def start_processes_on_cpu(launcher: str, timeout: float | None = None) -> None:
    """Join the processes of a launcher by gloo where there is no GPU; MMEngine itself gives each process one.

    Args:
        launcher: ``pytorch``, ``slurm`` or ``mpi``; nothing is done for ``none``.
        timeout: seconds after which a process that waits for another one fails; PyTorch's where None.

    Raises:
        ConfigError: the launcher's environment variables are not there.
    """
    if launcher == "none" or get_device() != "cpu" or distributed.is_initialized():
        return
    try:
        if launcher == "slurm":
            host = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
            if "MASTER_ADDR" not in os.environ:
                found = subprocess.run(host, capture_output=True, text=True, check=True)
                os.environ["MASTER_ADDR"] = found.stdout.split()[0]
            _set_ranks("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        elif launcher == "mpi":
            _set_ranks("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
        if launcher != "pytorch":
            os.environ.setdefault("MASTER_PORT", "29500")
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ[name]
    except KeyError as error:
        raise ConfigError(f"--launcher {launcher} needs the environment variable {error.args[0]}") from error
    distributed.init_process_group("gloo", timeout=None if timeout is None else timedelta(seconds=timeout))


def _set_ranks(rank: str, world_size: str, local_rank: str) -> None:
    values = [os.environ[name] for name in (rank, world_size, local_rank)]
    os.environ.update(zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), values, strict=True))


# Configs


def type_name(settings: Any) -> str:
    """The name of what a config builds, given as ``Name``, ``scope.Name`` or, in Python configs, the class itself."""
    kind = settings.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def add_hook(cfg: Config, name: str) -> None:
    """Add a custom hook without arguments, unless it is there."""
    hooks = list(cfg.get("custom_hooks") or [])
    if all(type_name(hook) != name for hook in hooks if isinstance(hook, dict)):
        cfg.custom_hooks = [*hooks, {"type": name}]


def require_whole_checkpoint(cfg: Config) -> None:
    """Add ``RequireWholeCheckpointHook`` to a config, and the renaming of other layouts before it."""
    add_checkpoint_hook(cfg)
    add_hook(cfg, "RequireWholeCheckpointHook")


def add_checkpoint_hook(cfg: Config) -> None:
    """Add the hook that renames checkpoints of other layouts."""
    add_hook(cfg, "ResNeStCheckpointHook")


def inner_datasets(settings: Any) -> Sequence[Any]:
    """The configs of data sets below wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""
    if settings.get("dataset") is not None:
        return inner_datasets(settings.dataset)
    if settings.get("datasets") is not None:
        return [inner for one in settings.datasets for inner in inner_datasets(one)]
    return [settings]
