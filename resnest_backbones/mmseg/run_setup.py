"""What a run needs beside its config: a machine without GPUs, whole files, random numbers that a break does not change.

Everything here works through MMEngine's registries and settings, so that a config dumped by a run says all of it and
runs in MMSegmentation's own tools too.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.device import get_device
from mmengine.dist import get_rank, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS
from mmengine.runner import Runner
from torch import distributed, nn

from resnest_backbones.checkpoint import CheckpointError
from resnest_backbones.layouts import COUNTER, summarize_keys
from resnest_backbones.mmseg.backbone import ResNeStBackbone
from resnest_backbones.mmseg.datasets import DatasetError
from resnest_backbones.mmseg.transforms import LabelError
from resnest_backbones.weights import WeightsError

WHOLE_FILES = "resnest_whole_files"  # the name of the file backend, in configs too

_CHECKPOINT_NAME = re.compile(r"(?:iter|epoch)_(\d+)\.pth")
_SYNC_NORMS = ("SyncBN", "MMSyncBN")
_AMP_KEYS = ("loss_scale", "dtype", "use_fsdp")
_AUXILIARY, _BACKBONE = "auxiliary_head.", "backbone."
# Where one of our errors stands in what a DataLoader's worker sent.
_FROM_WORKER = re.compile(r"^resnest_backbones\.\S+Error: (.*)", re.MULTILINE | re.DOTALL)


class ConfigError(ValueError):
    """A config does not allow what was asked for; the message names the setting."""


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """End the program with status 1 and one line where a file, a data set or the config is wrong.

    A traceback helps nobody then; all other errors keep theirs.
    """
    try:
        yield
    except (CheckpointError, ConfigError, DatasetError, LabelError, WeightsError) as error:
        sys.exit(f"{program}: error: {_message(error)}")


def _message(error: Exception) -> str:
    from_worker = _FROM_WORKER.search(str(error))
    return (from_worker[1] if from_worker else str(error)).strip()


def type_name(settings: Any) -> str:
    """The name of what a config builds, given as ``Name``, ``scope.Name`` or, in Python configs, the class itself."""
    kind = settings.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


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
        wrapper.type = "OptimWrapper"
        for key in _AMP_KEYS:
            wrapper.pop(key, None)
        messages.append("Mixed precision is turned off: MMEngine has it on GPUs only")
    if cfg.get("launcher", "none") != "none":
        if _replace_sync_norms(cfg.model) | (cfg.pop("sync_bn", None) is not None):
            messages.append(
                "SyncBN is replaced by BN: PyTorch exchanges statistics between GPUs only, so each process "
                "normalises by its own images"
            )
        usual = {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "find_unused_parameters": cfg.get("find_unused_parameters", False),
        }
        cfg.model_wrapper_cfg = {**(cfg.get("model_wrapper_cfg") or usual), "device_ids": None}
    return messages


def _replace_sync_norms(settings: Any) -> bool:
    """Turn SyncBN into BN everywhere below; whether there was any."""
    if isinstance(settings, dict):
        found = type_name(settings) in _SYNC_NORMS
        if found:
            settings["type"] = "BN"
        return any([found, *(_replace_sync_norms(value) for value in settings.values())])
    return isinstance(settings, (list, tuple)) and any([_replace_sync_norms(value) for value in settings])


def start_processes_on_cpu(launcher: str) -> None:
    """Join the processes of a launcher by gloo where there is no GPU; MMEngine itself gives each process one.

    Args:
        launcher: ``pytorch``, ``slurm`` or ``mpi``; nothing is done for ``none``.

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
    distributed.init_process_group("gloo")


def _set_ranks(rank: str, world_size: str, local_rank: str) -> None:
    values = [os.environ[name] for name in (rank, world_size, local_rank)]
    os.environ.update(zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), values, strict=True))


# Whole files


@register_backend(WHOLE_FILES, force=True)
class WholeFileBackend(LocalBackend):
    """MMEngine's local files, never half-written: what is killed while writing leaves nothing under the final name."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write to a temporary name beside ``filepath``, then rename."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(temporary, "wb") as stream:
                stream.write(obj)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's hook, which removes an outdated checkpoint before it writes the new one; here it is done after."""

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated = None
        if self.max_keep_ckpts > 0:
            kept = self.keep_ckpt_ids
            if len(kept) == self.max_keep_ckpts and kept[-1] != step:
                outdated = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(kept.popleft()))
        super()._save_checkpoint_with_step(runner, step, meta)
        if outdated is not None and is_main_process() and self.file_backend.isfile(outdated):
            self.file_backend.remove(outdated)


def repair_last_checkpoint(work_dir: str | Path) -> Path | None:
    """Make ``last_checkpoint`` name a file that is there; the file that ``--resume`` will take, None without one.

    It can fail to: when the folder was moved, or the writing of that one line was interrupted. Checkpoints themselves
    are whole, whatever their name.
    """
    folder = Path(work_dir).absolute()
    pointer = folder / "last_checkpoint"
    named = Path(pointer.read_text().strip()) if pointer.is_file() else None
    if named is None or named.is_file():
        return named
    moved = folder / named.name
    numbered = [(int(m[1]), path) for path in folder.glob("*.pth") if (m := _CHECKPOINT_NAME.fullmatch(path.name))]
    if not moved.is_file() and not numbered:
        raise CheckpointError(f"{pointer} names {named}, which is not there, nor is any other checkpoint in {folder}")
    found = moved if moved.is_file() else max(numbered)[1]
    WholeFileBackend().put(str(found).encode(), pointer)
    return found


@HOOKS.register_module()
class RequireWholeCheckpointHook(Hook):
    """Refuses a checkpoint that does not fill the model; MMEngine would go on with random numbers in its place.

    Auxiliary heads, which only training uses, and counters of batch norms may be absent.
    """

    priority = "LOWEST"  # after the hooks that rename what was loaded

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare names and shapes.

        Raises:
            CheckpointError: tensors are missing or have another shape; the message names the file.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model = getattr(model, "module", model)  # of a wrapper for test-time augmentation
        check_fills(model, checkpoint.get("state_dict", checkpoint), str(runner._load_from))


def check_fills(model: nn.Module, state_dict: Any, file: str) -> None:
    """Check that a state dict has all that a segmentor needs for testing; a ``ResNeStBackbone`` checks its own part.

    Raises:
        CheckpointError: as in ``RequireWholeCheckpointHook``.
    """
    given = {key.removeprefix("module."): value for key, value in state_dict.items()}
    left_out = [_AUXILIARY]
    if isinstance(getattr(model, "backbone", None), ResNeStBackbone):
        left_out.append(_BACKBONE)
    wanted = {
        key: value
        for key, value in model.state_dict().items()
        if not key.startswith(tuple(left_out)) and not key.endswith(COUNTER)
    }
    missing = [key for key in wanted if key not in given]
    shapes = [
        f"{key} is {tuple(given[key].shape)} in the file and {tuple(value.shape)} in the model"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if missing or shapes:
        raise CheckpointError(
            f"{file} does not fit the model of the config: {len(missing)} of its {len(wanted)} tensors are missing "
            f"({summarize_keys(missing)}) and {len(shapes)} have another shape ({summarize_keys(shapes, 2)})"
        )


# Random numbers


def derive_seed(*numbers: int) -> int:
    """A 32-bit seed from several non-negative numbers, such as (seed, rank, iteration)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeededIndex(int):
    """The index of a sample, and the seed of its augmentation."""

    seed: int

    def __new__(cls, index: int, seed: int) -> SeededIndex:
        """Make it."""
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return SeededIndex, (int(self), self.seed)


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(InfiniteSampler):
    """MMEngine's endless sampler, in whose stream each place has a seed of its own.

    With ``SeededDataset``, a place in the stream gives the same augmented sample whichever worker loads it, and whether
    the training was broken off before it or not.
    """

    _place = 0

    def __iter__(self) -> Iterator[SeededIndex]:
        for index in self.indices:
            seed = derive_seed(self.seed, self.rank, self._place)
            self._place += 1
            yield SeededIndex(index, seed)

    def skip(self, num_samples: int) -> None:
        """Begin at that place of this process's stream, counted from its start."""
        self.indices = self._indices_of_rank()
        for _ in range(num_samples):
            next(self.indices)
        self._place = num_samples


@DATASETS.register_module()
class SeededDataset:
    """Seeds the random numbers of Python, numpy and torch before a sample is loaded, by what its index brings along.

    Args:
        dataset: the data set, or its config.
    """

    def __init__(self, *, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes, palette and so on."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Look for the files, where that was put off."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if isinstance(index, SeededIndex):
            _seed_all(index.seed)
        return self.dataset[int(index)]


@HOOKS.register_module()
class SeedIterationsHook(Hook):
    """Makes the random numbers of the model in an iteration a function of the seed, the process and its number."""

    priority = "VERY_LOW"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Called between the loading of a batch and the step."""
        _seed_all(derive_seed(runner.seed, get_rank(), runner.iter))


def make_resumable(cfg: Config) -> list[str]:
    """Let a training that is broken off and resumed end as if it had not been, and leave only whole checkpoints.

    Idempotent, as the config that a run dumped has all of it already.

    Returns:
        What could not be done, for the user.
    """
    hook = cfg.get("default_hooks", {}).get("checkpoint")
    if hook and type_name(hook) == "CheckpointHook":
        hook.type = "WholeCheckpointHook"
        if not hook.get("backend_args") and not hook.get("file_client_args"):
            hook.backend_args = {"backend": WHOLE_FILES}
    _add_hook(cfg, "SeedIterationsHook")
    loader = cfg.train_dataloader
    sampler = type_name(loader.get("sampler", {}))
    if sampler == "InfiniteSampler" and not loader.get("batch_sampler"):
        loader.sampler.type = "SeededInfiniteSampler"
        loader.dataset = {"type": "SeededDataset", "dataset": loader.dataset}
    elif sampler != "SeededInfiniteSampler":
        return [
            "A resumed training will see other augmentations: only data of an InfiniteSampler can be seeded by place"
        ]
    return []


def _add_hook(cfg: Config, name: str) -> None:
    hooks = list(cfg.get("custom_hooks") or [])
    if all(type_name(hook) != name for hook in hooks if isinstance(hook, dict)):
        cfg.custom_hooks = [*hooks, {"type": name}]


def require_whole_checkpoint(cfg: Config) -> None:
    """Add ``RequireWholeCheckpointHook`` to a config, and the renaming of other layouts before it."""
    add_checkpoint_hook(cfg)
    _add_hook(cfg, "RequireWholeCheckpointHook")


def add_checkpoint_hook(cfg: Config) -> None:
    """Add the hook that renames checkpoints of other layouts."""
    _add_hook(cfg, "ResNeStCheckpointHook")


def inner_datasets(settings: Any) -> Sequence[Any]:
    """The configs of data sets below wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""
    if settings.get("dataset") is not None:
        return inner_datasets(settings.dataset)
    if settings.get("datasets") is not None:
        return [inner for one in settings.datasets for inner in inner_datasets(one)]
    return [settings]
