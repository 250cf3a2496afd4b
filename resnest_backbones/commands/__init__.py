"""The command lines of trainings, tests, predictions and exports: ``resnest-backbones NAME``, ``tools/NAME.py``.

Each module parses its options before PyTorch is imported, which takes seconds that ``--help`` and a mistyped option
need not wait; what does the work is imported by the function that does it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

PROGRAM = "resnest-backbones"
# Name -> what it does; the module has underscores.
COMMANDS = {
    "train-net": "train or evaluate a detector with Detectron2",
    "train-seg": "train a segmentor with MMSegmentation",
    "test-seg": "test a segmentor",
    "infer-seg": "predict and draw label maps with a segmentor",
    "demo": "predict on images, folders, videos or a camera with a trained model",
    "export": "export a trained model to ONNX, TorchScript, torch.export or AOTInductor",
    "quantize": "quantize an exported ONNX file to int8",
    "install-detectron2": "install Detectron2, which has no wheel under its own name",
}
# What one might look for here, and where it is. The pages of visualize need more packages than the wheel asks for.
ELSEWHERE = {
    "evaluate": "evaluate a detector with train-net --eval-only, a segmentor with test-seg",
    "visualize": "it needs a repository checkout: python tools/visualize.py",
}


def run_command(name: str, arguments: list[str]) -> None:
    """Run one of ``COMMANDS``; exit the program if its status is not 0."""
    import_module(f"{__name__}.{name.replace('-', '_')}").run(arguments, command=f"{PROGRAM} {name}")


def named(parser: argparse.ArgumentParser, command: str | None) -> argparse.ArgumentParser:
    """Let help and messages of a parser name a command instead of the script of a checkout, where one is given."""
    if command is not None:
        parser.prog = command
        for part in ("description", "epilog"):
            text = getattr(parser, part) or ""
            text = re.sub(r"python tools/(\w+)\.py", lambda match: _installed(match[1]), text)
            setattr(parser, part, re.sub(r"tools/(\w+)\.py", lambda match: f"-m {_installed(match[1], True)}", text))
    return parser


def _installed(script: str, module: bool = False) -> str:
    return f"{'resnest_backbones' if module else PROGRAM} {script.replace('_', '-')}"


def python_command(*words: str | Path) -> str:
    """Return a command line of this Python; paths are written as one would type them here.

    Where an installed command runs, so is the next one: there may be no ``tools/``.
    """
    script = re.fullmatch(r"tools/(\w+)\.py", str(words[0]))
    program = Path(sys.argv[0])
    is_installed = program.name == PROGRAM or program.parts[-2:] == ("resnest_backbones", "__main__.py")
    if script and is_installed and script[1].replace("_", "-") in COMMANDS:
        first = _installed(script[1]).split()
    else:
        first = [shorten(sys.executable), str(words[0])]
    return shlex.join([*first, *(shorten(word) if isinstance(word, Path) else word for word in words[1:])])


def shorten(path: str | Path) -> str:
    """Return a path as one would type it here: relative if it is below the current folder."""
    path = Path(os.path.abspath(path))  # not resolved: the Python of an environment is a link to another one
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def print_next(what: str, *words: str | Path) -> None:
    """Print what can be done next, and the command that does it.

    Args:
        what: for example "evaluate the saved model".
        words: of the command, from the tool on; words in capitals stand for what the user has to name.
    """
    print(f"Next, {what}:\n  {python_command(*words)}", flush=True)
