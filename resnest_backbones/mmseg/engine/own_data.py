"""Any config on a data set of one's own in ADE20K's layout: ``--data-root`` of the tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from resnest_backbones.data import find_class_file, read_classes
from resnest_backbones.mmseg.engine.run_setup import inner_datasets, type_name

_SPLITS = {"train": "training", "val": "validation", "test": "validation"}
_LABEL_LOADERS = ("LoadAnnotations", "LoadCheckedAnnotations")
_KEPT_OF_A_DATASET = ("pipeline", "test_mode", "ignore_index")
_KEPT_OF_A_LABEL_LOADER = ("backend_args",)


def use_data_root(cfg: Config, data_root: str | Path, class_file: str | Path | None = None) -> None:
    """Replace the data sets of a config by one in ADE20K's layout, and fit the heads and evaluators to its classes.

    Pipelines and wrappers of the data sets stay; only the loading of labels becomes one that checks them.

    Args:
        cfg: a config of MMSegmentation; it is changed.
        data_root: root of the data set.
        class_file: names of its classes; the one in the root where None.

    Raises:
        DatasetError: the class file is missing or wrong.
    """
    found = find_class_file(data_root) if class_file is None else class_file
    num_classes = len(read_classes(found))
    for name, split in _SPLITS.items():
        if cfg.get(f"{name}_dataloader"):
            loader = cfg[f"{name}_dataloader"]
            loader.dataset = _own_dataset(loader.dataset, split, str(data_root), str(found))
        if cfg.get(f"{name}_evaluator"):
            cfg[f"{name}_evaluator"] = _own_evaluators(cfg[f"{name}_evaluator"])
    if cfg.get("tta_pipeline"):
        cfg.tta_pipeline = _with_checked_labels(cfg.tta_pipeline)
    fit_heads(cfg, num_classes)


def _own_dataset(settings: Any, split: str, data_root: str, class_file: str) -> dict[str, Any]:
    """The data set's config; a wrapper of a single data set stays around it, a concatenation becomes one."""
    if settings.get("dataset") is not None:
        wrapper = {key: _with_checked_labels(settings[key]) for key in settings if key != "dataset"}
        return {**wrapper, "dataset": _own_dataset(settings.dataset, split, data_root, class_file)}
    first = inner_datasets(settings)[0]
    kept = {key: first[key] for key in _KEPT_OF_A_DATASET if key in first}
    if "pipeline" in kept:
        kept["pipeline"] = _with_checked_labels(kept["pipeline"])
    folders = {"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"}
    own = {"type": "LabelMapDataset", "data_root": data_root, "data_prefix": folders, "class_file": class_file}
    return {**own, **kept}


def _with_checked_labels(settings: Any) -> Any:
    """A pipeline whose label maps are read by ``LoadCheckedAnnotations``, as the data set says they are."""
    if isinstance(settings, Mapping):
        if type_name(settings) in _LABEL_LOADERS:
            kept = {key: settings[key] for key in _KEPT_OF_A_LABEL_LOADER if key in settings}
            return {"type": "LoadCheckedAnnotations", **kept}
        return {key: _with_checked_labels(value) for key, value in settings.items()}
    if isinstance(settings, tuple):  # transforms tell them from lists
        return tuple(map(_with_checked_labels, settings))
    if isinstance(settings, list):
        return list(map(_with_checked_labels, settings))
    return settings


def as_list(settings: Any) -> Sequence[Any]:
    """A list of settings, also where there is one alone."""
    return list(settings) if isinstance(settings, (list, tuple)) else [settings]


def _own_evaluators(settings: Any) -> list[dict[str, Any]]:
    """Those that need nothing but label maps; others, such as Cityscapes', know their own data set only."""
    drop = ("format_only", "output_dir")
    kept = [
        {key: value for key, value in evaluator.items() if key not in drop}
        for evaluator in as_list(settings)
        if type_name(evaluator) == "IoUMetric"
    ]
    return kept or [{"type": "IoUMetric", "iou_metrics": ["mIoU"]}]


def fit_heads(cfg: Config, num_classes: int) -> None:
    """Give the heads of a config's model another number of classes, and drop weights of classes that do not fit."""
    heads = [cfg.model.get(name) for name in ("decode_head", "auxiliary_head")]
    for head in [one for some in heads if some for one in as_list(some)]:
        head["num_classes"] = num_classes
        head.pop("out_channels", None)  # a single channel is for two classes only; the head's default is one per class
        for loss in as_list(head.get("loss_decode") or []):
            weight = loss.get("class_weight")
            if weight is not None and (isinstance(weight, str) or len(weight) != num_classes):
                del loss["class_weight"]
