"""``tools/reproduce.py run``: train and evaluate rows, each from where an earlier run of it stopped.

A row that fails does not stop the others; it is named at the end, with its log. An interruption (Ctrl-C, SIGTERM, the
end of the terminal) ends the processes of the row, and the same command goes on later. On several machines, each runs
the same command with a ``--machine-rank`` of its own, and ``--output-dir`` is a folder that all of them see.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch

from checkout import environment_with_package
from reproduction.console import Console
from reproduction.data import find_checks
from reproduction.data_files import Extent
from reproduction.execute import (
    Job,
    RunError,
    finished,
    last_lines,
    row_command,
    run_row,
)
from reproduction.launch import (
    Launch,
    LaunchError,
    add_launch_options,
    environment_of_rows,
    find_launch,
)
from reproduction.machine import machine_here, versions_of
from reproduction.results import LOG_FILE, ResultError
from reproduction.rows import RowError, select_rows
from reproduction.steps import Plan, StepError, check_settings, make_steps, split_settings
from resnest_backbones.errors import CheckpointError
from resnest_backbones.model_zoo import Recipe
from resnest_backbones.weights import find_published

_SHOWN = 5  # last lines of a failed row's log
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):  # noqa: N818  (an interruption, like the one it derives from)
    """A signal came that asks this process to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run``."""
    parser.add_argument("rows", nargs="+", metavar="ROW", help="a row, a pattern or a data set")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("reproduced"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--data-root", type=Path, default=Path("datasets"), metavar="DIR",
        help="folder of coco/, ade/, VOCdevkit/ and cityscapes/ (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--skip-data-check", action="store_true", help="do not look at the data first")
    parser.add_argument(
        "--eval-only", type=Path, metavar="FILE", help="evaluate this checkpoint of the one row, without training"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings",
        help="change settings of the configs, Detectron2's (SOLVER.IMS_PER_BATCH=8) or MMSegmentation's "
        "(train_dataloader.batch_size=2)",
    )  # fmt: skip
    add_launch_options(parser)
    add_console_options(parser)


def add_console_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what the user sees."""
    parser.add_argument("--verbose", action="store_true", help="show all that the commands print; it is in log.txt too")
    parser.add_argument(
        "--progress-every", type=float, default=30.0, metavar="SECONDS", help="default: %(default)g; else see --verbose"
    )


def main(args: argparse.Namespace) -> int:
    """Run rows; 0 where all are finished, 1 where one failed, 2 where the command is wrong, 128 + N after signal N."""
    try:
        recipes = select_rows(args.rows)
        check_settings(args.settings, recipes)
        _check_eval_only(args.eval_only, recipes)
        launch = find_launch(args, os.environ, torch.cuda.device_count())
        if launch is None:
            return 0
        jobs = _make_jobs(recipes, args, launch)
    except (LaunchError, CheckpointError, RowError, RunError, StepError) as error:
        print(f"reproduce.py run: error: {error}", file=sys.stderr)
        return 2
    try:
        with signals_as_interrupt():
            return run_jobs(jobs, Console(every=args.progress_every, verbose=args.verbose))
    except Terminated as error:
        return error.status


def _check_eval_only(file: Path | None, recipes: Sequence[Recipe]) -> None:
    if file is None:
        return
    if len(recipes) != 1:
        raise RunError(f"--eval-only goes with one row, got {len(recipes)}")
    if not file.is_file():
        raise RunError(f"--eval-only must be a file, got {file}")
    published = find_published(file.name)
    if published is not None:
        published.check(file)  # as the reading of it would, before anything is begun


def _make_jobs(recipes: Sequence[Recipe], args: argparse.Namespace, launch: Launch) -> list[Job]:
    plan = Plan(args.output_dir, args.data_root, launch, tuple(args.settings), args.eval_only)
    jobs = [_make_job(recipe, plan, number) for number, recipe in enumerate(recipes)]
    if args.skip_data_check:
        return jobs
    return check_data(jobs, args.data_root, training=args.eval_only is None)


def _make_job(recipe: Recipe, plan: Plan, number: int) -> Job:
    deciding = ["--eval-only", str(plan.eval_only)] if plan.eval_only else []
    settings = [f"{key}={value}" for key, value in split_settings(plan.settings, recipe.framework)]
    deciding += ["--set", *settings] if settings else []
    others = ["--data-root", str(plan.data_root), "--num-gpus", str(plan.launch.processes)]
    if plan.launch.num_machines > 1:
        others += ["--num-machines", str(plan.launch.num_machines)]
    rank = plan.launch.machine_rank
    return Job(
        recipe,
        plan.folder(recipe),
        make_steps(recipe, plan, number=number),
        row_command("run", recipe, deciding, plan.output_dir, others),
        machine_here(plan.launch),
        versions_of(recipe),
        environment_with_package(environment_of_rows(os.environ)),
        is_main=plan.launch.is_main,
        log_name=LOG_FILE if plan.launch.is_main else f"log_of_machine_{rank}.txt",
        checkpoint=plan.eval_only,
    )


def check_data(jobs: Sequence[Job], data_root: Path, *, training: bool = True) -> list[Job]:
    """The jobs, those whose data are missing or wrong with the problems; each data set is looked at once.

    Args:
        jobs: the rows.
        data_root: of their data.
        training: whether they train, and need the data for it.
    """
    extent = Extent(expect_full=True, quick=True, workers=1, progress=False, training=training)
    open_rows = [job.recipe for job in jobs if not _is_finished(job)]
    problems: dict[str, list[str]] = {}
    for check in find_checks(open_rows):
        print(f"checking the data: {check.name}", flush=True)
        found = list(check.run(data_root, extent))
        for row in check.rows:
            problems.setdefault(row, []).extend(found)
    return [replace(job, problems=tuple(problems.get(job.recipe.name, ()))) for job in jobs]


def _is_finished(job: Job) -> bool:
    try:
        return finished(job) is not None
    except (ResultError, RunError):  # it will fail when it is run
        return False


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a terminal that ends, do what Ctrl-C does; not where they are ignored, as by nohup."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    numbers = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, terminate) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_jobs(jobs: Sequence[Job], console: Console) -> int:
    """Run rows one after the other, and name those that failed; 0 where none did, otherwise 1."""
    failed: list[tuple[Job, str, str]] = []
    for number, job in enumerate(jobs, start=1):
        console.begin(number, len(jobs), job.recipe.name)
        try:
            result = run_row(job, console)
            error = result.error if result.state != "finished" else ""
        except (ResultError, RunError) as caught:
            error = str(caught)
            console.say(f"FAILED: {error}")
        if error:
            failed.append((job, job.recipe.name, error))
    print(f"\n{len(jobs) - len(failed)} of {len(jobs)} rows finished", flush=True)
    return report_failures(failed)


def report_failures(failed: Sequence[tuple[Job | None, str, str]]) -> int:
    """Name the rows that failed, with their logs, and return the exit status.

    Args:
        failed: job, None where it could not be made; name of the row; why it failed.
    """
    for job, name, error in failed:
        print(f"\nFAILED {name}: {error}")
        if job is not None and job.log.is_file():
            print(f"  log: {job.log}, which ends with")
            print("".join(f"    {line}\n" for line in last_lines(job.log, _SHOWN)), end="", flush=True)
    return 1 if failed else 0
