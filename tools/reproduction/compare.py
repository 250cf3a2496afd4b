"""Comparing what runs measured with what was published: the content of ``report.json``.

::

    format      2; grows when a key changes its meaning or goes
    output_dir  where the recipes were run
    totals      numbers of recipes: recipes, run, finished, running, failed, smoke, smoke_failed, broken, not_run,
                within, below, above. "run" are those that finished, run or failed on their real data; "finished" to
                "failed" and "within" to "above" are of them
    spread      a list of {dataset, metric, points, reason, source}; source is "" where the points are assumed
    problems    a list of texts: what is wrong in output_dir
    recipes     a list:
      name, framework, dataset, source    of its record
      state     "finished", "running", "failed", "not run", or "broken" where its files cannot be understood
      smoke     whether its metrics mean nothing
      published_file    whether the recipe's published file was evaluated, without a training
      verdict   "within", "below", "above" or null
      metrics   a list of {metric, measured, published, difference, spread, verdict, reason}: numbers in percent, or
                null; verdict as above; reason: why there is none, or ""
      error, machine, command, started, ended, versions, steps    of the run; empty where there is none
      log       path from the report to the log, or null
      metric_files    paths from the report to what the framework wrote about the training
      problems  a list of texts: what is wrong with its files
      record    the line of resnest_backbones.model_zoo.MEASURED for a finished run of the unchanged recipe, or of a
                network's published file; or ""

It tells no time but those of the runs: the same runs give the same report.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reproduction.common import ALL, NETWORKS, is_published_file
from reproduction.metrics import finite, training_files
from reproduction.run import LOG_FILE, RUN_FILE, STATES, Run, read_run
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import METRICS, Recipe


@dataclass(frozen=True)
class Spread:
    """By how much two runs of one recipe usually differ: within it, a metric counts as reproduced.

    Nobody measured it for these recipes: each record names what was said of the nearest thing, or that it is assumed.
    """

    points: float  # the largest usual difference, either way, in points of percent
    reason: str  # what was said where, in short; or why it is assumed
    source: str = ""  # where it was said; "" where it is assumed


_COCO_AP = Spread(
    0.3,
    "an author of MoCo calls a gap of 0.3 AP, between a user's run of a Mask R-CNN in Detectron2 and the published "
    "value, a reasonable random variation on COCO; others name 0.2 (Mask2Former issue 46) and 0.1 (GFocal issue 8)",
    "github.com/facebookresearch/moco issue 39",
)
_MIOU = {
    "ade20k": Spread(
        1.0,
        "a user saw mIoU differ by up to 1 to 2 points between seeds, and the author answered that ADE20K varies most "
        "of all datasets; the lower end is taken",
        "github.com/Visual-Attention-Network/SegNeXt issue 48",
    ),
    "pascal_context_59": Spread(0.5, "assumed to be that of Cityscapes; no source was found"),
    "cityscapes": Spread(
        0.5,
        "three runs of one PSPNet of MMSegmentation gave 75.06, 74.63 and 73.76, and a maintainer called the last an "
        "outlier; the others lie 0.43 apart",
        "github.com/open-mmlab/mmsegmentation issue 1208",
    ),
}

# Dataset -> metric -> its spread. Testing at several scales does not change how much trainings differ.
_AP = {name: _COCO_AP for name in ("box_ap", "mask_ap", "box_ap_test_dev", "mask_ap_test_dev")}
SPREADS: Mapping[str, Mapping[str, Spread]] = {
    "coco": _AP,
    "coco_panoptic": {**_AP, "pq": Spread(0.3, "assumed to be that of AP on COCO; no source was found")},
    **{
        dataset: {
            **dict.fromkeys(("miou", "miou_multi_scale", "miou_scales_not_stated"), spread),
            "pix_acc_multi_scale": Spread(0.3, "assumed; no source was found"),
        }
        for dataset, spread in _MIOU.items()
    },
    "imagenet": {
        "top1": Spread(
            0.3,
            "five trainings of a ResNet-50 had a standard deviation of 0.12 points, so two of them differ by less than "
            "0.3 nine times out of ten",
            "arXiv 1706.02677, table 1",
        )
    },
}


def read_report(recipes: Sequence[Recipe], output_dir: Path, folder: Path) -> dict[str, Any]:
    """Return the content at the top of this file, of runs in ``output_dir``, for a report in ``folder``."""
    entries = [_report_recipe(recipe, output_dir / recipe.name, folder) for recipe in recipes]
    unknown = sorted(file.parent for file in output_dir.glob(f"*/{RUN_FILE}") if file.parent.name not in ALL)
    real = [entry for entry in entries if not entry["smoke"]]
    states, verdicts = [entry["state"] for entry in real], [entry["verdict"] for entry in real]
    return {
        "format": 2,
        "output_dir": output_dir.as_posix(),
        "totals": {
            "recipes": len(entries),
            "run": sum(state in STATES for state in states),
            **{state: states.count(state) for state in ("finished", "running", "failed")},
            "smoke": len(entries) - len(real),
            "smoke_failed": sum(entry["smoke"] and entry["state"] == "failed" for entry in entries),
            "broken": states.count("broken"),
            "not_run": states.count("not run"),
            **{verdict: verdicts.count(verdict) for verdict in ("within", "below", "above")},
        },
        "spread": [
            {"dataset": dataset, "metric": metric, **asdict(spread)}
            for dataset, spreads in SPREADS.items()
            for metric, spread in spreads.items()
        ],
        "problems": [f"{unknown_folder} holds the run of an unknown recipe" for unknown_folder in unknown],
        "recipes": entries,
    }


def _report_recipe(recipe: Recipe, run_folder: Path, folder: Path) -> dict[str, Any]:
    """Return how a recipe stands by the files of its run; a file that cannot be understood is a problem of it alone."""
    run, state, problems = None, "not run", []
    try:
        run = read_run(run_folder)
        if run is not None:
            state = run.state
        elif any(not file.name.startswith(".") for file in run_folder.glob("*")):
            problems.append(f"{run_folder} holds files but no {RUN_FILE}")
    except (ConfigError, OSError) as error:
        state = "broken"
        problems.append(" ".join(str(error).split()))
    known = recipe.metrics.keys() | (run.metrics.keys() if run else set())
    metrics = [_compare(metric, recipe, run) for metric in METRICS if metric in known]
    verdicts = {entry["verdict"] for entry in metrics}
    log = run_folder / LOG_FILE
    return {
        **{key: getattr(recipe, key) for key in ("name", "framework", "dataset", "source")},
        "state": state,
        "smoke": run is not None and run.smoke,
        "published_file": bool(run and run.eval_only and is_published_file(recipe, run.eval_only)),
        "verdict": next((verdict for verdict in ("below", "above", "within") if verdict in verdicts), None),
        "metrics": metrics,
        **{name: getattr(run, name, "") for name in ("error", "machine", "command", "started", "ended")},
        "versions": dict(run.versions) if run else {},
        "steps": [{**asdict(step), "seconds": finite(step.seconds)} for step in run.steps] if run else [],
        "log": _relative(log, folder) if log.is_file() else None,
        "metric_files": [_relative(file, folder) for file in training_files(run_folder, recipe.framework)],
        "problems": problems,
        "record": _record(recipe, run),
    }


def _compare(metric: str, recipe: Recipe, run: Run | None) -> dict[str, Any]:
    """Return a metric beside the published one; a verdict where the run was real, finished, and gave a number."""
    measured, published = finite(run.metrics.get(metric)) if run else None, recipe.metrics.get(metric)
    spread = SPREADS[recipe.dataset].get(metric)
    points = spread.points if spread else None
    difference = verdict = None
    if measured is not None and published is not None and run is not None and not run.smoke:
        difference = round(measured - published, 2) + 0.0  # never -0.0
    reasons = [
        ("not measured", run is None),
        ("no verdict: smoke run", run and run.smoke),
        ("none published", published is None),
        ("no verdict: run with --set", run and run.settings),
        ("not a number", measured is None and run and metric in run.metrics),
        ("not measured", measured is None),
        (f"no verdict: {run and run.state}", run and run.state != "finished"),
        ("usual spread not known", spread is None),
    ]
    reason = next((text for text, holds in reasons if holds), "")
    if not reason and difference is not None and points is not None:
        verdict = "within" if abs(difference) <= points else "below" if difference < 0 else "above"
    found = {"metric": metric, "measured": measured, "published": published, "difference": difference}
    return found | {"spread": points, "verdict": verdict, "reason": reason}


def _record(recipe: Recipe, run: Run | None) -> str:
    """Return the line of ``MEASURED`` that records a finished run of the unchanged recipe; "" for another run.

    Of a network, that may be an evaluation of its published file.
    """
    if run is None or run.smoke or run.state != "finished" or run.settings:
        return ""
    if run.eval_only and not (recipe.name in NETWORKS and is_published_file(recipe, run.eval_only)):
        return ""
    metrics = {name: round(value, 2) for name in METRICS if (value := finite(run.metrics.get(name))) is not None}
    name, machine, date, command = map(json.dumps, (run.recipe, run.machine, run.ended[:10], run.command))
    return f"{name}: Measurement({name}, {json.dumps(metrics)}, {machine}, {date}, {command})," if metrics else ""


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()
