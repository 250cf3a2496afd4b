"""The commands of a recipe: those of this repository's tools, as one would type them, one to three of them.

With Detectron2 the training evaluates at its end. With MMSegmentation, what a recipe publishes decides: metrics of one
scale (or of scales that it does not state) are tested at one, metrics of several scales and flip with ``--tta``. The
networks of ImageNet are trained and evaluated by ``tools/pretrain.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from checkout import TOOLS
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import Recipe, get_config_file
from resnest_backbones.outputs import named_checkpoint

_LAST_CHECKPOINT = "LAST_CHECKPOINT"  # in a command: of the training, known when that has ended
_PRETRAIN = "pretrain."  # before a setting of tools/pretrain.py
_DATASETS = {
    "ade20k": "ade/ADEChallengeData2016",
    "pascal_context_59": "VOCdevkit/VOC2010",
    "cityscapes": "cityscapes",
}


@dataclass(frozen=True)
class Command:
    """A command of a recipe that is to be run."""

    name: str  # train, test, test_tta or evaluate; of its folder too
    words: tuple[str, ...]  # after Python; one may stand for the last checkpoint
    folder: Path  # that it writes to
    environment: Mapping[str, str] = field(default_factory=dict)  # variables that it needs

    def resolved(self) -> list[str]:
        """Return the words with the checkpoint of the training."""
        if _LAST_CHECKPOINT not in self.words:
            return [sys.executable, *self.words]
        training = self.folder.parent / "train"
        checkpoint = named_checkpoint(training)
        if checkpoint is None:
            raise ConfigError(f"{training / 'last_checkpoint'} does not exist: the training left no checkpoint")
        return [sys.executable, *(str(checkpoint) if word == _LAST_CHECKPOINT else word for word in self.words)]

    def as_typed(self) -> str:
        """Return the command for a shell."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, "python", shlex.join(self.words)])


def make_commands(recipe: Recipe, args: argparse.Namespace, number: int = 0) -> list[Command]:
    """Return the commands of a recipe, in their order, for the arguments of ``run``.

    The number of the recipe among those that run gives each command a port of its own on several machines.
    """
    make = {"detectron2": _detectron2_commands, "mmseg": _mmseg_commands, "pretrain": _pretrain_commands}
    return make[recipe.framework](recipe, args, 4 * number)


def _detectron2_commands(recipe: Recipe, args: argparse.Namespace, port_offset: int) -> list[Command]:
    name = "evaluate" if args.eval_only else "train"
    folder = args.output_dir / recipe.name / name
    words = [str(TOOLS / "train_net.py"), "--num-gpus", str(args.num_gpus)]
    if args.num_machines > 1:
        host, port = _host_and_port(args.dist_url, port_offset)
        words += ["--num-machines", str(args.num_machines), "--machine-rank", str(args.machine_rank)]
        words += ["--dist-url", f"tcp://{host}:{port}"]
    elif args.num_gpus > 1:
        words += ["--dist-url", "auto"]  # the default is one port per user, where two recipes would meet
    words += ["--eval-only" if args.eval_only else "--resume", "--config-file", get_config_file(recipe.name)]
    words += ["OUTPUT_DIR", str(folder)]
    words += [word for setting in settings_for(recipe, args.settings) for word in setting.split("=", 1)]
    if args.eval_only:  # after the settings, which may hold the weights that a training would start from
        words += ["MODEL.WEIGHTS", str(args.eval_only)]
    return [Command(name, tuple(words), folder, {"DETECTRON2_DATASETS": str(args.data_root)})]


def _mmseg_commands(recipe: Recipe, args: argparse.Namespace, port_offset: int) -> list[Command]:
    names = [] if args.eval_only else ["train"]
    if recipe.metrics.keys() & {"miou", "miou_scales_not_stated"}:
        names.append("test")
    if "miou_multi_scale" in recipe.metrics:
        names.append("test_tta")
    commands = []
    for place, name in enumerate(names):
        folder = args.output_dir / recipe.name / name
        words = [*_torchrun(args, port_offset + place), str(TOOLS / f"{name.partition('_')[0]}_seg.py")]
        words.append(get_config_file(recipe.name))
        words += [] if name == "train" else [str(args.eval_only or _LAST_CHECKPOINT)]
        words += ["--work-dir", str(folder)]
        words += {"train": ["--resume"], "test": [], "test_tta": ["--tta"]}[name]
        words += ["--launcher", "pytorch"] * (count_processes(args) > 1)
        words += ["--cfg-options", *_mmseg_options(recipe, args)]
        commands.append(Command(name, tuple(words), folder))
    return commands


def _pretrain_commands(recipe: Recipe, args: argparse.Namespace, port_offset: int) -> list[Command]:
    name = "evaluate" if args.eval_only else "train"
    folder = args.output_dir / recipe.name / name
    words = [*_torchrun(args, port_offset), str(TOOLS / "pretrain.py"), "--network", recipe.name]
    words += ["--eval-only", str(args.eval_only)] if args.eval_only else ["--resume"]
    words += ["--data", str(args.data_root / recipe.dataset), "--output-dir", str(folder)]
    for setting in settings_for(recipe, args.settings):
        option, _, value = setting.removeprefix(_PRETRAIN).partition("=")
        words += [f"--{option}", value] if value else [f"--{option}"]
    return [Command(name, tuple(words), folder)]


def _mmseg_options(recipe: Recipe, args: argparse.Namespace) -> list[str]:
    """Return data, the share of the batch of each process, and the user's settings, which come last and win."""
    root = args.data_root / _DATASETS[recipe.dataset]
    if set(str(root)) & set(",()[]"):
        raise ConfigError(f"--data-root must not have commas or brackets, where MMSegmentation splits it, got {root}")
    batch, processes, settings = batch_of_segmentor(recipe), count_processes(args), settings_for(recipe, args.settings)
    has_batch = any(setting.startswith("train_dataloader.batch_size=") for setting in settings)
    if batch % processes and not args.eval_only and not has_batch:
        raise ConfigError(
            f"{recipe.name} has a batch of {batch} images, which {processes} processes cannot share evenly; "
            "--set train_dataloader.batch_size=N gives each process another number"
        )
    loaders = [f"{split}_dataloader.dataset.data_root={root}" for split in ("train", "val", "test")]
    return [*loaders, f"train_dataloader.batch_size={max(batch // processes, 1)}", *settings]


def _torchrun(args: argparse.Namespace, port_offset: int) -> list[str]:
    if count_processes(args) == 1:
        return []
    words = ["-m", "torch.distributed.run", "--nproc-per-node", str(args.num_gpus)]
    if args.num_machines == 1:
        return [*words, "--standalone"]
    host, port = _host_and_port(args.dist_url, port_offset)
    words += ["--nnodes", str(args.num_machines), "--node-rank", str(args.machine_rank)]
    return [*words, "--master-addr", host, "--master-port", str(port)]


def count_processes(args: argparse.Namespace) -> int:
    return int(args.num_gpus * args.num_machines)


def _host_and_port(url: str | None, port_offset: int) -> tuple[str, int]:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url or "")
        if parts.scheme == "tcp" and parts.hostname and parts.port:
            return parts.hostname, parts.port + port_offset
    raise ConfigError(f"--dist-url must be tcp://HOST:PORT of machine 0 where there are several machines, got {url}")


def settings_for(recipe: Recipe, settings: Sequence[str]) -> list[str]:
    """Return the settings for the framework of a recipe.

    Keys of Detectron2 begin in capitals; options of ``tools/pretrain.py`` with ``pretrain.``, in place of two dashes.
    """
    for setting in settings:
        if not re.match(r"[^=]+=", setting):
            raise ConfigError(f"--set must be KEY=VALUE, got {setting!r}")
    return [setting for setting in settings if _framework_of(setting) == recipe.framework]


def _framework_of(setting: str) -> str:
    if setting.startswith(_PRETRAIN):
        return "pretrain"
    return "detectron2" if re.split(r"[.=]", setting)[0].isupper() else "mmseg"


def batch_of_segmentor(recipe: Recipe) -> int:
    """Return the images of an iteration: 4xb2 in MMSegmentation's names is 2 images on each of 4 GPUs."""
    match = re.search(r"_(\d+)xb(\d+)-", recipe.name)
    if match is None:
        raise ValueError(f"the name of a recipe of MMSegmentation must say _GPUSxbBATCH-, got {recipe.name}")
    return int(match[1]) * int(match[2])
