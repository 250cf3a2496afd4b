"""``tools/reproduce.py run``: train and evaluate recipes, each from where an earlier run of it stopped.

The commands of ``commands.py`` run in turn. Those that are done are skipped, and the tools resume by themselves::

    OUTPUT_DIR/RECIPE/run.json      Run
    OUTPUT_DIR/RECIPE/log.txt       what the commands printed
    OUTPUT_DIR/RECIPE/train/        the files of the training; test/, test_tta/ and evaluate/ likewise

A recipe that fails does not stop the others. On several machines each runs the same command with its own
``--machine-rank``, and ``--output-dir`` is a folder that all of them see.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from checkout import environment_with_package
from machine import describe_machine
from reproduction.commands import Command, count_processes, make_commands, settings_for
from reproduction.common import add_data_root, can_be_fetched, locked, select_recipes, write_text
from reproduction.data import Extent, make_check
from reproduction.metrics import final_metrics
from resnest_backbones.errors import ConfigError, DatasetError, ResNeStError
from resnest_backbones.model_zoo import METRICS, Recipe
from resnest_backbones.weights import default_cache_dir, fetch, find_published, get_record

RUN_FILE, LOG_FILE = "run.json", "log.txt"
STATES = ("running", "finished", "failed")
Check = Callable[[Recipe], list[str]]  # of the data of a recipe: what is missing or wrong
_GRACE = 60  # seconds for a command to end after SIGTERM; torchrun gives its processes 30
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ERROR = re.compile(r"(?:^|\s)(?:[\w.]+(?:Error|Exception|Exit)|[\w.]+: error): ?\S.*")


@dataclass(frozen=True)
class Step:
    """A command of a recipe that has ended, or was interrupted."""

    name: str
    command: str  # as one would type it
    seconds: float  # of all its attempts
    status: int  # of the last one; -SIGTERM where it was interrupted


@dataclass(frozen=True)
class Run:
    """How far the run of a recipe came, and what it gave: the content of ``run.json``."""

    recipe: str
    state: str  # one of STATES; a run that was killed stays "running"
    smoke: bool  # whether the data were not the published ones, so that the metrics mean nothing
    command: str  # that ran the recipe, as one would type it
    settings: list[str]  # KEY=VALUE of --set for its framework
    eval_only: str  # checkpoint that was evaluated instead of training; "" where it was trained
    machine: str
    versions: Mapping[str, str]  # of packages
    started: str  # date and time, ISO 8601, UTC
    ended: str = ""  # likewise; "" while it runs
    error: str = ""  # why it failed, in one line
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # in percent, by the names of METRICS; None: NaN
    steps: list[Step] = field(default_factory=list)  # that have ended

    def write(self, folder: Path) -> None:
        write_text(folder / RUN_FILE, json.dumps(asdict(self), indent=1) + "\n")


def read_run(folder: Path) -> Run | None:
    """Read ``run.json``; None where there is none, and an error where `run` did not write it."""
    file = folder / RUN_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        run = Run(**{**content, "steps": [Step(**step) for step in content["steps"]]})
        _check_types(run)
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} was not written by reproduce.py run: {error}") from error
    if run.recipe != folder.name:
        raise ConfigError(f"{file} must be of the recipe that its folder is named after, got {run.recipe!r}")
    return run


def _check_types(run: Run) -> None:
    """Refuse what no run writes: JSON has no types of its own."""
    texts = (run.recipe, run.command, run.eval_only, run.machine, run.started, run.ended, run.error)
    numbers = [*run.metrics.values(), *(step.seconds for step in run.steps)]
    kinds = [*((text, str) for text in texts), (run.smoke, bool), (run.settings, list), (run.versions, dict)]
    for value, kind in [*kinds, *((number, (int, float)) for number in numbers if number is not None)]:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"it has a value of a wrong type, {value!r}")
    if run.state not in STATES or run.metrics.keys() - METRICS.keys():
        raise ValueError(f"it has an unknown state or metric: {run.state}, {', '.join(run.metrics)}")


def run_recipe(recipe: Recipe, args: argparse.Namespace, commands: Sequence[Command], check: Check) -> Run:
    """Run a recipe from where an earlier run of it stopped; return what is in its ``run.json``, finished.

    A ``KeyboardInterrupt`` comes when its commands have ended; the same call resumes later.
    """
    folder = args.output_dir / recipe.name
    run = _begin(recipe, args, folder)
    if run.state == "finished":
        print(f"finished already ({run.ended}), left as it is")
        return run
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) if args.machine_rank == 0 else contextlib.nullcontext() as lock:
        return _run_locked(recipe, args, commands, run, check, lock)


def _begin(recipe: Recipe, args: argparse.Namespace, folder: Path) -> Run:
    """Return the run with what an earlier one did, or that one itself where it has finished."""
    here, count = describe_machine(), count_processes(args)
    processes = f"{count} process{'es' if count > 1 else ''} on {here['machine']}"
    run = Run(
        recipe=recipe.name,
        state="running",
        smoke=args.any_count,
        command=args.typed,
        settings=settings_for(recipe, args.settings),
        eval_only=str(args.eval_only or ""),
        machine=processes + (f", {args.num_machines} machines" if args.num_machines > 1 else ""),
        versions=here["versions"],
        started=_now(),
    )
    earlier = read_run(folder)
    if earlier is None:
        return run
    if (earlier.settings, earlier.eval_only, earlier.smoke) != (run.settings, run.eval_only, run.smoke):
        raise ConfigError(
            f"{folder} holds a run with other settings ({earlier.command}); remove that folder, or choose another "
            "--output-dir"
        )
    if args.eval_only and args.eval_only.stat().st_mtime > datetime.fromisoformat(earlier.started).timestamp() + 1:
        return run  # the checkpoint was written since
    if earlier.state == "finished":
        return earlier
    machine = run.machine if earlier.machine.endswith(run.machine) else f"{earlier.machine}, then {run.machine}"
    return replace(run, machine=machine, started=earlier.started, steps=earlier.steps)


def _run_locked(
    recipe: Recipe, args: argparse.Namespace, commands: Sequence[Command], run: Run, check: Check, lock: int | None
) -> Run:
    """Run what is left of a recipe; the first machine writes the result."""
    folder, is_main = args.output_dir / recipe.name, args.machine_rank == 0
    log_file = folder / _log_name(args)

    def save(**changes: Any) -> Run:
        nonlocal run
        run = replace(run, **changes)
        if is_main:
            run.write(folder)
        return run

    save()
    try:
        if not args.skip_data_check and (problems := check(recipe)):
            print(*problems, sep="\n")
            raise DatasetError(problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))
        for command in commands:
            earlier = next((step for step in run.steps if step.name == command.name), None)
            if earlier is not None and earlier.status == 0:
                print(f"{command.name}: done already")
                continue
            begin = time.monotonic() - (earlier.seconds if earlier else 0)
            status = -signal.SIGTERM  # unless it ends by itself
            try:
                status = run_command(command, log_file, lock)
            finally:
                step = Step(command.name, command.as_typed(), round(time.monotonic() - begin, 1), status)
                save(steps=[*(other for other in run.steps if other is not earlier), step])
            if status != 0:
                raise ConfigError(find_error(log_file, step))
        return save(state="finished", ended=_now(), metrics=final_metrics(recipe, folder) if is_main else {})
    except (ResNeStError, OSError) as error:
        # A finished training that left no metrics evaluates anew when it is run again.
        is_done = len(run.steps) == len(commands) and all(step.status == 0 for step in run.steps)
        steps = [] if is_done else run.steps
        save(state="failed", ended=_now(), error=" ".join(str(error).split()), steps=steps)
        raise
    except KeyboardInterrupt:
        save(state="failed", ended=_now(), error="interrupted")
        print("interrupted; the same command resumes from here", flush=True)
        raise


def run_command(command: Command, log_file: Path, lock: int | None = None) -> int:
    """Run a command and return its exit status; what it prints is appended to the log, too.

    It is a group of processes that ends with this one, and inherits the descriptor of the lock.
    """
    words, typed = command.resolved(), command.as_typed()
    print(f"{command.name}: {typed}", flush=True)
    environment = {**environment_with_package(os.environ), **command.environment, "PYTHONUNBUFFERED": "1"}
    with open(log_file, "ab") as log:
        log.write(f"\n=== {_now()} {typed}\n".encode())
        process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                print(line.decode(errors="replace"), end="", flush=True)
            return process.wait()
        except BaseException:
            # A second Ctrl-C waits until the command has ended.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            process.stdout.close()  # nobody reads it any more
            _end(process)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and its group of processes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE)
            break


def find_error(log_file: Path, step: Step) -> str:
    """Return the line that says why a command failed: the last error in its log, else its last line."""
    text = log_file.read_text(encoding="utf-8", errors="replace").rpartition("\n=== ")[2]
    lines = [line.rpartition("\r")[2].strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()[1:]]
    errors = [line for line in lines if _ERROR.search(line) and "ChildFailedError" not in line]  # torchrun's
    last = next((line for line in reversed(lines) if line), "no output")
    return errors[-1] if errors else f"{step.name} ended with status {step.status}: {last}"


def _log_name(args: argparse.Namespace) -> str:
    return LOG_FILE if args.machine_rank == 0 else f"log_of_machine_{args.machine_rank}.txt"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


# The command


def _number_of_gpus(text: str) -> int:
    """Return a number, or the one of this machine's GPUs, which ``--help`` need not import PyTorch for."""
    if text != "all":
        return int(text)
    import torch

    return max(torch.cuda.device_count(), 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run``."""
    add = parser.add_argument
    add("recipes", nargs="+", metavar="RECIPE", help="a name, a pattern or a dataset")
    add("--output-dir", type=Path, default=Path("reproduced"), metavar="DIR", help="default: %(default)s")
    add_data_root(parser)
    add("--skip-data-check", action="store_true", help="do not check the data first")
    add(
        "--any-count", action="store_true",
        help="accept other numbers of images than the published ones; the run is reported as a smoke run",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    text = "evaluate this checkpoint of the one recipe, without training"
    which.add_argument("--eval-only", type=Path, metavar="FILE", help=text)
    text = "download the published files of the recipes that have one, and evaluate them, without training"
    which.add_argument("--published", action="store_true", help=text)
    add(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings",
        help="change settings of the configs, Detectron2's (SOLVER.IMS_PER_BATCH=8) or MMSegmentation's "
        "(train_dataloader.batch_size=2), or options of tools/pretrain.py (pretrain.batch-size=64 pretrain.amp=)",
    )  # fmt: skip
    add("--dry-run", action="store_true", help="print the commands and do nothing")
    add = parser.add_argument_group("GPUs and machines", "each machine runs this command once").add_argument
    add(
        "--num-gpus", type=_number_of_gpus, default="all", metavar="N",
        help="per machine; without GPUs, processes on the CPU (default: all GPUs)",
    )  # fmt: skip
    add("--num-machines", type=int, default=1, metavar="M", help="default: %(default)s")
    add("--machine-rank", type=int, default=0, metavar="R", help="number of this machine, from 0")
    add("--dist-url", metavar="URL", help="tcp://HOST:PORT of machine 0, the same on all machines")


def main(args: argparse.Namespace) -> int:
    """Run recipes one after the other; return 1 where one failed, 130 after an interruption."""
    recipes = select_recipes(args.recipes)
    if args.published:
        recipes = _with_published_file(recipes)
    _check_arguments(args, recipes)
    args_of = {recipe: _args_of(recipe, args) for recipe in recipes}
    commands = {recipe: make_commands(recipe, args_of[recipe], number) for number, recipe in enumerate(recipes)}
    if args.dry_run:
        print(*(command.as_typed() for each in commands.values() for command in each), sep="\n")
        return 0
    extent = Extent(any_count=args.any_count, quick=True, training=not (args.eval_only or args.published))
    failed, check = {}, make_check(args.data_root, extent)
    with _signals_as_interrupt():
        for number, recipe in enumerate(recipes, start=1):
            print(f"[{number}/{len(recipes)}] {recipe.name}", flush=True)
            try:
                if args.published:
                    fetch(get_record(recipe.name))
                metrics = run_recipe(recipe, args_of[recipe], commands[recipe], check).metrics.items()
                texts = (f"{METRICS[key]} {'nan' if value is None else f'{value:.2f}'}" for key, value in metrics)
                print(f"finished: {', '.join(texts)}", flush=True)
            except (ResNeStError, OSError) as error:
                failed[recipe.name] = str(error)
                print(f"FAILED: {error}", flush=True)
    print(f"{len(recipes) - len(failed)} of {len(recipes)} recipes finished")
    for name, text in failed.items():
        print(f"FAILED {name}: {text}\n  log: {args.output_dir / name / _log_name(args)}")
    return 1 if failed else 0


def _with_published_file(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Return the recipes whose published file can be fetched; raise a ``ConfigError`` where there is none."""
    found = [recipe for recipe in recipes if can_be_fetched(recipe)]
    if not found:
        get_record(recipes[0].name)  # says why
    if len(found) < len(recipes):
        print(f"{len(found)} of {len(recipes)} recipes have a published file that can be fetched", flush=True)
    return found


def _args_of(recipe: Recipe, args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments for a recipe: with ``--published``, its file in the cache is the one to evaluate."""
    if not args.published:
        return args
    return argparse.Namespace(**{**vars(args), "eval_only": default_cache_dir() / get_record(recipe.name).filename})


def _check_arguments(args: argparse.Namespace, recipes: Sequence[Recipe]) -> None:
    """Refuse what no recipe can be run with."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("`run` must be started once per machine without torchrun, which it starts itself")
    if args.num_gpus < 1:
        raise ConfigError(f"--num-gpus must be positive, got {args.num_gpus}")
    if not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(
            f"--machine-rank must be from 0 to --num-machines less 1, got {args.machine_rank} of {args.num_machines}"
        )
    for setting in args.settings:
        if not any(settings_for(recipe, [setting]) for recipe in recipes):
            frameworks = " and ".join(sorted({recipe.framework for recipe in recipes}))
            raise ConfigError(f"--set {setting} is for none of the recipes, which are of {frameworks}")
    if args.eval_only:
        if len(recipes) != 1:
            raise ConfigError(f"--eval-only goes with one recipe, got {len(recipes)}")
        if not args.eval_only.is_file():
            raise ConfigError(f"--eval-only must be a file, got {args.eval_only}")
        if (published := find_published(args.eval_only.name)) is not None:
            published.check(args.eval_only)


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, except where they are ignored, as by nohup."""
    numbers = [n for n in _SIGNALS[1:] if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
