"""``tools/reproduce.py smoke``: every row end to end in minutes, so that a broken recipe is found before it costs days.

A row goes the way of ``run``, with its own config and its own network: it trains, evaluates, is tested at one scale and
with test-time augmentation where it publishes such figures, and its figures are read. Made smaller are the data (a tiny
data root of ``smoke_data``), images, iterations, batch and proposals; weights are random, since nothing is downloaded.
The figures mean nothing. All runs on the CPU, and checkpoints are removed at the end of a row.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from checkout import environment_with_package
from reproduction.console import Console
from reproduction.execute import Job, RunError, row_command, run_row
from reproduction.launch import Launch, environment_of_rows
from reproduction.machine import machine_here, versions_of
from reproduction.processes import start_fork
from reproduction.results import ResultError, read_result
from reproduction.rows import RowError, select_rows
from reproduction.run import Terminated, add_console_options, report_failures, signals_as_interrupt
from reproduction.smoke_data import make_smoke_data
from reproduction.steps import Plan, make_steps
from resnest_backbones.model_zoo import Recipe, get_config

DATA_FOLDER = "data"
_FRAMEWORKS = ("detectron2", "mmseg")

# Detectron2: what an iteration and an image take their time for. Steps of the schedule beyond its end fall away.
_DETECTRON2 = (
    "MODEL.WEIGHTS=",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN=100",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN=50",
    "MODEL.RPN.PRE_NMS_TOPK_TEST=50",
    "MODEL.RPN.POST_NMS_TOPK_TEST=20",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=16",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0",  # there are detections to evaluate, whatever an untrained model finds
    "TEST.DETECTIONS_PER_IMAGE=10",
    "TEST.PRECISE_BN.NUM_ITER=2",
    "INPUT.MIN_SIZE_TRAIN=(96,128)",
    "INPUT.MIN_SIZE_TEST=96",
    "SOLVER.IMS_PER_BATCH=2",
    "DATALOADER.NUM_WORKERS=0",
)
_SIZE = 8  # MMSegmentation: sides of crops and images are divided by it
_TTA_SIZE = 4  # and those of test-time augmentation, which are factors on the images, by this
_TEST_IMAGES = 2


def smoke_settings(recipe: Recipe, iterations: int) -> list[str]:
    """What makes a row small: KEY=VALUE of its framework.

    Args:
        recipe: the row.
        iterations: of training.

    Raises:
        ImportError: the row's framework is not installed.
    """
    if recipe.framework == "mmseg":
        return [*_mmseg_settings(get_config(recipe.name), iterations)]
    # Without its package panoptic quality cannot be computed: boxes and masks alone are evaluated.
    without_pq = ["DATASETS.TEST=('coco_2017_val',)"] if lacks_panoptic_evaluation(recipe) else []
    return [*_DETECTRON2, f"SOLVER.MAX_ITER={iterations}", *without_pq]


def lacks_panoptic_evaluation(recipe: Recipe) -> bool:
    """Whether a row's PQ cannot be computed here."""
    return "pq" in recipe.metrics and find_spec("panopticapi") is None


def _mmseg_settings(cfg: Any, iterations: int) -> Iterator[str]:
    yield "model.backbone.init_cfg=None"
    yield from _smaller("model.data_preprocessor", cfg.model.data_preprocessor, ("size",))
    yield from _smaller("model.test_cfg", cfg.model.test_cfg, ("crop_size", "stride"))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        training = loader == "train_dataloader"
        yield from (f"{loader}.num_workers=0", f"{loader}.persistent_workers=False")
        yield f"{loader}.dataset.indices={2 * iterations if training else _TEST_IMAGES}"
        for number, transform in enumerate(cfg[loader].dataset.pipeline):
            yield from _smaller(f"{loader}.dataset.pipeline.{number}", transform, ("scale", "crop_size", "size"))
    yield "train_dataloader.batch_size=2"
    yield from _smaller_tta(cfg)
    if cfg.train_cfg.type == "IterBasedTrainLoop":
        yield from (f"train_cfg.max_iters={iterations}", f"train_cfg.val_interval={iterations}")
        yield f"param_scheduler.0.end={iterations}"
    else:
        yield from ("train_cfg.max_epochs=1", "train_cfg.val_interval=1")
    yield "default_hooks.logger.interval=1"


def _smaller_tta(cfg: Any) -> Iterator[str]:
    if cfg.tta_model.type == "PaperTTAModel":  # its numbers are its defaults, those of the published evaluation
        yield from (f"tta_model.{key}={value // _SIZE}" for key, value in _PAPER_TTA.items())
        return
    for number, transform in enumerate(cfg.tta_pipeline):
        for place, choice in enumerate(transform.get("transforms", [[]])[0]):
            key = f"tta_pipeline.{number}.transforms.0.{place}.scale_factor"
            yield f"{key}={choice['scale_factor'] / _TTA_SIZE}"


_PAPER_TTA = {"base_size": 520, "crop_size": 480, "stride": 320}


def _smaller(key: str, settings: Any, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if settings.get(name) is not None:
            sides = ",".join(str(max(side // _SIZE, 1)) for side in settings[name])
            yield f"{key}.{name}=({sides})"


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smoke``."""
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("reproduced_smoke"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--iterations", type=int, default=2, metavar="N", help="of training, 2 or more (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="leave rows that passed as they are")
    add_console_options(parser)


def main(args: argparse.Namespace) -> int:
    """Run rows; 0 where all passed, 1 where one failed, 2 where the command is wrong, 128 + N after signal N."""
    try:
        recipes = sorted(select_rows(args.rows), key=lambda recipe: _FRAMEWORKS.index(recipe.framework))
        if args.iterations < 2:
            raise RunError(f"--iterations must be 2 or more, got {args.iterations}")
        if not args.resume:
            for recipe in recipes:
                _remove_earlier(args.output_dir / recipe.name)
        make_smoke_data(args.output_dir / DATA_FOLDER)
    except (FileExistsError, ImportError, ResultError, RowError, RunError) as error:
        print(f"reproduce.py smoke: error: {error}", file=sys.stderr)
        return 2
    try:
        with signals_as_interrupt():
            return _smoke(recipes, args)
    except Terminated as error:
        return error.status


def _remove_earlier(folder: Path) -> None:
    """Remove what an earlier smoke run of a row left, and nothing else."""
    if not folder.exists():
        return
    result = read_result(folder)
    if result is None or not result.smoke:
        raise RunError(f"{folder} must be what `smoke` left there, got something else; choose another --output-dir")
    shutil.rmtree(folder)


def _smoke(recipes: Sequence[Recipe], args: argparse.Namespace) -> int:
    console = Console(every=args.progress_every, verbose=args.verbose)
    failed: list[tuple[Job | None, str, str]] = []
    for number, recipe in enumerate(recipes, start=1):
        console.begin(number, len(recipes), recipe.name)
        begin = time.monotonic()
        job = None
        try:
            job = make_job(recipe, args.output_dir, args.iterations)
            if lacks_panoptic_evaluation(recipe):
                console.say("panopticapi is not installed: evaluated without PQ")
            result = run_row(job, console)
            error = result.error if result.state != "finished" else ""
        except (ImportError, ResultError, RunError) as caught:
            error = str(caught)
        console.say(f"{'FAILED' if error else 'passed'} after {time.monotonic() - begin:.0f} s")
        if error:
            failed.append((job, recipe.name, error))
        elif job is not None:
            _remove_checkpoints(job.folder)
    print(f"\n{len(recipes) - len(failed)} of {len(recipes)} rows passed", flush=True)
    return report_failures(failed)


def make_job(recipe: Recipe, output_dir: Path, iterations: int) -> Job:
    """The smoke run of a row.

    Args:
        recipe: the row.
        output_dir: of all rows; holds the data, too.
        iterations: of training.

    Raises:
        ImportError: the row's framework is not installed.
    """
    plan = Plan(output_dir, output_dir / DATA_FOLDER, Launch(), tuple(smoke_settings(recipe, iterations)))
    environment = {**environment_of_rows(os.environ), "CUDA_VISIBLE_DEVICES": ""}
    return Job(
        recipe,
        plan.folder(recipe),
        make_steps(recipe, plan),
        row_command("smoke", recipe, ["--iterations", str(iterations)], output_dir, []),
        machine_here(plan.launch),
        versions_of(recipe),
        environment_with_package(environment),
        smoke=True,
        start=start_fork,
    )


def _remove_checkpoints(folder: Path) -> None:
    for file in folder.rglob("*.pth"):
        file.unlink()
