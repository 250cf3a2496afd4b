"""The command ``resnest-backbones``, also ``python -m resnest_backbones``: list, info, download, convert, doctor.

It also runs the command lines of ``commands/``: train-net, demo and so on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import logging
import os
import platform
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import resnest_backbones
from resnest_backbones import model_zoo
from resnest_backbones.choices import TARGETS
from resnest_backbones.commands import COMMANDS, ELSEWHERE, PROGRAM, print_next, run_command
from resnest_backbones.errors import INSTALL, add_verbose, did_you_mean, one_line_errors
from resnest_backbones.model_zoo import NUM_CLASSES, RECIPES
from resnest_backbones.weights import MIRROR_VARIABLE, SCHEME, WEIGHTS, Record, default_cache_dir, fetch, get_record

EXAMPLES = {
    "list": f"{PROGRAM} list --configs",
    "info": f"{PROGRAM} info resnest50",
    "download": f"{PROGRAM} download resnest50",
    "convert": f"{PROGRAM} convert resnest://resnest50 resnest50_d2.pth --to detectron2",
    "doctor": f"{PROGRAM} doctor > report.txt",
}

# What ``doctor`` looks for; distributions of one line write the same files, so at most one of each may be installed.
_RIVALS = (
    ("detectron2", "sal-detectron2"),
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ("onedl-mmsegmentation", "mmsegmentation"),
    ("onedl-mmcv", "mmcv", "mmcv-lite"),
    ("onedl-mmengine", "mmengine"),
)
_PACKAGES = (
    *("torch", "torchvision", "numpy", "fvcore", "setuptools", "pycocotools", "mmdet"),
    *("onnx", "onnxruntime", "onnxscript", "scikit-image", "scikit-learn", "timm"),
    *(name for rivals in _RIVALS for name in rivals),
)
PLUGINS = {"detectron2": "resnest_backbones.detectron2", "mmseg": "resnest_backbones.mmseg"}
_EXTRAS = (*PLUGINS, "demo", "export", "hub")  # others are for a checkout
_OPERATORS = {
    "detectron2": ("detectron2._C", "rotated boxes and Detectron2's own deformable convolution"),
    "mmseg": ("mmcv._ext", "heads that use mmcv.ops"),
}
_TORCHVISION_OFFSET = 15  # torch 2.N was released with torchvision 0.(N + 15)


def build_argument_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="ResNeSt backbones: list networks and results, manage weights, check the installation.",
        epilog=f"example: {EXAMPLES['info']}",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {resnest_backbones.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        described = text[0].upper() + text[1:] + "."
        command = commands.add_parser(name, help=text, description=described, epilog=f"example: {EXAMPLES[name]}")
        command.add_argument("--json", action="store_true", help="print JSON")
        add_verbose(command)
        return command

    listing = add("list", "print the networks, or the configs of both frameworks, with published metrics")
    which = listing.add_mutually_exclusive_group()
    which.add_argument("--configs", action="store_true", help="list the configs instead of the networks")
    which.add_argument("--trained", action="store_true", help="list the recipes with a trained checkpoint to download")
    info = add("info", "print what is known about a network, a config or a checkpoint file")
    info.add_argument("name", metavar="NAME", help="a name printed by `list` or `list --configs`, or a file")
    download = add("download", "download and verify the published weights of a network or recipe, and print their path")
    download.add_argument("name", metavar="NAME", help="a network, or a recipe printed by `list --trained`")
    download.add_argument("--cache-dir", metavar="DIR", help="default: PyTorch Hub's cache")
    add_convert_arguments(add("convert", "convert a ResNeSt checkpoint from any published layout to another"))
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    add("doctor", "print what is installed, missing or conflicting; exit with status 1 if there is a conflict")
    return parser


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``convert``."""
    parser.add_argument(
        "source", metavar="IN", help="a checkpoint file, or resnest://NAME; FILE#ema for its averaged weights"
    )
    parser.add_argument("target_file", metavar="OUT", help="the file to write, .pth; it must not exist yet")
    parser.add_argument("--to", required=True, choices=TARGETS, help="the layout to write")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit the program if its status is not 0."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    if words and words[0] in COMMANDS:
        return run_command(words[0], words[1:])
    if words and words[0] in ELSEWHERE:
        sys.exit(f"{PROGRAM} {words[0]}: error: {ELSEWHERE[words[0]]}")
    args = build_argument_parser().parse_args(words)
    command = {"list": print_list, "info": print_info, "download": download, "convert": convert, "doctor": doctor}
    with one_line_errors(PROGRAM, ValueError, verbose=args.verbose):
        status = command[args.command](args)
    if status:
        sys.exit(status)


# Networks and configs


def print_list(args: argparse.Namespace) -> int:
    """Run ``list``."""
    configs = model_zoo.list_trained() if args.trained else model_zoo.list() if args.configs else []
    rows: list[dict[str, Any]] = [
        {"name": name, "framework": model_zoo.framework_of(name), "published": _published(name)} for name in configs
    ] or [_about_network(name) for name in resnest_backbones.VARIANTS]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    cells = [[*rows[0]], *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()
    print_next("print everything about one of them", "-m", "resnest_backbones", "info", *(configs[:1] or ["resnest50"]))
    return 0


def _about_network(name: str) -> dict[str, Any]:
    spec, record = resnest_backbones.VARIANTS[name], WEIGHTS.get(name)
    return {
        "name": name,
        "params_m": round((spec.params or 0) / 1e6, 1),
        "multiply_adds_g": round((spec.multiply_adds or 0) / 1e9, 1),
        "top1": record.top1 if record else None,
        "configs": len(_configs_of(name)),
    }


def _published(name: str) -> dict[str, float] | None:
    return dict(RECIPES[name].metrics) if name in RECIPES else None


def _configs_of(network: str) -> list[str]:
    """Return the names of the configs on a network: those that contain its whole name."""
    pattern = re.compile(rf"(?:^|_){network}(?=_|-|$)(?!_fast_)")
    return [name for name in model_zoo.list() if pattern.search(name)]


def print_info(args: argparse.Namespace) -> int:
    """Run ``info``."""
    if args.name in resnest_backbones.VARIANTS:
        facts = _facts_of_network(args.name)
        following: tuple[str, ...] = ("see another network", "info", "resnest50")
    elif args.name in model_zoo.list():
        facts = _facts_of_config(args.name)
        following = ("see its network", "info", facts["network"] or "resnest50")
    elif os.path.isfile(args.name):
        described = resnest_backbones.checkpoint.describe_file(args.name)
        facts = {name: value for name, value in described.items() if value is not None}
        target = "mmseg" if facts["layout"] == "detectron2" else "detectron2"
        following = ("convert it to another layout", "convert", args.name, "OUT.pth", "--to", target)
    else:
        known = [*resnest_backbones.VARIANTS, *model_zoo.list()]
        hint = did_you_mean(args.name, known, f"`{PROGRAM} list` prints the names")
        raise ValueError(f"NAME must be a network, a config or a checkpoint file, got {args.name!r}; {hint}")
    if facts.get("weights"):
        following = ("download its weights", "download", args.name)
    if args.json:
        print(json.dumps(facts, indent=1))
        return 0
    _print_facts(facts)
    print()
    print_next(following[0], "-m", "resnest_backbones", *following[1:])
    return 0


def _facts_of_network(name: str) -> dict[str, Any]:
    weights = None
    if record := WEIGHTS.get(name):
        facts = {key: getattr(record, key) for key in ("top1", "crop", "channel_order", "mean", "std", "source")}
        weights = {**facts, **_facts_of_file(name, record)}
    spec = dataclasses.asdict(resnest_backbones.VARIANTS[name])
    configs = {config: _published(config) for config in _configs_of(name)}
    return {**spec, "weights": weights, "configs": configs}


def _facts_of_file(name: str, record: Record) -> dict[str, Any]:
    file = default_cache_dir() / record.filename
    return {
        "use_as": f"{SCHEME}{name}",
        "url": record.url,
        "other_places": [*record.urls[1:], *([f"https://huggingface.co/{record.hub}"] if record.hub else [])],
        "sha256_prefix": record.sha256_prefix,
        "cached": str(file) if file.exists() else None,
        "bytes": file.stat().st_size if file.exists() else None,
        "license": record.license,
    }


def _facts_of_config(name: str) -> dict[str, Any]:
    networks = [network for network in resnest_backbones.VARIANTS if name in _configs_of(network)]
    facts: dict[str, Any] = {
        "name": name,
        "framework": model_zoo.framework_of(name),
        "network": max(networks, key=len) if networks else None,
        "file": model_zoo.get_config_file(name),
    }
    if recipe := RECIPES.get(name):
        file = recipe.file
        facts |= {key: getattr(recipe, key) for key in ("dataset", "method", "schedule", "source")}
        facts |= {"classes": NUM_CLASSES[recipe.dataset], "published": _published(name)}
        facts["published_file"] = file.name if file else None
        facts["weights"] = _facts_of_file(name, file) if file and file.server_answers else None
    return facts


def _print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    """Print one fact per line, nested ones indented below theirs."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, Mapping) and name in ("weights", "configs"):
            print(f"{indent}{name}:")
            _print_facts(value or {"none": None}, f"{indent}  ")
        else:
            print(f"{indent}{name:<{width}}  {_shown(value)}".rstrip())


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {metric}" for name, metric in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


# Files


def download(args: argparse.Namespace) -> int:
    """Run ``download``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = args.name.removeprefix(SCHEME)
    file, use_as = fetch(get_record(name), cache_dir=args.cache_dir, progress=not args.json), f"{SCHEME}{name}"
    if args.json:
        print(json.dumps({"name": name, "file": str(file), "use_as": use_as}))
        return 0
    print(f"{file}: verified; in both frameworks and load_checkpoint, use it as {use_as}")
    target = "segmentor" if name in RECIPES and RECIPES[name].framework == "mmseg" else "detectron2"
    words = ("-m", "resnest_backbones", "convert", use_as, f"{name}_{target}.pth", "--to", target)
    print_next("convert it for use without this package's checkpointer", *words)
    return 0


def convert(args: argparse.Namespace) -> int:
    """Run ``convert`` with the arguments of ``add_convert_arguments``."""
    count = resnest_backbones.checkpoint.convert_file(args.source, args.target_file, args.to)
    if args.json:
        print(json.dumps({"file": args.target_file, "layout": args.to, "tensors": count}))
    else:
        print(f"{args.target_file}: {count} tensors in the layout {args.to}")
    return 0


# The installation


def doctor(args: argparse.Namespace) -> int:
    """Run ``doctor``; its status is 1 if there are problems."""
    report = diagnose()
    problems = report["problems"]
    if args.json:
        print(json.dumps(report, indent=1))
        return bool(problems)
    for part in ("machine", "packages", "plugins", "missing"):
        if report[part]:
            _print_facts(report[part])
            print()
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print(f"{len(problems)} problems" if problems else "no problems found")
    return bool(problems)


def diagnose() -> dict[str, Any]:
    """Return ``machine``, ``packages``, ``plugins`` (how importing each went), ``missing`` and ``problems``."""
    packages, folder = {}, default_cache_dir()
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    plugins = {framework: _import_plugin(framework) for framework in PLUGINS}
    failed = [f"{name}: {said}" for name, said in plugins.items() if said.startswith("fails")]
    if not os.access(next(path for path in (folder, *folder.parents) if path.exists()), os.W_OK):
        failed.append(f"the weights folder {folder} cannot be written: choose another with export TORCH_HOME=FOLDER")
    return {
        "machine": _describe_machine(),
        "packages": packages,
        "plugins": plugins,
        "missing": find_missing(),
        "problems": find_clashes(packages) + failed,
    }


def find_missing() -> dict[str, str]:
    """Return the extras of which packages are missing: which ones, and the command that installs them."""
    missing: dict[str, list[str]] = {}
    with contextlib.suppress(metadata.PackageNotFoundError):  # a checkout that is not installed
        for line in metadata.requires("resnest-backbones") or ():
            name, *extra = re.findall(r"^[\w.-]+|(?<=extra == .)[\w-]+", line)
            if extra and extra[0] in _EXTRAS and not [*metadata.distributions(name=name)]:
                missing.setdefault(extra[0], []).append(name)
    return {e: f"{', '.join(names)}: pip install 'resnest-backbones[{e}]'" for e, names in missing.items()}


def find_clashes(packages: Mapping[str, str], python: tuple[int, int] | None = None) -> list[str]:
    """Return the combinations that are known not to work, each with its remedy.

    Args:
        packages: distributions and their versions.
        python: version of Python, major and minor; the running one's if None.
    """
    problems = []
    python = sys.version_info[:2] if python is None else python
    if not (3, 10) <= python < (3, 14):
        problems.append(f"Python {python[0]}.{python[1]} is not supported: use 3.10 to 3.13")
    for rivals in _RIVALS:
        found = [name for name in rivals if name in packages]
        if len(found) > 1:
            remedy = f"pip uninstall -y {' '.join(found)} && {INSTALL.get(found[0], f'pip install {found[0]}')}"
            problems.append(f"{' and '.join(found)} install the same files: {remedy}")
    if _version(packages.get("numpy")) < (2,) and "onedl-mmcv" in packages:
        problems.append(f"onedl-mmcv needs numpy 2, got {packages.get('numpy', 'none')}: pip install 'numpy>=2'")
    if not packages.keys().isdisjoint(_RIVALS[0]) and _version(packages.get("setuptools")) >= (81,):
        problems.append(
            f"Detectron2's model zoo needs pkg_resources, which setuptools {packages['setuptools']} no longer has: "
            "pip install 'setuptools<81'"
        )
    torch, torchvision = _version(packages.get("torch")), _version(packages.get("torchvision"))
    if torch[0] == 2 and torchvision[0] == 0 and torchvision[1:2] != (torch[1] + _TORCHVISION_OFFSET,):
        wanted = f"0.{torch[1] + _TORCHVISION_OFFSET}"
        problems.append(
            f"torch {packages['torch']} needs torchvision {wanted}, got {packages.get('torchvision', 'none')}: "
            f"pip install 'torchvision=={wanted}.*'"
        )
    return problems


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", (text or "0").partition("+")[0])[:3])


def _import_plugin(framework: str) -> str:
    try:
        if importlib.util.find_spec(framework) is None:
            return f"not installed: {INSTALL[framework]}"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            importlib.import_module(PLUGINS[framework])
            found = importlib.import_module(framework)
    except Exception as error:
        return f"fails to import: {type(error).__name__}: {''.join(str(error).splitlines()[:1])}"
    operators, needed = _OPERATORS[framework]
    missing = f"; without compiled operators: {needed} do not work, everything else does"
    version = getattr(found, "__version__", "of no version")
    return f"works, {framework} {version}{'' if importlib.util.find_spec(operators) else missing}"


def _describe_machine() -> dict[str, str]:
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    facts = {
        "resnest_backbones": resnest_backbones.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "gpus": ", ".join(gpus) or "none visible to PyTorch",
        "cuda of torch": torch.version.cuda or "none",
        "threads": str(torch.get_num_threads()),
        "weights cache": str(default_cache_dir()),
    }
    if os.environ.get(MIRROR_VARIABLE):
        facts[MIRROR_VARIABLE] = os.environ[MIRROR_VARIABLE]
    return facts
