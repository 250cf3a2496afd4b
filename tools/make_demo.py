#!/usr/bin/env python
"""Make a small data set, train a small detector and a small segmentor on it, evaluate them and draw what they find.

A ResNeSt-FPN Faster R-CNN with Detectron2, and a DeepLabV3 with MMSegmentation; one that is not installed is left out.
About ten minutes on two CPU cores. What is there already is used again: started anew after an interruption, it goes
on from the last checkpoint; after a finished training it draws the pictures again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

FRAMEWORKS = {"detection": "detectron2", "segmentation": "mmseg"}


def build_argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/make_demo.py --output-dir quick --iterations 50 --num-train 100 --num-val 20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output-dir", type=Path, default=Path("demo_output"), help="default: %(default)s")
    parser.add_argument("--only", choices=tuple(FRAMEWORKS), help="leave the other one out (default: both)")
    parser.add_argument("--iterations", type=int, help="of training; fewer are quicker and learn less (default: all)")
    parser.add_argument("--num-train", type=int, help="training images (default: 1000)")
    parser.add_argument("--num-val", type=int, help="held-out images (default: 100)")
    return parser


def choose_demos(only: str | None, installed: Collection[str]) -> tuple[list[str], list[str]]:
    """Which demonstrations to run, and notes for the user on those that cannot be.

    Args:
        only: the one that was asked for; None for all.
        installed: names of the frameworks that are there.

    Raises:
        ImportError: the framework of the one asked for is missing, or all are.
    """
    wanted = [only] if only else list(FRAMEWORKS)
    chosen = [name for name in wanted if FRAMEWORKS[name] in installed]
    notes = [
        f"The {name} demo is left out, because it needs {FRAMEWORKS[name]}, which is not installed (see README.md)."
        for name in wanted
        if name not in chosen
    ]
    if not chosen:
        raise ImportError(f"there is nothing to run: {' '.join(notes)}")
    return chosen, notes


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the demonstrations and say where everything is."""
    parser = build_argument_parser()
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    start = time.perf_counter()
    try:
        chosen, notes = choose_demos(given.pop("only", None), [name for name in FRAMEWORKS.values() if find_spec(name)])
        print(f"Everything goes to {given['output_dir']}; after an interruption, the same command goes on.", flush=True)
        # After parsing: --help and a mistake on the command line need not wait for these.
        from demonstration.common import report

        demos = {}
        for name in chosen:
            if name == "detection":
                from demonstration.detection import run_detection_demo as run_demo
            else:
                from demonstration.segmentation import run_segmentation_demo as run_demo
            demos[name] = run_demo(**given)
    except (ValueError, FileExistsError, ImportError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(f"\n{parser.prog}: interrupted; the same command goes on from the last checkpoint")
    print("", *notes, report(demos, seconds=time.perf_counter() - start), sep="\n")


if __name__ == "__main__":
    run()
