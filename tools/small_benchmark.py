#!/usr/bin/env python
"""Train ResNeSt-50 and ResNet-50 with one recipe on two small datasets, from scratch and pre-trained on digits.

The pre-training on digits is one per network; from its checkpoint, every layer is taken but those of the classes. The
datasets are not part of this project: --data is a folder with bccd/ and nuclei/, see MODEL_ZOO.md. The same command
continues after an interruption; further seeds are added. The metrics are written to small_benchmark.json in the output
folder.

python tools/small_benchmark.py --data data
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.small_records import (
    DATASETS,
    NETWORKS,
    STARTS,
    SmallRecord,
    SmallRun,
    read_records,
    small_table,
    write_record,
)
from checkout import ROOT, TOOLS, environment_with_package
from resnest_backbones.errors import ConfigError, DatasetError, ResNeStError, add_verbose, one_line_errors
from resnest_backbones.outputs import last_evaluation


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder containing bccd/ and nuclei/")
    parser.add_argument("--output-dir", type=Path, default=Path("small_benchmark"), help="default: %(default)s")
    text = "cpu is shorter (default: gpu if available)"
    parser.add_argument("--recipe", choices=("gpu", "cpu"), help=text)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    datasets = tuple(DATASETS)
    parser.add_argument("--datasets", nargs="+", choices=datasets, default=datasets, help="default: all of them")
    add_verbose(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides for every run, after --")
    return parser


def run(arguments: list[str] | None = None) -> None:
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds must be distinct numbers, 0 or more, got {' '.join(map(str, args.seeds))}")
    command = shlex.join(["python", "tools/small_benchmark.py", *(sys.argv[1:] if arguments is None else arguments)])
    with one_line_errors(parser.prog, verbose=args.verbose):
        benchmark(args, command)


def benchmark(args: argparse.Namespace, command: str) -> None:
    """Pre-train, then train all combinations seed by seed, and write the record of a dataset after each training."""
    import torch

    from machine import describe_machine

    args.recipe = args.recipe or ("gpu" if torch.cuda.is_available() else "cpu")
    file = args.output_dir / "small_benchmark.json"
    records = read_records(file) if file.is_file() else {}
    for record in records.values():
        earlier = build_argument_parser().parse_args(shlex.split(record.command)[2:])
        if (record.recipe, earlier.opts) != (args.recipe, args.opts):
            raise ConfigError(f"{file} has different settings ({record.command}); choose another --output-dir")
    options = {name: [*data_options(args.data / name), *args.opts] for name in args.datasets}
    pretraining = next((record.pretraining for record in records.values()), None) or {
        network: pretrain(network, args.output_dir, args.recipe, args.opts) for network in NETWORKS
    }
    runs = {name: list(records[name].runs) if name in records else [] for name in args.datasets}
    combinations = list(itertools.product(args.seeds, args.datasets, STARTS, NETWORKS))
    for number, (seed, name, start, network) in enumerate(combinations, start=1):
        if any((run.seed, run.start, run.network) == (seed, start, network) for run in runs[name]):
            continue
        how = {"output_dir": args.output_dir, "recipe": args.recipe, "options": options[name]}
        runs[name].append(transfer(name, network, start, seed, **how))
        about = describe_machine()
        machine = f"{about['machine']}, {about['threads']} threads"
        facts = (command, about["date"], machine, about["versions"])
        write_record(SmallRecord(name, args.recipe, *facts, pretraining, tuple(runs[name])), file)
        print(f"[{number}/{len(combinations)}] {name}: {runs[name][-1]}", flush=True)
    print(f"\n{small_table(read_records(file))}\nwritten: {file}")


def config_file(method: str, network: str, dataset: str, recipe: str) -> Path:
    suffix = "_cpu" if recipe == "cpu" else ""
    return ROOT / "configs" / "detectron2" / "small" / f"{method}_{network}_fpn_{dataset}{suffix}.yaml"


def data_options(folder: Path) -> list[str]:
    """Return the options of ``tools/train_net.py`` for a dataset's folder."""
    images, (train, val) = folder / "images", (folder / "annotations" / f"instances_{s}.json" for s in ("train", "val"))
    if missing := [path for path in (images, train, val) if not path.exists()]:
        raise DatasetError(
            f"{folder} must hold images/ and annotations/instances_{{train,val}}.json, {missing[0]} does not exist"
        )
    return _options(train, images, val, images)


def _options(train_json: Path, train_images: Path, val_json: Path, val_images: Path) -> list[str]:
    options = {"train-json": train_json, "train-images": train_images, "val-json": val_json, "val-images": val_images}
    return [word for name, path in options.items() for word in (f"--{name}", str(path))]


def pretrain(network: str, output_dir: Path, recipe: str, options: Sequence[str] = ()) -> float:
    """Train a network on digits, or use what ``output_dir`` holds of that; return its box AP on held-out digits."""
    from demonstration.common import make_dataset

    digits = make_dataset(output_dir / "digits", num_train=1000, num_val=100)
    data = _options(digits.train_json, digits.train_images, digits.val_json, digits.val_images)
    config = config_file("mask_rcnn", network, "digits", recipe)
    metrics = train(output_dir / f"digits_{network}", config, [*data, *options, "SEED", "1"])
    return _percent(metrics, "bbox/AP")


def transfer(
    dataset: str, network: str, start: str, seed: int, *, output_dir: Path, recipe: str, options: Sequence[str]
) -> SmallRun:
    """Train a network on a dataset; options are those of ``data_options``, and keys and values for the config."""
    words = [*options, "SEED", str(seed)]
    if start == "digits":
        words += ["MODEL.WEIGHTS", str(output_dir / f"digits_{network}" / "model_final.pth")]
    config = config_file(DATASETS[dataset].method, network, dataset, recipe)
    begin = time.monotonic()
    metrics = train(output_dir / f"{dataset}_{network}_{start}_{seed}", config, words)
    percent = {name: _percent(metrics, name) for name in DATASETS[dataset].metrics}
    return SmallRun(network, start, seed, percent, round(time.monotonic() - begin))


def train(folder: Path, config: Path, options: Sequence[str]) -> dict[str, float]:
    """Train, from where an earlier training in the folder stopped; return the metrics of its last evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "console.txt"
    words = ["--resume", "--config-file", str(config), *options, "OUTPUT_DIR", str(folder)]
    with open(log, "a") as stream:
        done = subprocess.run(
            [sys.executable, TOOLS / "train_net.py", *words],
            stdout=stream, stderr=subprocess.STDOUT, env=environment_with_package(os.environ),
        )  # fmt: skip
    if done.returncode:
        raise ResNeStError(f"{config.stem} failed with status {done.returncode}; its log is {log}")
    metrics = last_evaluation(folder)
    if not metrics:
        raise ResNeStError(f"{folder / 'metrics.json'} has no evaluation metrics")
    return metrics


def _percent(metrics: Mapping[str, float], name: str) -> float:
    """Return a metric; a detector that finds nothing has an AP of 0, which Detectron2 gives as NaN or not at all."""
    value = metrics.get(name, math.nan)
    return 0.0 if math.isnan(value) else round(value, 3)


if __name__ == "__main__":
    run()
