#!/usr/bin/env python
"""Check on a GPU that networks compute there what they compute on a CPU, and measure them beside their peers.

First the tests marked `gpu`, then a fixed list of measurements, the most telling first, within the minutes given. What
there is so far is written after each of them. Beside PyTorch and torchvision it needs matplotlib, pytest,
pytest-timeout, tabulate and tqdm; the peers `resnest` and `timm` take part where they are installed. Packages may come
as wheels of pure Python, which are unpacked, not installed.

python tools/check_gpu.py --output-dir docs/benchmark/gpu
python tools/check_gpu.py --device cpu --quick --output-dir rehearsal
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SHARE_OF_TESTS = 0.4  # of the time, at most
_COMPILATION = 180  # seconds, about, of the contenders of a case
_SIZES = [(480, 480, 16), (800, 1216, 2)]  # of the recipes of segmentation and detection, and images


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default: cuda; use cpu for a rehearsal")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder for the report")
    parser.add_argument("--minutes", type=float, default=8.0, metavar="N", help="total time limit (default: 8)")
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="per measurement (default: 11)")
    parser.add_argument("--quick", action="store_true", help="test only two networks, and measure on small images")
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="folder of wheels for packages that are not installed"
    )
    return parser


def run(arguments: Sequence[str] | None = None) -> int:
    """Run tests and measurements; the exit status is that of the tests."""
    args = build_argument_parser().parse_args(arguments)
    start = time.monotonic()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as unpacked:
        _unpack(args.wheels, Path(unpacked))
        sys.path += [str(ROOT), unpacked]
        status = _test(args, unpacked)
        command = shlex.join(["python", "tools/check_gpu.py", *(sys.argv[1:] if arguments is None else arguments)])
        _measure(args, command, until=start + 60 * args.minutes)
    print(f"{time.monotonic() - start:.0f} s, written: {args.output_dir}")
    return status


def _unpack(wheels: Path | None, folder: Path) -> None:
    """Unpack wheels of packages that cannot be imported; a wheel's name begins with the package's."""
    for wheel in sorted(wheels.glob("*.whl")) if wheels is not None else ():
        if find_spec(wheel.name.partition("-")[0]) is None:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)


def _test(args: argparse.Namespace, unpacked: str) -> int:
    """Run the tests marked `gpu`, printing as they go; their log is kept."""
    paths = [str(ROOT), unpacked, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "RESNEST_TEST_DEVICE": args.device,
        "RESNEST_TEST_QUICK": str(int(args.quick)),
    }
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    deadline = time.monotonic() + 60 * args.minutes * _SHARE_OF_TESTS
    with (
        open(args.output_dir / "tests.txt", "w", encoding="utf-8") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            log.write(line)
            if time.monotonic() > deadline:
                process.kill()
                log.write("stopped: the tests used up their share of the time\n")
    return process.returncode


def _cases(quick: bool) -> Iterator[tuple[object, list[str] | None]]:
    """Yield what is measured, and patterns of the contenders: eager ones first, then a few compiled ones."""
    from benchmarks.cases import Case

    networks = ["resnest50", "resnest101"]
    dtypes = ("float32",) if quick else ("bfloat16", "float32", "float16")  # without hardware for it, minutes each
    sizes = [(64, 96, 2)] if quick else _SIZES
    for dtype, what, network, size in itertools.product(dtypes, ("training", "inference"), networks, sizes):
        yield Case(network, *size, dtype, what), None
    size = sizes[0]
    for what in ("training", "inference"):
        case = Case("resnest50", *size, dtypes[0], what, compiled=True)
        yield case, ["ours", "ours, channels_last", "ours, optimised", "ours*compiled", "*channels_last, compiled"]


def _measure(args: argparse.Namespace, command: str, until: float) -> None:
    import torch

    from benchmarks.measure import measure
    from benchmarks.report import table, write_report
    from machine import describe_machine

    device = torch.device(args.device)
    about = {**describe_machine(device), "rounds": args.rounds, "command": command}
    results, longest = [], 0.0
    for case, only in _cases(args.quick):
        begun = time.monotonic()
        if begun + max(longest, _COMPILATION if case.compiled else 0) > until:
            print(f"skipped, out of time: {case}", flush=True)
            continue
        try:
            results.append(measure(case, rounds=args.rounds, device=device, only=only))
        except torch.cuda.OutOfMemoryError as error:
            print(f"skipped: {case}: {str(error).splitlines()[0]}", flush=True)
            continue
        longest = max(longest, time.monotonic() - begun)
        print(table(results[-1]), flush=True)
        write_report(args.output_dir, results, about)


if __name__ == "__main__":
    sys.exit(run())
