"""The commands of a row: what trains it, and what evaluates it after that.

They are those of this repository's tools, as one would type them. With Detectron2 the training evaluates at its end.
With MMSegmentation, what a row publishes decides: figures of one scale are tested on the last checkpoint, figures of
several scales and flip with ``--tta``. A row whose scales are not stated is tested at one.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checkout import TOOLS
from reproduction.cost import batch_of_segmentor
from reproduction.launch import Launch
from reproduction.results import TRAIN_FOLDER
from resnest_backbones.model_zoo import Recipe, get_config_file

EVALUATE, TEST, TEST_TTA = "evaluate", "test", "test_tta"
# Stands in a command for the last checkpoint of the training, whose name is known when that has ended.
LAST_CHECKPOINT = "LAST_CHECKPOINT"

_DATASETS = {
    "ade20k": "ade/ADEChallengeData2016",
    "pascal_context_59": "VOCdevkit/VOC2010",
    "cityscapes": "cityscapes",
}
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


class StepError(ValueError):
    """A row's commands cannot be made or run; the message names what is wrong."""


@dataclass(frozen=True)
class Plan:
    """How rows are run.

    Attributes:
        output_dir: a row's folder is in it.
        data_root: holds coco, ade, VOCdevkit, cityscapes.
        launch: GPUs and machines.
        settings: KEY=VALUE, for the rows of the framework that has such keys.
        eval_only: a checkpoint to evaluate instead of training; None to train.
    """

    output_dir: Path
    data_root: Path
    launch: Launch = field(default_factory=Launch)
    settings: tuple[str, ...] = ()
    eval_only: Path | None = None

    def folder(self, recipe: Recipe) -> Path:
        """Where everything of a row goes."""
        return self.output_dir / recipe.name


@dataclass(frozen=True)
class Step:
    """A command of a row.

    Attributes:
        name: ``train``, ``test``, ``test_tta`` or ``evaluate``; of its folder too.
        tool: path of the program.
        arguments: for it; one may be ``LAST_CHECKPOINT``.
        launcher: words between Python and the tool.
        environment: variables that it needs beside those of this process.
        folder: that it writes to.
    """

    name: str
    tool: Path
    arguments: tuple[str, ...]
    folder: Path
    launcher: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        """The words of the command.

        Raises:
            StepError: the tool is not there, or there is no checkpoint of the training.
        """
        if not self.tool.is_file():
            raise StepError(f"{self.tool} is not there: rows are run from a checkout of the repository, with its tools")
        arguments = [str(self._last_checkpoint()) if word == LAST_CHECKPOINT else word for word in self.arguments]
        return [sys.executable, *self.launcher, str(self.tool), *arguments]

    def as_typed(self) -> str:
        """The command for a shell."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(self.command())])

    def _last_checkpoint(self) -> Path:
        pointer = self.folder.parent / TRAIN_FOLDER / "last_checkpoint"
        if not pointer.is_file():
            raise StepError(f"{pointer} is not there: the training left no checkpoint")
        return (
            pointer.parent / Path(pointer.read_text(encoding="utf-8").strip()).name
        )  # also of a folder that was moved


def make_steps(recipe: Recipe, plan: Plan, *, number: int = 0) -> list[Step]:
    """The commands of a row, in their order.

    Args:
        recipe: the row.
        plan: how to run it.
        number: of the row among those that run, from 0: commands on several machines meet at a port of their own.

    Raises:
        StepError: a setting cannot be used, or the batch of the row cannot be spread evenly.
    """
    make = _detectron2_steps if recipe.framework == "detectron2" else _mmseg_steps
    return make(recipe, plan, number)


def split_settings(settings: Sequence[str], framework: str) -> list[tuple[str, str]]:
    """Keys and values of those settings that are a framework's: Detectron2's keys begin in capitals.

    >>> split_settings(["SOLVER.MAX_ITER=10", "train_cfg.max_iters=10"], "detectron2")
    [('SOLVER.MAX_ITER', '10')]

    Raises:
        StepError: one is not KEY=VALUE.
    """
    pairs = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise StepError(f"--set must be KEY=VALUE, got {setting!r}")
        if key.partition(".")[0].isupper() == (framework == "detectron2"):
            pairs.append((key, value))
    return pairs


def check_settings(settings: Sequence[str], recipes: Sequence[Recipe]) -> None:
    """Refuse a setting that no row takes.

    Raises:
        StepError: the message names it.
    """
    frameworks = {recipe.framework for recipe in recipes}
    for setting in settings:
        if not any(split_settings([setting], framework) for framework in frameworks):
            raise StepError(f"--set {setting} is for none of the rows, which are of {' and '.join(sorted(frameworks))}")


# Detectron2


def _detectron2_steps(recipe: Recipe, plan: Plan, number: int) -> list[Step]:
    name = TRAIN_FOLDER if plan.eval_only is None else EVALUATE
    folder = plan.folder(recipe) / name
    spread = ["--num-gpus", str(plan.launch.processes)]
    if plan.launch.num_machines > 1:
        url = f"tcp://{plan.launch.host}:{plan.launch.port + 4 * number}"
        spread += ["--num-machines", str(plan.launch.num_machines), "--machine-rank", str(plan.launch.machine_rank)]
        spread += ["--dist-url", url]
    elif plan.launch.processes > 1:
        spread += ["--dist-url", "auto"]  # by default it is one port per user: two rows on a machine would meet there
    options = ["OUTPUT_DIR", str(folder)]
    options += [word for pair in split_settings(plan.settings, recipe.framework) for word in pair]
    if plan.eval_only is not None:  # after the settings, which may hold the weights that a training would start from
        options += ["MODEL.WEIGHTS", str(plan.eval_only)]
    what = "--resume" if plan.eval_only is None else "--eval-only"
    config = get_config_file(recipe.name)
    environment = {"DETECTRON2_DATASETS": str(plan.data_root)}
    arguments = (*spread, what, "--config-file", config, *options)
    return [Step(name, TOOLS / "train_net.py", arguments, folder, environment=environment)]


# MMSegmentation


def _mmseg_steps(recipe: Recipe, plan: Plan, number: int) -> list[Step]:
    config = get_config_file(recipe.name)
    names = [] if plan.eval_only else [TRAIN_FOLDER]
    if recipe.metrics.keys() & {"miou", "miou_scales_not_stated"}:
        names.append(TEST)
    if "miou_multi_scale" in recipe.metrics:
        names.append(TEST_TTA)
    checkpoint = LAST_CHECKPOINT if plan.eval_only is None else str(plan.eval_only)
    steps = []
    for place, name in enumerate(names):
        training = name == TRAIN_FOLDER
        folder = plan.folder(recipe) / name
        arguments = [config, *([] if training else [checkpoint]), "--work-dir", str(folder)]
        arguments += ["--resume"] * training + ["--tta"] * (name == TEST_TTA)
        if plan.launch.world_size > 1:
            arguments += ["--launcher", "pytorch"]
        arguments += ["--cfg-options", *_mmseg_options(recipe, plan)]
        tool = TOOLS / ("train_seg.py" if training else "test_seg.py")
        steps.append(Step(name, tool, tuple(arguments), folder, _torchrun(plan.launch, 4 * number + place)))
    return steps


def _mmseg_options(recipe: Recipe, plan: Plan) -> list[str]:
    """Data, the share of the batch of each process, and the user's settings, which come last and win."""
    root = plan.data_root / _DATASETS[recipe.dataset]
    if set(str(root)) & set(",()[]"):
        raise StepError(f"--data-root must be without commas and brackets, which MMSegmentation splits, got {root}")
    batch, processes = batch_of_segmentor(recipe), plan.launch.world_size
    settings = split_settings(plan.settings, recipe.framework)
    if batch % processes and plan.eval_only is None and "train_dataloader.batch_size" not in dict(settings):
        raise StepError(
            f"{recipe.name} has a batch of {batch} images, which {processes} processes must be able to share evenly; "
            "--set train_dataloader.batch_size=N gives each another number"
        )
    options = [f"{loader}.dataset.data_root={root}" for loader in _LOADERS]
    options.append(f"train_dataloader.batch_size={max(batch // processes, 1)}")
    return [*options, *(f"{key}={value}" for key, value in settings)]


def _torchrun(launch: Launch, port_offset: int) -> tuple[str, ...]:
    if launch.world_size == 1:
        return ()
    words = ["-m", "torch.distributed.run", "--nproc-per-node", str(launch.processes)]
    if launch.num_machines == 1:
        return (*words, "--standalone")
    return (
        *words,
        *("--nnodes", str(launch.num_machines), "--node-rank", str(launch.machine_rank)),
        *("--master-addr", launch.host, "--master-port", str(launch.port + port_offset)),
    )
