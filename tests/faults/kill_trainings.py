"""Kill a tool's training at random moments, and check what it leaves and where it ends."""

from __future__ import annotations

import functools
import operator
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import keystr, tree_flatten_with_path

from demonstration.digits import DemoDataset, make_demo_dataset
from resnest_backbones.checkpoint import read_checkpoint
from tests.helpers import ROOT, start_tool

PHASES = {"iteration": 4.0, "checkpoint": 0.03, "evaluation": 0.4}  # up to so many seconds after their beginning
_WAIT = 0.002  # seconds between two looks at what a process does
_PATIENCE = 600.0  # seconds that one process may take


@dataclass(frozen=True)
class Tool:
    """A training of a tool: how it is called, and how its output tells what it does."""

    arguments: Callable[[DemoDataset, Path, int], list[object]]  # of dataset, output folder and iterations
    last: str  # the checkpoint that the end of the training leaves, with the number of iterations in braces
    training: str  # is in the output once iterations begin
    evaluating: str  # is in the output while it evaluates
    evaluated: str  # is in the output after that
    state: tuple[str, ...]  # keys of the last checkpoint whose values must be equal in the end


@dataclass
class Outcome:
    """The result of killing one tool's training."""

    kills: Counter[str] = field(default_factory=Counter)  # in each phase
    runs: int = 0  # trainings from start to end that these kills were spread over
    checkpoints: int = 0  # under their final name, read after a kill
    unfinished: int = 0  # files under a temporary name that kills left, and that the next process removed
    tensors: int = 0  # tensors and numbers of the last checkpoint that were compared with the unbroken run's
    differing: list[str] = field(default_factory=list)  # those that were not equal bit for bit


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
        "train_dataloader.batch_size": 2,
    }
    for loader in ("train_dataloader", "val_dataloader"):
        settings |= {f"{loader}.num_workers": 0, f"{loader}.persistent_workers": False}
    options = [f"{key}={value}" for key, value in settings.items()]
    return [config, "--data-root", data.root, "--work-dir", output, "--cfg-options", *options]


TOOLS = {
    "train_net": Tool(
        _train_net_arguments,
        last="model_final.pth",
        training="Starting training from iteration",
        evaluating="Start inference on",
        evaluated="copypaste: AP,",
        state=("model", "trainer", "iteration"),
    ),
    "train_seg": Tool(
        _train_seg_arguments,
        last="iter_{}.pth",
        training="Iter(train)",
        evaluating="Iter(val) [1/",
        evaluated="mAcc:",
        state=("state_dict", "optimizer", "param_schedulers", "meta/iter", "meta/epoch", "meta/seed"),
    ),
}


def kill_training(name: str, folder: Path, *, kills: int, iterations: int = 24, seed: int = 0) -> Outcome:
    """Train without a break, then kill the same training again and again, each time continuing with ``--resume``.

    If a training ends before all ``kills``, another one takes the rest. ``iterations`` must be even: it saves after
    every second one, and evaluates after every third.
    """
    tool, chance, outcome = TOOLS[name], random.Random(seed), Outcome()
    data = make_demo_dataset(folder / "data", num_train=6, num_val=8, image_size=64, progress=False)
    whole = folder / f"{name}_unbroken"

    def start(output: Path, *, resume: bool) -> _Process:
        return _Process(name, [*(["--resume"] if resume else []), *tool.arguments(data, output, iterations)], output)

    start(whole, resume=False).wait()
    while outcome.kills.total() < kills or not outcome.runs:
        output = folder / f"{name}_broken_{outcome.runs}"
        resume = False
        while outcome.kills.total() < kills:
            process = start(output, resume=resume)
            target = list(PHASES)[outcome.kills.total() % len(PHASES)]
            if not process.kill_in(target, chance):
                break  # it came to its end
            outcome.kills[process.phase()] += 1
            for file in output.glob("*.pth"):
                read_checkpoint(file)
                outcome.checkpoints += 1
            outcome.unfinished += len([*output.glob(".*.partial")])
            resume = True
        start(output, resume=True).wait()
        assert not [*output.glob(".*.partial")], f"{output} still holds an unfinished file"
        outcome.runs += 1
        one, other = (_state(tool, folder / tool.last.format(iterations)) for folder in (whole, output))
        outcome.tensors += len(one)
        outcome.differing += [key for key in sorted({*one, *other}) if not _same(one.get(key), other.get(key))]
    return outcome


class _Process:
    """One process of a tool, which adds its output to ``printed.txt`` in the output folder."""

    def __init__(self, name: str, arguments: list[object], output: Path) -> None:
        self._tool, self.output = TOOLS[name], output
        output.mkdir(parents=True, exist_ok=True)
        self.printed = output / "printed.txt"
        self._before = self.printed.stat().st_size if self.printed.exists() else 0
        self._deadline = time.monotonic() + _PATIENCE
        with open(self.printed, "ab") as stream:
            self._process = start_tool(name, *arguments, stdout=stream)

    def ended(self) -> bool:
        """Return whether it has ended by itself, which must be without an error and in time."""
        if self._process.poll() is None and time.monotonic() > self._deadline:
            self.kill()
        status = self._process.returncode
        assert not status, f"it ended with status {status}: {self.said()[-500:]}; see {self.printed}"
        return status is not None

    def wait(self) -> None:
        while not self.ended():
            time.sleep(0.05)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def said(self) -> str:
        """Return its output so far."""
        with open(self.printed, "rb") as stream:
            stream.seek(self._before)
            return stream.read().decode(errors="replace")

    def kill_in(self, phase: str, chance: random.Random) -> bool:
        """Kill it at a random moment of a phase; return False if it ended before."""
        writes = chance.randint(1, 2)  # which of its checkpoints is not to be finished
        delay = PHASES[phase] * chance.random()
        begun, writing = 0, False
        while not self.ended():
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
            return False
        self.kill()
        return True

    def phase(self) -> str:
        """Return what it did when it was killed."""
        if any(self.output.glob(".*.partial")):
            return "checkpoint"
        said = self.said()
        if self._tool.training not in said:
            return "start"
        return "evaluation" if said.rfind(self._tool.evaluating) > said.rfind(self._tool.evaluated) else "iteration"


def _state(tool: Tool, file: Path) -> dict[str, Any]:
    """Return the leaves of a checkpoint that must be equal, by their path."""
    content = read_checkpoint(file)
    chosen = {key: functools.reduce(operator.getitem, key.split("/"), content) for key in tool.state}
    return {keystr(path): leaf for path, leaf in tree_flatten_with_path(chosen)[0]}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other
