"""Killing trainings at random moments, and looking at what they leave and where they end.

A tool is run as it is, from its file, in a process of its own that SIGKILL ends; only the import of the frameworks,
which takes longer than all the rest, is done once before, in the process that forks it. No thread may run there then,
hence ``OMP_NUM_THREADS=1``, which equal sums need anyway.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demonstration.digits import DemoDataset, make_demo_dataset
from resnest_backbones.checkpoint import read_checkpoint
from resnest_backbones.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
PHASES = ("iteration", "checkpoint", "evaluation")

_WAIT = 0.002  # seconds between two looks at what a process does
_PATIENCE = 600.0  # seconds that one process may take


class KillError(RuntimeError):
    """A training that was killed did not do what it should; the message says what, and where its output is."""


@dataclass(frozen=True)
class Tool:
    """A training of a tool: what it is called with, and how its output tells what it does.

    Attributes:
        name: of the file in ``tools``.
        arguments: (data set, output folder, iterations) -> the command line, without ``--resume``.
        last: the checkpoint that the end of the training leaves, with the number of iterations in braces.
        training: is in the output once iterations begin.
        evaluating: is in the output while it evaluates.
        evaluated: is in the output after that.
        state: content of the last checkpoint -> what must be equal in the end.
    """

    name: str
    arguments: Callable[[DemoDataset, Path, int], list[object]]
    last: str
    training: str
    evaluating: str
    evaluated: str
    state: Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Outcome:
    """What became of the kills of one tool's training.

    Attributes:
        tool: its name.
        kills: how often it was killed while it did what.
        runs: trainings from start to end that these kills were spread over.
        checkpoints: checkpoints under their final name that were read after a kill.
        unfinished: files under a temporary name that kills left, and that the next process removed.
        tensors: tensors and numbers of the last checkpoint that were compared with the unbroken run's.
        differing: those that were not equal bit for bit.
    """

    tool: str
    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    checkpoints: int = 0
    unfinished: int = 0
    tensors: int = 0
    differing: list[str] = field(default_factory=list)


def _train_net_arguments(data: DemoDataset, output: Path, iterations: int) -> list[object]:
    config = ROOT / "configs" / "detectron2" / "demo" / "faster_rcnn_resnest14_fpn_demo.yaml"
    keys = {
        "OUTPUT_DIR": output,
        "MODEL.FPN.OUT_CHANNELS": 16,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": 16,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
        "INPUT.MIN_SIZE_TRAIN": "(64,80,96)",
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.RANDOM_FLIP": "horizontal",
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.WARMUP_ITERS": 4,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "TEST.EVAL_PERIOD": 3,
        "TEST.PRECISE_BN.ENABLED": True,
        "TEST.PRECISE_BN.NUM_ITER": 2,
        "SEED": 3,
    }
    images = ["--train-images", data.train_images, "--val-images", data.val_images]
    annotations = ["--train-json", data.train_json, "--val-json", data.val_json]
    return ["--config-file", config, *images, *annotations, *(word for pair in keys.items() for word in pair)]


def _train_seg_arguments(data: DemoDataset, output: Path, iterations: int) -> list[object]:
    config = ROOT / "configs" / "mmseg" / "demo" / "deeplabv3_resnest14-d8_1xb8-demo_demo-96x96.py"
    settings = {
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": 3,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.logger.interval": 1,
        "model.decode_head.channels": 16,
        "model.auxiliary_head.channels": 16,
        "randomness.seed": 3,
    }
    for loader in ("train_dataloader", "val_dataloader"):
        settings |= {f"{loader}.num_workers": 0, f"{loader}.persistent_workers": False}
    settings["train_dataloader.batch_size"] = 2
    options = [f"{key}={value}" for key, value in settings.items()]
    return [config, "--data-root", data.root, "--work-dir", output, "--cfg-options", *options]


def _state_of_detector(content: dict[str, Any]) -> dict[str, Any]:
    return {key: content[key] for key in ("model", "trainer", "iteration")}


def _state_of_segmentor(content: dict[str, Any]) -> dict[str, Any]:
    meta = {key: content["meta"][key] for key in ("iter", "epoch", "seed")}
    return {"meta": meta, **{key: content[key] for key in ("state_dict", "optimizer", "param_schedulers")}}


TOOLS = {
    "train_net": Tool(
        "train_net",
        _train_net_arguments,
        last="model_final.pth",
        training="Starting training from iteration",
        evaluating="Start inference on",
        evaluated="copypaste: AP,",
        state=_state_of_detector,
    ),
    "train_seg": Tool(
        "train_seg",
        _train_seg_arguments,
        last="iter_{}.pth",
        training="Iter(train)",
        evaluating="Iter(val) [1/",
        evaluated="mAcc:",
        state=_state_of_segmentor,
    ),
}


def kill_training(name: str, folder: Path, *, kills: int, iterations: int = 24, seed: int = 0) -> Outcome:
    """Train without a break, then kill the same training that often, each time going on with ``--resume``.

    Args:
        name: of ``TOOLS``.
        folder: for data, checkpoints and output; made where it is not there.
        kills: how often; where a training ends before, another one takes the rest.
        iterations: length of the training, even; it saves after every second one, and evaluates after every third.
        seed: of the moments.

    Raises:
        KillError: a process did not go on, or a checkpoint under its final name is no whole one.
    """
    tool, chance, outcome = TOOLS[name], random.Random(seed), Outcome(name)
    data = make_demo_dataset(folder / "data", num_train=6, num_val=8, image_size=64, progress=False)
    whole = folder / f"{name}_unbroken"

    def start(output: Path, *, resume: bool) -> _Process:
        command = [*(["--resume"] if resume else []), *map(str, tool.arguments(data, output, iterations))]
        return _Process(tool, command, output)

    _wait(start(whole, resume=False))
    while outcome.kills.total() < kills or not outcome.runs:
        output = folder / f"{name}_broken_{outcome.runs}"
        resume = False
        while outcome.kills.total() < kills:
            process = start(output, resume=resume)
            target = PHASES[outcome.kills.total() % len(PHASES)]
            if not process.kill_in(target, chance):
                break  # it came to its end
            outcome.kills[process.phase()] += 1
            outcome.checkpoints += _check_checkpoints(output)
            outcome.unfinished += len([*output.glob(".*.partial")])
            resume = True
        _wait(start(output, resume=True))
        if left := [*output.glob(".*.partial")]:
            raise KillError(f"{left[0]} is still there")
        outcome.runs += 1
        _compare(tool, whole, output, iterations, outcome)
    return outcome


class _Process:
    """One process of a tool, its output added to ``printed.txt`` in the output folder."""

    def __init__(self, tool: Tool, arguments: list[str], output: Path) -> None:
        self._tool, self.output = tool, output
        output.mkdir(parents=True, exist_ok=True)
        self.printed = output / "printed.txt"
        self._before = self.printed.stat().st_size if self.printed.exists() else 0
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _become(ROOT / "tools" / f"{tool.name}.py", arguments, self.printed)
        self.status: int | None = None

    def ended(self) -> bool:
        """Whether it has come to its end by itself."""
        if self.status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def said(self) -> str:
        """Its output so far."""
        if not self.printed.exists():
            return ""
        with open(self.printed, "rb") as stream:
            stream.seek(self._before)
            return stream.read().decode(errors="replace")

    def kill_in(self, phase: str, chance: random.Random) -> bool:
        """Kill it at a random moment of a phase; False where it ended before."""
        writes = chance.randint(1, 2)  # which of its checkpoints is not to be finished
        delay = {"iteration": 4.0, "checkpoint": 0.03, "evaluation": 0.4}[phase] * chance.random()
        begun, writing = 0, False
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and not self.ended():
            if phase == "checkpoint":
                before, writing = writing, any(self.output.glob(".*.partial"))
                begun += writing and not before
                ready = begun == writes and writing
            else:
                ready = (self._tool.training if phase == "iteration" else self._tool.evaluating) in self.said()
            if ready:
                time.sleep(delay)
                break
            time.sleep(_WAIT)
        if self.ended():
            _check_status(self)
            return False
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self.status = -signal.SIGKILL
        return True

    def phase(self) -> str:
        """What it did when it was killed."""
        if any(self.output.glob(".*.partial")):
            return "checkpoint"
        said = self.said()
        if self._tool.training not in said:
            return "start"
        return "evaluation" if said.rfind(self._tool.evaluating) > said.rfind(self._tool.evaluated) else "iteration"


def _become(tool: Path, arguments: list[str], printed: Path) -> None:
    """Turn a forked process into one that runs a tool."""
    status = 1
    try:
        os.setsid()
        target = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.argv = [str(tool), *arguments]
        runpy.run_path(str(tool), run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
        print(error.code, flush=True)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(status)


def _wait(process: _Process) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not process.ended():
        if time.monotonic() > deadline:
            os.killpg(process._pid, signal.SIGKILL)
            os.waitpid(process._pid, 0)
            raise KillError(f"a process did not end in {_PATIENCE} seconds; see {process.printed}")
        time.sleep(0.05)
    _check_status(process)


def _check_status(process: _Process) -> None:
    if process.status:
        last = process.said().strip().splitlines()[-1:]
        raise KillError(f"a process ended with status {process.status}: {last}; see {process.printed}")


def _check_checkpoints(output: Path) -> int:
    """Read all checkpoints under their final names, and see that the newest is named; their number."""
    files = sorted(output.glob("*.pth"))
    for file in files:
        try:
            read_checkpoint(file)
        except CheckpointError as error:
            raise KillError(f"a kill left a checkpoint that cannot be read: {error}") from error
    return len(files)


def _compare(tool: Tool, whole: Path, broken: Path, iterations: int, outcome: Outcome) -> None:
    one, other = (
        _flat(tool.state(read_checkpoint(folder / tool.last.format(iterations)))) for folder in (whole, broken)
    )
    outcome.tensors += len(one)
    outcome.differing += [key for key in sorted({*one, *other}) if not _same(one.get(key), other.get(key))]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {name: leaf for key, item in value.items() for name, leaf in _flat(item, f"{prefix}{key}/").items()}
    if isinstance(value, (list, tuple)):
        return _flat(dict(enumerate(value)), prefix)
    return {prefix: value}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def main(name: str, folder: Path, *, kills: int, iterations: int, seed: int) -> dict[str, Any]:
    """Import what a tool needs, kill its training, and print what happened as one line of JSON."""
    runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="imported")
    outcome = kill_training(name, folder, kills=kills, iterations=iterations, seed=seed)
    result = {**vars(outcome), "kills": dict(outcome.kills)}
    print(json.dumps(result), flush=True)
    return result
