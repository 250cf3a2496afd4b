#!/usr/bin/env python
"""Make a small dataset, train a small detector and a small segmentor on it, evaluate them and draw their predictions.

A ResNeSt-FPN Faster R-CNN with Detectron2 and a DeepLabV3 with MMSegmentation; the part whose framework is not
installed is skipped. About ten minutes on two CPU cores. Finished parts are reused: after an interruption, the same
command resumes from the last checkpoint; after a finished training, it draws the pictures again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

# What the extra `demo` installs, of what is imported here.
_OF_DEMO = {"PIL", "jinja2", "matplotlib", "pycocotools", "scipy", "skimage", "sklearn", "tqdm"}
FRAMEWORKS = {"detection": "detectron2", "segmentation": "mmseg"}


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/make_demo.py --output-dir quick --iterations 50 --num-train 100 --num-val 20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output-dir", type=Path, default=Path("demo_output"), help="default: %(default)s")
    parser.add_argument("--only", choices=tuple(FRAMEWORKS), help="run only this part (default: both)")
    parser.add_argument("--iterations", type=int, help="training iterations; fewer are faster but learn less")
    parser.add_argument("--num-train", type=int, help="training images (default: 1000)")
    parser.add_argument("--num-val", type=int, help="held-out images (default: 100)")
    return parser


def choose(only: str | None, installed: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the parts to run (``only`` one, or all), and notes on those whose framework is not ``installed``."""
    wanted = [only] if only else list(FRAMEWORKS)
    chosen = [name for name in wanted if FRAMEWORKS[name] in installed]
    notes = [
        f"Skipping the {name} part, because {FRAMEWORKS[name]} is not installed (see README.md)."
        for name in wanted
        if name not in chosen
    ]
    if not chosen:
        raise ImportError(f"nothing to run: {' '.join(notes)}")
    return chosen, notes


def run(arguments: Sequence[str] | None = None) -> None:
    parser = build_argument_parser()
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    start = time.perf_counter()
    try:
        chosen, notes = choose(given.pop("only", None), [name for name in FRAMEWORKS.values() if find_spec(name)])
        print(f"Writing to {given['output_dir']}; run the same command again after an interruption.", flush=True)
        # Not at the top: --help and a mistake on the command line need not wait for the frameworks.
        from demonstration.common import report

        finished = {}
        for name in chosen:
            if name == "detection":
                from demonstration.detection import train_detector as train
            else:
                from demonstration.segmentation import train_segmentor as train
            finished[name] = train(**given)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in _OF_DEMO:
            raise  # of a training, perhaps, for which the extra is no remedy
        parser.error(f"{error}: pip install '.[demo]'")
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != 130:  # which a training ends with after Ctrl-C
            raise
        print(f"\n{parser.prog}: interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    print("", *notes, report(finished, seconds=time.perf_counter() - start), sep="\n")


if __name__ == "__main__":
    run()
