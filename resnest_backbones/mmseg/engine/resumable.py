"""An interrupted training that is resumed ends as if it had not been interrupted, and leaves only whole files.

Everything here works through MMEngine's registries and settings, so that the config that a run dumps has all of it
and runs in MMSegmentation's own tools too.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.data import derive_seed
from resnest_backbones.errors import CheckpointError, ConfigError, check_finite
from resnest_backbones.mmseg.config import add_hook, type_name
from resnest_backbones.mmseg.datasets import errors_that_name
from resnest_backbones.models.norms import CpuSyncBatchNorm
from resnest_backbones.models.split_attention import SplitAttentionConv2d

WHOLE_FILES = "resnest_whole_files"  # the name of the file backend, in configs too

_CHECKPOINT_NAME = re.compile(r"(?:iter|epoch)_(\d+)\.pth")
_SEEDED = {"InfiniteSampler": "SeededInfiniteSampler", "DefaultSampler": "SeededDefaultSampler"}


@register_backend(WHOLE_FILES, force=True)
class WholeFileBackend(LocalBackend):
    """MMEngine's local files, never half-written: a killed write leaves nothing under the final name."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write to a temporary name beside ``filepath``, then rename."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda stream: stream.write(obj))


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's hook, but outdated checkpoints are removed after the new one is written, not before."""

    def _save_checkpoint_with_step(self, *args: Any, **kwargs: Any) -> None:
        with self._removing_later():
            super()._save_checkpoint_with_step(*args, **kwargs)

    def _save_best_checkpoint(self, *args: Any) -> None:
        with self._removing_later():
            super()._save_best_checkpoint(*args)

    @contextmanager
    def _removing_later(self) -> Iterator[None]:
        backend: Any = vars(self)["file_backend"]
        outdated: list[str] = []
        later = self.file_backend = copy.copy(backend)
        later.remove = outdated.append
        try:
            yield
        finally:
            self.file_backend = backend
        state = vars(self)  # which of the two there is depends on save_best
        best = (state.get("best_ckpt_path"), *state.get("best_ckpt_path_dict", {}).values())
        for path in outdated:
            if path not in best:
                backend.remove(path)


def repair_last_checkpoint(work_dir: str | Path) -> Path | None:
    """Make ``last_checkpoint`` name an existing file, and return it: the one that ``--resume`` will take, or None.

    It may name none after the folder was moved, or when the writing of its one line was interrupted. A name of no file
    is a ``CheckpointError`` where there is no other checkpoint.
    """
    folder = Path(work_dir).absolute()
    pointer = folder / "last_checkpoint"
    named = Path(pointer.read_text().strip()) if pointer.is_file() else None
    if named is None or named.is_file():
        return named
    moved = folder / named.name
    numbered = [(int(m[1]), path) for path in folder.glob("*.pth") if (m := _CHECKPOINT_NAME.fullmatch(path.name))]
    if not moved.is_file() and not numbered:
        raise CheckpointError(f"{pointer} names {named}, which does not exist, and {folder} has no other checkpoint")
    found = moved if moved.is_file() else max(numbered)[1]
    WholeFileBackend().put(str(found).encode(), pointer)
    return found


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(InfiniteSampler):
    """MMEngine's endless sampler of indices, each with a seed for its position in the stream, whoever loads it."""

    _place = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in self.indices:
            seed = derive_seed(self.seed, self.rank, self._place)
            self._place += 1
            yield index, seed

    def skip(self, num_samples: int) -> None:
        """Go to that position of this process's stream, counted from its start."""
        self.indices = self._indices_of_rank()
        for _ in range(num_samples):
            next(self.indices)
        self._place = num_samples


@DATA_SAMPLERS.register_module()
class SeededDefaultSampler(DefaultSampler):
    """MMEngine's sampler of epochs, with a seed for each position of each epoch, as above."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for place, index in enumerate(super().__iter__()):
            yield index, derive_seed(self.seed, self.rank, self.epoch, place)


@DATASETS.register_module()
class SeededDataset:
    """Seed the random numbers of Python, NumPy and PyTorch before a sample is loaded, by the seed beside its index."""

    def __init__(self, *, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes, palette and so on."""
        return self.dataset.metainfo

    METAINFO = metainfo  # the name that some tools of MMSegmentation read

    def full_init(self) -> None:
        """Look for the files, unless that is done."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int | tuple[int, int]) -> Any:
        index, seed = place if isinstance(place, tuple) else (place, None)
        if seed is not None:
            _seed_all(seed)
        with errors_that_name(self.dataset, index):
            return self.dataset[index]


@HOOKS.register_module()
class SeedIterationsHook(Hook):
    """Make the model's random numbers in an iteration a function of the seed, the process and the iteration."""

    priority = "VERY_LOW"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed between the loading of a batch and the step."""
        _seed_all(derive_seed(runner.seed, get_rank(), runner.iter))


@HOOKS.register_module()
class StopAtInvalidLossHook(Hook):
    """End a training whose loss is not finite before a checkpoint is written, and name its images."""

    priority = "VERY_HIGH"

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Check the losses of the step."""
        samples = data_batch.get("data_samples", []) if isinstance(data_batch, dict) else []
        rates = runner.optim_wrapper.get_lr()
        rates = rates if "lr" in rates else {key: value for inner in rates.values() for key, value in inner.items()}
        check_finite(
            {name: float(torch.as_tensor(value).detach()) for name, value in (outputs or {}).items() if "loss" in name},
            iteration=runner.iter,
            images=[str(getattr(sample, "img_path", "?")) for sample in samples],
            rates=rates["lr"],
        )


@HOOKS.register_module()
class CheckBatchHook(Hook):
    """Refuse batches of one image, the last of an epoch too, where batch norm cannot take them.

    The attention of a ResNeSt normalizes one value per image and channel.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training data's loader."""
        norms = {type(m.bn1) for m in runner.model.train().modules() if isinstance(m, SplitAttentionConv2d)
                 if isinstance(m.bn1, _BatchNorm) and m.bn1.training}  # fmt: skip
        loader = runner.train_dataloader
        size = getattr(loader, "batch_size", None)
        if not norms or size is None or (get_world_size() > 1 and norms <= {SyncBatchNorm, CpuSyncBatchNorm}):
            return
        if size == 1:
            raise ConfigError("train_dataloader.batch_size must be 2 or more per process with batch norm, got 1; GN, "
                              "or norm_eval with trained weights, accepts single images")  # fmt: skip
        images = len(loader.sampler) if isinstance(loader.sampler, DefaultSampler) else 0
        if images % size == 1 and not loader.drop_last:
            raise ConfigError("the last batch of each epoch must have 2 or more images with batch norm, got 1: "
                              f"{images} images in batches of {size}; set train_dataloader.drop_last=True")  # fmt: skip


@HOOKS.register_module()
class ValidateAfterResumeHook(Hook):
    """Validate first when the checkpoint to resume from was due for it: the interruption may have cut that off."""

    priority = "LOWEST"  # after the hook of checkpoints, which keeps the best

    def before_train(self, runner: Runner) -> None:
        """Validate when due."""
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        due = done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)
        if runner._resume and done and due and runner.val_loop is not None:
            runner.val_loop.run()


def make_resumable(cfg: Config) -> list[str]:
    """Change a config so that an interrupted training resumes exactly, and leaves only whole checkpoints.

    Idempotent: the config that a run dumps has all of it. Return messages for the user about what cannot be made so.
    """
    hook = cfg.get("default_hooks", {}).get("checkpoint")
    if hook and type_name(hook) == "CheckpointHook":
        hook.type = "WholeCheckpointHook"
        if not hook.get("backend_args") and not hook.get("file_client_args"):
            hook.backend_args = {"backend": WHOLE_FILES}
    for name in ("SeedIterationsHook", "StopAtInvalidLossHook", "CheckBatchHook", "ValidateAfterResumeHook"):
        add_hook(cfg, name)
    loader = cfg.train_dataloader
    sampler = type_name(loader.get("sampler", {}))
    if sampler in _SEEDED and not loader.get("batch_sampler"):
        loader.sampler.type = _SEEDED[sampler]
        loader.dataset = {"type": "SeededDataset", "dataset": loader.dataset}
    elif loader.get("batch_sampler"):
        return ["A resumed run will see different augmentations: a batch_sampler cannot be seeded"]
    elif sampler not in _SEEDED.values():
        return [f"A resumed run will see different augmentations: the sampler must be of {' or '.join(_SEEDED)}"]
    return []
