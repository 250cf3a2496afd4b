#!/usr/bin/env python
"""Train ResNeSt-50 and ResNet-50 with one recipe on two small datasets, from scratch and pre-trained on digits.

The pre-training on digits is one per network; from its checkpoint, every layer is taken but those of the classes. The
datasets are not part of this project: --data names a folder with bccd/ and nuclei/, see MODEL_ZOO.md. The same command
continues after an interruption; further seeds are added. The metrics are written to small_benchmark.json in the output
folder.

python tools/small_benchmark.py --data data
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from pathlib import Path

from benchmarks.small_records import DATASETS, NETWORKS, STARTS, SmallRecord, read_records, small_table, write_record
from resnest_backbones.errors import ConfigError, add_verbose, one_line_errors


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with bccd/ and nuclei/")
    parser.add_argument("--output-dir", type=Path, default=Path("small_benchmark"), help="default: %(default)s")
    text = "cpu is shorter (default: gpu where there is one)"
    parser.add_argument("--recipe", choices=("gpu", "cpu"), help=text)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    datasets = tuple(DATASETS)
    parser.add_argument("--datasets", nargs="+", choices=datasets, default=datasets, help="default: all of them")
    add_verbose(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys for every training, after --")
    return parser


def run(arguments: list[str] | None = None) -> None:
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds must be different numbers, 0 or more, got {' '.join(map(str, args.seeds))}")
    command = shlex.join(["python", "tools/small_benchmark.py", *(sys.argv[1:] if arguments is None else arguments)])
    with one_line_errors(parser.prog, verbose=args.verbose):
        benchmark(args, command)


def benchmark(args: argparse.Namespace, command: str) -> None:
    """Pre-train, then train all combinations seed by seed, and write the record of a dataset after each training."""
    import torch

    from benchmarks.small_training import data_options, pretrain, transfer
    from machine import describe_machine

    args.recipe = args.recipe or ("gpu" if torch.cuda.is_available() else "cpu")
    file = args.output_dir / "small_benchmark.json"
    records = read_records(file) if file.is_file() else {}
    for record in records.values():
        earlier = build_argument_parser().parse_args(shlex.split(record.command)[2:])
        if (record.recipe, earlier.opts) != (args.recipe, args.opts):
            raise ConfigError(f"{file} is of other settings ({record.command}); choose another --output-dir")
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


if __name__ == "__main__":
    run()
