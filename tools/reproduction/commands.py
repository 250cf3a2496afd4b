"""The commands of a recipe: those of this repository's tools, as one would type them, one to three of them.

With Detectron2 the training evaluates at its end. With MMSegmentation, what a recipe publishes decides: metrics of one
scale are tested on the last checkpoint, metrics of several scales and flip with ``--tta``. A recipe that does not state
its scales is tested at one.
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

_LAST_CHECKPOINT = "LAST_CHECKPOINT"  # in a command: of the training, known when that has ended
_DATASETS = {
    "ade20k": "ade/ADEChallengeData2016",
    "pascal_context_59": "VOCdevkit/VOC2010",
    "cityscapes": "cityscapes",
}
_GPUS_AND_BATCH = re.compile(r"_(\d+)xb(\d+)-")  # in MMSegmentation's names: 4xb2 is 2 images on each of 4 GPUs


@dataclass(frozen=True)
class Command:
    """A command of a recipe that is to be run.

    Attributes:
        name: ``train``, ``test``, ``test_tta`` or ``evaluate``; of its folder too.
        words: after Python; one may stand for the last checkpoint.
        folder: that it writes to.
        environment: variables that it needs.
    """

    name: str
    words: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def resolved(self) -> list[str]:
        """Return the words with the checkpoint of the training.

        Raises:
            ConfigError: the training left none.
        """
        if _LAST_CHECKPOINT not in self.words:
            return [sys.executable, *self.words]
        pointer = self.folder.parent / "train" / "last_checkpoint"
        if not pointer.is_file():
            raise ConfigError(f"{pointer} does not exist: the training left no checkpoint")
        name = Path(pointer.read_text(encoding="utf-8").strip()).name  # the folder may have been moved
        return [sys.executable, *(str(pointer.parent / name) if w == _LAST_CHECKPOINT else w for w in self.words)]

    def as_typed(self) -> str:
        """Return the command for a shell."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, "python", shlex.join(self.words)])


def make_commands(recipe: Recipe, args: argparse.Namespace, number: int = 0) -> list[Command]:
    """Return the commands of a recipe, in their order.

    Args:
        recipe: the recipe.
        args: of ``run``.
        number: of the recipe among those that run: on several machines each command meets at a port of its own.

    Raises:
        ConfigError: a setting cannot be used, or the batch of the recipe cannot be shared evenly.
    """
    make = _detectron2_commands if recipe.framework == "detectron2" else _mmseg_commands
    return make(recipe, args, 4 * number)


def _detectron2_commands(recipe: Recipe, args: argparse.Namespace, port_offset: int) -> list[Command]:
    name = "evaluate" if args.eval_only else "train"
    folder = args.output_dir / recipe.name / name
    words = [str(TOOLS / "train_net.py"), "--num-gpus", str(args.num_gpus)]
    if args.num_machines > 1:
        host, port = _host_and_port(args.dist_url)
        words += ["--num-machines", str(args.num_machines), "--machine-rank", str(args.machine_rank)]
        words += ["--dist-url", f"tcp://{host}:{port + port_offset}"]
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
        words += [get_config_file(recipe.name), "--work-dir", str(folder)]
        if name == "train":
            words.append("--resume")
        else:
            words.insert(-2, str(args.eval_only or _LAST_CHECKPOINT))
        words += ["--tta"] * (name == "test_tta")
        words += ["--launcher", "pytorch"] * (count_processes(args) > 1)
        words += ["--cfg-options", *_mmseg_options(recipe, args)]
        commands.append(Command(name, tuple(words), folder))
    return commands


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
    host, port = _host_and_port(args.dist_url)
    words += ["--nnodes", str(args.num_machines), "--node-rank", str(args.machine_rank)]
    return [*words, "--master-addr", host, "--master-port", str(port + port_offset)]


def count_processes(args: argparse.Namespace) -> int:
    """Return the number of processes, on all machines."""
    return int(args.num_gpus * args.num_machines)


def _host_and_port(url: str | None) -> tuple[str, int]:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url or "")
        if parts.scheme == "tcp" and parts.hostname and parts.port:
            return parts.hostname, parts.port
    raise ConfigError(f"--dist-url must be tcp://HOST:PORT of machine 0 where there are several machines, got {url}")


def settings_for(recipe: Recipe, settings: Sequence[str]) -> list[str]:
    """Return the settings for the framework of a recipe: keys of Detectron2 begin in capitals.

    Raises:
        ConfigError: one is not KEY=VALUE.
    """
    for setting in settings:
        if not re.match(r"[^=]+=", setting):
            raise ConfigError(f"--set must be KEY=VALUE, got {setting!r}")
    is_detectron2 = recipe.framework == "detectron2"
    return [setting for setting in settings if re.split(r"[.=]", setting)[0].isupper() == is_detectron2]


def batch_of_segmentor(recipe: Recipe) -> int:
    """Return the images of an iteration, all GPUs together, that the name of a recipe of MMSegmentation states."""
    match = _GPUS_AND_BATCH.search(recipe.name)
    if match is None:
        raise ValueError(f"the name of a recipe of MMSegmentation must say _GPUSxbBATCH-, got {recipe.name}")
    return int(match[1]) * int(match[2])
