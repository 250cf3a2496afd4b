#!/usr/bin/env python
"""Train ResNeSt-50 and ResNet-50 on two small data sets, from scratch and pre-trained on digits, with several seeds.

The data are not part of this project; --data names a folder with bccd/ and nuclei/, see MODEL_ZOO.md. What the output
folder holds is used again, so the same command goes on after an interruption. The figures go into small_benchmark.json
there, beside those of other data sets.

python tools/small_benchmark.py --data data
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch

from benchmarks.small_benchmark import (
    DATASETS,
    RECIPES,
    BenchmarkError,
    SmallRecord,
    read_records,
    run_benchmark,
    small_table,
    write_record,
)
from machine import describe_machine


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds bccd/ and nuclei/")
    parser.add_argument("--output-dir", type=Path, default=Path("small_benchmark"), help="default: %(default)s")
    default = "gpu" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--recipe", choices=RECIPES, default=default, help="cpu is shorter (default here: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument(
        "--datasets", nargs="+", choices=tuple(DATASETS), default=list(DATASETS), help="default: all of them"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="for the config of every training, behind --")
    return parser


def run(arguments: list[str] | None = None) -> None:
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    about = describe_machine()
    machine = f"{about['machine']}, {about['threads']} threads"
    command = shlex.join(["python", "tools/small_benchmark.py", *(sys.argv[1:] if arguments is None else arguments)])
    file = args.output_dir / "small_benchmark.json"
    try:
        progress = run_benchmark(
            args.data,
            args.output_dir,
            recipe=args.recipe,
            seeds=args.seeds,
            datasets=args.datasets,
            options=args.opts,
        )
        for number, (dataset, pretraining, runs) in enumerate(progress, start=1):
            date, versions = describe_machine()["date"], about["versions"]
            record = SmallRecord(dataset, args.recipe, command, date, machine, versions, pretraining, tuple(runs))
            write_record(record, file)
            print(f"[{number}/{4 * len(args.datasets) * len(args.seeds)}] {dataset}: {runs[-1]}", flush=True)
    except (BenchmarkError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    print(f"\n{small_table(read_records(file))}\nwritten: {file}")


if __name__ == "__main__":
    run()
