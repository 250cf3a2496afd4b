"""Trainings from Python, one function for each framework; the command lines call them too.

``resnest-backbones train-net`` and ``train-seg`` have the same options. A framework is imported when its function is
called.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import get_config_file
from resnest_backbones.outputs import Training, last_checkpoint, last_evaluation

__all__ = ["Training", "detectron2_output_dir", "train_detector", "train_segmentor"]


def train_detector(
    config: str,
    *,
    train: tuple[str, str] | None = None,
    val: tuple[str, str] | None = None,
    opts: Sequence[str] = (),
    resume: bool = False,
    eval_only: bool = False,
    verbose: bool = False,
    num_gpus: int = 1,
    timeout: float = 1800.0,
    **processes: Any,
) -> Training:
    """Train a detector by Detectron2, or evaluate one.

    Args:
        config: a config file, .yaml or .py, or the name of a packaged config.
        train: a json in COCO format and the folder of its images, instead of the config's data; needs ``val``.
        val: likewise, to evaluate on.
        opts: settings of the config: KEY, VALUE, ... for .yaml; "key=value", ... for .py.
        resume: go on from the last checkpoint in the output folder.
        eval_only: evaluate ``MODEL.WEIGHTS`` instead of training.
        verbose: print the config.
        num_gpus: GPUs, or processes on the CPU, of this machine.
        timeout: seconds to wait for a process that does not answer.
        **processes: ``num_machines``, ``machine_rank`` and ``dist_url`` of ``detectron2.engine.launch``.

    Raises:
        ResNeStError: config, data or weights cannot be used, or the loss diverged; the message names what is wrong.
        OSError: the output folder cannot be written.

    Examples:
        >>> from resnest_backbones.train import train_detector
        >>> data = {"train": ("train.json", "images"), "val": ("val.json", "images")}
        >>> done = train_detector("faster_rcnn_resnest50_fpn_1x_1gpu", **data)  # doctest: +SKIP
        >>> done.metrics["bbox/AP"], done.model  # doctest: +SKIP
        (41.5, PosixPath('output/model_final.pth'))
    """
    from detectron2.engine import launch
    from detectron2.evaluation.testing import flatten_results_dict

    if train and not val:
        raise ConfigError("training data requires validation data: val=(json, image folder)")
    (train_json, train_images), (val_json, val_images) = train or (None, None), val or (None, None)
    args = argparse.Namespace(
        config_file=get_config_file(config),
        opts=[*opts],
        resume=resume,
        eval_only=eval_only,
        verbose=verbose,
        num_gpus=num_gpus,
        train_json=train_json,
        train_images=train_images,
        val_json=val_json,
        val_images=val_images,
    )
    folder = detectron2_output_dir(config, opts)  # before the training, during which the config file may change
    results: dict[str, Any] = {}
    launch(_detectron2_main, num_gpus, timeout=timedelta(seconds=timeout), args=(args, results), **processes)
    # What other processes found is in their log.
    metrics = flatten_results_dict(results) or {k: v for k, v in last_evaluation(folder).items() if "/" in k}
    return Training(folder, metrics, None if eval_only else last_checkpoint(folder))


def detectron2_output_dir(config: str, opts: Sequence[str] = ()) -> Path:
    """Return the output folder that a config and its overrides name."""
    from resnest_backbones.detectron2.options import load_lazy_config, load_yaml_config

    file = get_config_file(config)
    if file.endswith(".py"):
        return Path(load_lazy_config(file, opts).train.output_dir)
    return Path(load_yaml_config(file, opts).OUTPUT_DIR)


def _detectron2_main(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Train in a process of ``launch``; the caller sees the results where that is its own process."""
    from resnest_backbones.detectron2.engine.train import main

    results.update(main(args))


def train_segmentor(
    config: str,
    *,
    data_root: str | None = None,
    classes: str | None = None,
    cfg_options: Sequence[str] = (),
    work_dir: str | None = None,
    resume: bool = False,
    amp: bool = False,
    tensorboard: int | None = None,
    verbose: bool = False,
    launcher: str = "none",
    local_rank: int = 0,
) -> Training:
    """Train a segmentor by MMSegmentation.

    Args:
        config: a config file, or the name of a packaged config.
        data_root: a dataset in ADE20K's layout, instead of the config's.
        classes: a file of its classes' names, one per line; by default ``classes.txt`` of the dataset.
        cfg_options: settings of the config, "key=value", ...
        work_dir: the output folder; by default ``work_dirs/`` and the config's name.
        resume: go on from the last checkpoint in the output folder.
        amp: train with automatic mixed precision.
        tensorboard: also write TensorBoard's files, with every N-th validation image drawn.
        verbose: print the config.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``: what started this process among others.
        local_rank: number of this process on its machine.

    Raises:
        ResNeStError: config, data or weights cannot be used, or the loss diverged; the message names what is wrong.
        OSError: the output folder cannot be written.

    Examples:
        >>> from resnest_backbones.train import train_segmentor
        >>> recipe = "deeplabv3_resnest50-d8_1xb4-20k_custom-512x512"
        >>> train_segmentor(recipe, data_root="my_data").metrics["mIoU"]  # doctest: +SKIP
        71.3
    """
    options = argparse.Namespace(**{**locals(), "config": get_config_file(config), "cfg_options": [*cfg_options]})
    from resnest_backbones.mmseg.engine.train import train

    return train(options)
