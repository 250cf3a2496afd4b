"""Running one row: its commands in turn, what is done already left out, and ``row.json`` written as it goes on."""

from __future__ import annotations

import re
import shlex
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from reproduction.console import Console, plain
from reproduction.figures import FigureError, read_figures
from reproduction.processes import Start, start_program, stop
from reproduction.results import LOG_FILE, RowResult, StepResult, read_result, write_result
from reproduction.steps import Step, StepError
from resnest_backbones.model_zoo import Recipe

_TAIL = 200  # lines of a command's output that are searched for its error
_ERROR = re.compile(r"(?:^|\s)(?:[\w.]+(?:Error|Exception|Exit)|[\w.]+: error): ?\S.*")
_THEN = ", then "  # between the machines of a row that was gone on with elsewhere
_NOT_THE_CAUSE = "ChildFailedError"  # what torchrun adds


class RunError(ValueError):
    """A row cannot be run; the message says why."""


class StepFailedError(RuntimeError):
    """A command of a row ended with another status than 0."""


@dataclass(frozen=True)
class Job:
    """A row to run.

    Attributes:
        recipe: the row.
        folder: of its run.
        steps: its commands.
        command: of the user that runs this row, as ``row_command`` gives it.
        machine: as in ``RowResult``.
        versions: as in ``RowResult``.
        environment: variables of this process that its commands get.
        smoke: as in ``RowResult``.
        is_main: whether this machine writes the result; others only take part.
        log_name: file in the folder that gets what the commands print.
        start: starts a command.
        problems: that keep it from being run: data that are missing.
        checkpoint: that is evaluated without training; None where it trains.
    """

    recipe: Recipe
    folder: Path
    steps: Sequence[Step]
    command: str
    machine: str
    versions: Mapping[str, str]
    environment: Mapping[str, str]
    smoke: bool = False
    is_main: bool = True
    log_name: str = LOG_FILE
    start: Start = start_program
    problems: Sequence[str] = ()
    checkpoint: Path | None = None

    @property
    def log(self) -> Path:
        """What the commands print."""
        return self.folder / self.log_name

    def write(self, result: RowResult) -> RowResult:
        """Write the row's result, on the main machine."""
        if self.is_main:
            write_result(result, self.folder)
        return result


def row_command(name: str, recipe: Recipe, deciding: Sequence[str], output_dir: Path, others: Sequence[str]) -> str:
    """The command of one row, as one would type it.

    Args:
        name: ``run`` or ``smoke``.
        recipe: the row.
        deciding: options that the figures depend on.
        output_dir: where it is run.
        others: options that they do not.
    """
    head = ("python", "tools/reproduce.py", name, recipe.name)
    return shlex.join([*head, *deciding, "--output-dir", str(output_dir), *others])


def _deciding(command: str) -> list[str]:
    """What of a command of ``row_command`` the figures depend on."""
    words = shlex.split(command)
    return words[2 : words.index("--output-dir")] if "--output-dir" in words else words


def finished(job: Job) -> RowResult | None:
    """The result of a row that was run to its end; None where it was not.

    Raises:
        RunError: the folder holds a run with other settings.
        reproduction.results.ResultError: it holds something else.
    """
    previous = _previous(job)
    return previous if previous is not None and previous.state == "finished" else None


def _previous(job: Job) -> RowResult | None:
    previous = read_result(job.folder)
    if previous is not None and _deciding(previous.command) != _deciding(job.command):
        raise RunError(
            f"{job.folder} holds a run with other settings ({previous.command}); remove that folder, or choose another "
            "--output-dir"
        )
    if previous is not None and job.checkpoint is not None:
        begun = datetime.fromisoformat(previous.started).timestamp()  # in whole seconds
        if int(job.checkpoint.stat().st_mtime) > begun:
            raise RunError(
                f"{job.folder} holds an evaluation of {job.checkpoint} that began before that file was written; remove "
                "that folder, or choose another --output-dir"
            )
    return previous


def run_row(job: Job, console: Console) -> RowResult:
    """Run a row from where an earlier run of it stopped.

    Args:
        job: the row.
        console: to tell the user.

    Returns:
        What is in ``row.json`` too: finished or failed.

    Raises:
        RunError: the folder holds a run with other settings, or another process runs the row.
        reproduction.results.ResultError: it holds something else.
        KeyboardInterrupt: the user interrupted; the row's processes have ended, and the row can be gone on with.
    """
    done = finished(job)
    if done is not None:
        console.say(f"finished already ({done.ended}), left as it is: {_in_words(done.figures)}")
        return done
    job.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(job.folder / ".lock", timeout=0)
    try:
        with lock if job.is_main else nullcontext():
            return _run_locked(job, console)
    except Timeout as error:
        raise RunError(f"{job.folder} is in use: another process runs this row") from error


def _run_locked(job: Job, console: Console) -> RowResult:
    result = job.write(_begun(job))
    try:
        if job.problems:
            _log_problems(job)
            more = f" (and {len(job.problems) - 1} more)" if len(job.problems) > 1 else ""
            raise RunError(f"data: {job.problems[0]}{more}")
        for step in job.steps:
            if any(ended.name == step.name and ended.status == 0 for ended in result.steps):
                console.say(f"{step.name}: done already")
                continue
            begin = time.monotonic()
            try:
                ended = _run_step(step, job, console)
            except KeyboardInterrupt:  # its time counts
                stopped = StepResult(step.name, step.as_typed(), time.monotonic() - begin, -signal.SIGTERM)
                result = _with_step(result, stopped)
                raise
            result = job.write(_with_step(result, ended))
            if ended.status != 0:
                raise StepFailedError(find_error(job.log, ended.status))
        # Another machine may be here before the first one has written the figures.
        figures = read_figures(job.recipe, job.folder) if job.is_main else {}
        console.say(f"finished: {_in_words(figures)}" if job.is_main else "finished")
        return job.write(replace(result, state="finished", ended=_now(), figures=figures))
    except FigureError as error:  # the commands are run again next time: after a finished training they evaluate anew
        console.say(f"FAILED: {error}")
        return job.write(replace(result, state="failed", ended=_now(), error=" ".join(str(error).split()), steps=()))
    except (OSError, RunError, StepError, StepFailedError) as error:
        console.say(f"FAILED: {error}")
        return job.write(replace(result, state="failed", ended=_now(), error=" ".join(str(error).split())))
    except KeyboardInterrupt:
        console.say("interrupted; the same command goes on from here")
        job.write(replace(result, state="failed", ended=_now(), error="interrupted"))
        raise


def _begun(job: Job) -> RowResult:
    """What a row begins with: the steps of an earlier run of it."""
    previous = _previous(job)
    machine = job.machine
    # What was done on another machine is not done again; a run that was killed could not say what it did.
    if previous and (previous.steps or previous.state == "running") and previous.machine != machine:
        ends_here = previous.machine.endswith(_THEN + machine)
        machine = previous.machine if ends_here else previous.machine + _THEN + machine
    return RowResult(
        row=job.recipe.name,
        state="running",
        smoke=job.smoke,
        command=job.command,
        machine=machine,
        versions=job.versions,
        started=previous.started if previous else _now(),
        steps=previous.steps if previous else (),
    )


def _with_step(result: RowResult, ended: StepResult) -> RowResult:
    """A result with a step that has ended now, in the place of an earlier attempt, whose time it adds."""
    earlier = sum(step.seconds for step in result.steps if step.name == ended.name)
    others = [step for step in result.steps if step.name != ended.name]
    return replace(result, steps=(*others, replace(ended, seconds=round(ended.seconds + earlier, 1))))


def _run_step(step: Step, job: Job, console: Console) -> StepResult:
    typed = step.as_typed()
    environment = {**job.environment, **step.environment, "PYTHONUNBUFFERED": "1"}
    console.say(f"{step.name}: log in {job.log}")
    begin = time.monotonic()
    with open(job.log, "ab") as log:
        log.write(f"\n=== {_now()} {typed}\n".encode())
        log.flush()
        running = job.start(step.command(), environment)
        try:
            for line in running.lines():
                log.write(line)
                log.flush()
                console.see(step.name, line)
            status = running.wait()
        except BaseException:
            stop(running)
            raise
    assert status is not None
    seconds = time.monotonic() - begin
    console.say(f"{step.name}: {'done' if status == 0 else f'ended with status {status}'} after {seconds:.0f} s")
    return StepResult(step.name, typed, seconds, status)


def _log_problems(job: Job) -> None:
    with open(job.log, "a", encoding="utf-8") as log:
        log.write(f"\n=== {_now()} data that are missing or wrong:\n")
        log.writelines(f"{problem}\n" for problem in job.problems)


def last_lines(log: Path, number: int) -> list[str]:
    """The last lines of a log that are not empty."""
    if not log.is_file():
        return []
    with open(log, encoding="utf-8", errors="replace") as stream:
        return list(deque(filter(None, (plain(line).rstrip() for line in stream)), maxlen=number))


def find_error(log: Path, status: int) -> str:
    """The line that says why a command failed: the last error in its log, else its last line."""
    lines = last_lines(log, _TAIL)
    begin = max((number for number, line in enumerate(lines) if line.startswith("=== ")), default=-1)  # of the command
    lines = lines[begin + 1 :]
    errors = [line.strip() for line in lines if _ERROR.search(line) and _NOT_THE_CAUSE not in line]
    if errors:
        return errors[-1]
    return f"ended with status {status}: {lines[-1].strip() if lines else 'it printed nothing'}"


def _in_words(figures: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'nan' if value is None else f'{value:.2f}'}" for name, value in figures.items())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
