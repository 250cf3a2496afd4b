#!/usr/bin/env python
"""Make a small data set, train a small ResNeSt-FPN detector on it, evaluate it and draw what it finds.

About five minutes on two CPU cores. What is there already is used again: started anew after an interruption, it goes on
from the last checkpoint; after a finished training it draws the pictures again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def build_argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/make_demo.py --output-dir quick --iterations 50 --num-train 100 --num-val 20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output-dir", type=Path, default=Path("demo_output"), help="default: %(default)s")
    parser.add_argument("--iterations", type=int, help="of training; fewer are quicker and learn less (default: all)")
    parser.add_argument("--num-train", type=int, help="training images (default: 1000)")
    parser.add_argument("--num-val", type=int, help="held-out images (default: 100)")
    return parser


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the demonstration and say where everything is."""
    parser = build_argument_parser()
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    start = time.perf_counter()
    # After parsing: --help and a mistake on the command line need not wait for these.
    from resnest_backbones.detectron2.demo import report, run_detection_demo

    print(f"Everything goes to {given['output_dir']}; after an interruption, the same command goes on.", flush=True)
    try:
        demo = run_detection_demo(**given)
    except (ValueError, FileExistsError, ImportError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(f"\n{parser.prog}: interrupted; the same command goes on from the last checkpoint")
    print(report(demo, seconds=time.perf_counter() - start))


if __name__ == "__main__":
    run()
