"""``doctor``: what is installed, what is missing, and what is known to clash."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import os
import platform
import re
import sys
import warnings
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import resnest_backbones
from resnest_backbones.cli.networks import print_facts
from resnest_backbones.weights import MIRROR_VARIABLE, default_cache_dir

# Distribution -> what needs it.
PACKAGES = {
    "torch": "the trunk",
    "torchvision": "the trunk",
    "fvcore": "the trunk",
    "numpy": "the trunk",
    "detectron2": "the Detectron2 plugin",
    "sal-detectron2": "the Detectron2 plugin, from the registry",
    "pycocotools": "the Detectron2 plugin",
    "setuptools": "the Detectron2 plugin",
    "onedl-mmsegmentation": "the MMSegmentation plugin",
    "onedl-mmcv": "the MMSegmentation plugin",
    "onedl-mmengine": "the MMSegmentation plugin",
    "mmsegmentation": "the MMSegmentation plugin, its classic line",
    "mmcv": "the MMSegmentation plugin, its classic line",
    "mmcv-lite": "the MMSegmentation plugin, its classic line",
    "mmengine": "the MMSegmentation plugin, its classic line",
    "mmdet": "detectors of MMDetection",
    "opencv-python": "MMSegmentation, tools/demo.py",
    "opencv-python-headless": "MMSegmentation, tools/demo.py",
    "opencv-contrib-python": "MMSegmentation, tools/demo.py",
    "opencv-contrib-python-headless": "MMSegmentation, tools/demo.py",
    "onnx": "tools/export.py",
    "onnxruntime": "tools/export.py",
    "onnxscript": "tools/export.py",
    "scikit-image": "make demo",
    "scikit-learn": "make demo",
    "timm": "tools/benchmark.py",
}
MODULES = {"detectron2": "resnest_backbones.detectron2", "mmseg": "resnest_backbones.mmseg"}
# Distributions that write the same files: one of each group at most.
RIVALS = (
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ("onedl-mmsegmentation", "mmsegmentation"),
    ("onedl-mmcv", "mmcv", "mmcv-lite"),
    ("onedl-mmengine", "mmengine"),
)

_PAIR = 15  # torch 2.N came with torchvision 0.(N + 15)


def print_report(args: argparse.Namespace) -> int:
    """The command ``doctor``; its status is 1 where there are problems."""
    report = diagnose()
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print_facts(report["machine"])
        print()
        print_facts(report["packages"])
        print()
        print_facts(report["plugins"])
        print()
        for problem in report["problems"]:
            print(f"PROBLEM: {problem}")
        print(f"{len(report['problems'])} problems" if report["problems"] else "no problems found")
    return 1 if report["problems"] else 0


def diagnose() -> dict[str, Any]:
    """What is here: ``machine``, ``packages``, ``plugins`` (what importing each says), ``problems``."""
    packages = installed()
    plugins = {name: _import(name, module) for name, module in MODULES.items()}
    problems = [*clashes(packages), *(f"{name}: {said}" for name, said in plugins.items() if said.startswith("fails"))]
    return {"machine": _machine(), "packages": packages, "plugins": plugins, "problems": problems}


def installed() -> dict[str, str]:
    """Versions of those of ``PACKAGES`` that are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def clashes(packages: Mapping[str, str], python: tuple[int, int] | None = None) -> list[str]:
    """Combinations that are known not to work, each with what to do.

    Args:
        packages: distributions and their versions.
        python: version of Python, major and minor; this one's where None.
    """
    problems = []
    python = sys.version_info[:2] if python is None else python
    if not (3, 10) <= python < (3, 14):
        problems.append(f"Python {python[0]}.{python[1]} is not supported: take 3.10 to 3.13")
    for group in RIVALS:
        there = [name for name in group if name in packages]
        if len(there) > 1:
            problems.append(
                f"{' and '.join(there)} write the same files: pip uninstall {' '.join(there)}, then install one of them"
            )
    if _version(packages.get("numpy")) < (2,) and "onedl-mmcv" in packages:
        problems.append(
            f"onedl-mmcv needs numpy 2, and {packages.get('numpy', 'none')} is here: pip install 'numpy>=2'"
        )
    if "detectron2" in packages and "sal-detectron2" in packages:
        problems.append("detectron2 and sal-detectron2 write the same files: pip uninstall both, then install one")
    if ("detectron2" in packages or "sal-detectron2" in packages) and _version(packages.get("setuptools")) >= (81,):
        problems.append(
            f"Detectron2's model zoo needs pkg_resources, which setuptools {packages['setuptools']} has no more: "
            "pip install 'setuptools<81'"
        )
    problems += _torch_pair(packages)
    return problems


def _torch_pair(packages: Mapping[str, str]) -> list[str]:
    """Whether torchvision is the one that was released with this torch."""
    torch, torchvision = _version(packages.get("torch")), _version(packages.get("torchvision"))
    if torch[:1] != (2,) or torchvision[:1] != (0,) or torchvision[1] == torch[1] + _PAIR:
        return []
    wanted = f"0.{torch[1] + _PAIR}"
    return [
        f"torch {packages['torch']} goes with torchvision {wanted}, got {packages['torchvision']}: "
        f"pip install 'torchvision=={wanted}.*'"
    ]


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", (text or "0").partition("+")[0])[:3])


def _import(framework: str, module: str) -> str:
    try:
        metadata_found = importlib.util.find_spec(framework) is not None
        if not metadata_found:
            return "not installed"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            importlib.import_module(module)
            found = importlib.import_module(framework)
    except Exception as error:
        return f"fails to import: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return f"works, {framework} {getattr(found, '__version__', 'of no version')}{_operators(framework)}"


def _operators(framework: str) -> str:
    """A note where the framework's compiled operators are missing."""
    module, needed = {
        "detectron2": ("detectron2._C", "rotated boxes and Detectron2's own deformable convolution"),
        "mmseg": ("mmcv._ext", "heads that use mmcv.ops"),
    }[framework]
    if importlib.util.find_spec(module) is not None:
        return ""
    return f"; without compiled operators: {needed} do not work, everything else does"


def _machine() -> dict[str, str]:
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    facts = {
        "resnest_backbones": resnest_backbones.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "gpus": ", ".join(gpus) or "none that PyTorch sees",
        "cuda of torch": torch.version.cuda or "none",
        "threads": str(torch.get_num_threads()),
        "weights cache": str(default_cache_dir()),
    }
    if os.environ.get(MIRROR_VARIABLE):
        facts[MIRROR_VARIABLE] = os.environ[MIRROR_VARIABLE]
    return facts
