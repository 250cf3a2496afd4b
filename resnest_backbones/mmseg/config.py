"""Reading MMSegmentation's configs, with settings that take effect, and changing them: data, augmentation, hooks."""

from __future__ import annotations

import argparse
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmseg.registry
from mmengine.config import Config, DictAction
from mmengine.registry import Registry
from mmengine.runner import Runner

from resnest_backbones.data import find_class_file, read_classes
from resnest_backbones.errors import ConfigError, did_you_mean

# What MMEngine's runner, its training tool and this package read at the top of a config.
_READ = {*inspect.signature(Runner.__init__).parameters} - {"self", "cfg"}
_READ |= {"custom_imports", "tta_model", "tta_pipeline", "runner_type", "compile", "find_unused_parameters"}
_READ |= {"model_wrapper_cfg", "sync_bn", "env"}
_ASPP_DILATIONS = {8: (1, 12, 24, 36), 16: (1, 6, 12, 18)}  # by output stride
_SPLITS = {"train": "training", "val": "validation", "test": "validation"}


def load_config(file: str | Path, options: Sequence[str] = ()) -> Config:
    """Return a config file with settings of the command line, words like ``KEY=VALUE``.

    Raises:
        ConfigError: the file, or one that it builds on, does not exist; or a setting is none, or would change nothing.
    """
    if not os.path.isfile(file):
        raise ConfigError(f"config must be a file, got {file}")
    try:
        cfg = Config.fromfile(file)
    except Exception as error:  # a config is a program
        raise ConfigError(f"{file} cannot be read as a config: {str(error) or type(error).__name__}") from error
    if settings := parse_options(options):
        for key in settings:
            _check_effect(cfg, key)
        cfg.merge_from_dict(settings)
    return cfg


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of ``KEY=VALUE`` words, as MMEngine's command lines read them; refuse what they cannot."""
    for word in words:
        if not word.partition("=")[0].strip() or "=" not in word:
            raise ConfigError(f"a setting must be KEY=VALUE, without spaces, got {word!r}")
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*", action=DictAction)
    try:
        return dict(parser.parse_args(["--", *words]).words) if words else {}
    except (AssertionError, ValueError) as error:
        raise ConfigError(f"the settings {' '.join(words)} cannot be read: {error}") from error


def _check_effect(cfg: Config, key: str) -> None:
    """Refuse a setting that would change nothing: MMEngine takes any key, and a mistyped one has no effect.

    A key that neither the config nor what it configures has is refused with the nearest one; a variable of the config
    file, which was read before, with the keys that have its value.
    """
    first = key.partition(".")[0]
    if first == "data_preprocessor" and first in cfg.get("model", {}):  # which comes before the one at the top
        where = [f"model.{key}"]
    elif first in cfg and first not in _READ:
        paths = (path for path in _paths_of(cfg, cfg[first]) if path.partition(".")[0] in _READ)
        where = [f"{path}{key[len(first) :]}" for path in paths]
    else:
        return _check_key(cfg, key)
    remedy = f"; set {', '.join(where)} instead" if where else ""
    reason = f"{first} is a variable of the config file, which is evaluated earlier"
    raise ConfigError(f"the setting {key} changes nothing: {reason}{remedy}")


def _check_key(cfg: Config, key: str) -> None:
    node: Any = cfg
    parts = key.split(".")
    for number, part in enumerate(parts):
        parent = ".".join(parts[:number]) or "a config"
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(f"the setting {key}: {parent} has {len(node)} entries, got {part!r}")
            node = node[int(part)]
        elif not isinstance(node, (Mapping, Config)):
            return  # a value becomes a dict
        elif part in node:
            node = node[part]
        else:
            known, complete = (_READ, True) if node is cfg else _parameters(node)
            known = known | set(node)
            near = did_you_mean(part, known, "")
            if part not in known and (complete or near):
                all_of_it = f"it may have {', '.join(sorted(known))}" if node is not cfg else "nothing reads it"
                raise ConfigError(f"the setting {key}: {parent} has no {part!r}; {near or all_of_it}")
            return


def _parameters(settings: Mapping[str, Any]) -> tuple[set[str], bool]:
    """Return the arguments of what settings build, and whether there are no others."""
    kind = settings.get("type")
    if isinstance(kind, str):
        kind = next(filter(None, (registry.get(kind) for registry in registries())), None)
    found: set[str] = set()
    for cls in inspect.getmro(kind) if inspect.isclass(kind) else ():
        constructor = vars(cls).get("__init__")
        parameters = inspect.signature(constructor).parameters.values() if constructor else ()
        found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if parameters and all(p.kind != p.VAR_KEYWORD for p in parameters):
            return found, True
    return found, False


def registries() -> list[Registry]:
    """Return the registries of MMSegmentation."""
    return [value for value in vars(mmseg.registry).values() if isinstance(value, Registry)]


def _paths_of(node: Any, value: Any, path: str = "") -> Iterator[str]:
    """Find the keys in a config that have a value."""
    if path and type(node) is type(value) and node == value:
        yield path
    elif isinstance(node, (Mapping, Config)):
        for key, inner in node.items():
            yield from _paths_of(inner, value, f"{path}.{key}" if path else key)
    elif isinstance(node, (list, tuple)):
        for number, inner in enumerate(node):
            yield from _paths_of(inner, value, f"{path}.{number}")


def type_name(settings: Any) -> str:
    """Return the name of what a config builds, given as ``Name``, ``scope.Name`` or the class."""
    kind = settings.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def as_list(settings: Any) -> list[Any]:
    """Return a list of settings, also where there is a single one."""
    return list(settings) if isinstance(settings, (list, tuple)) else [settings]


def inner_datasets(settings: Any) -> Sequence[Any]:
    """Return the configs of the datasets below wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""
    if settings.get("dataset") is not None:
        return inner_datasets(settings.dataset)
    if settings.get("datasets") is not None:
        return [inner for one in settings.datasets for inner in inner_datasets(one)]
    return [settings]


def add_hook(cfg: Config, name: str) -> None:
    """Add a custom hook without arguments, unless the config has it."""
    hooks = list(cfg.get("custom_hooks") or [])
    if all(type_name(hook) != name for hook in hooks if isinstance(hook, dict)):
        cfg.custom_hooks = [*hooks, {"type": name}]


def remove_hook(cfg: Config, name: str) -> None:
    """Remove a custom hook, which the dumped config of another run may have."""
    hooks = cfg.get("custom_hooks") or []
    cfg.custom_hooks = [hook for hook in hooks if not isinstance(hook, dict) or type_name(hook) != name]


def describe_output_stride(cfg: Config) -> list[str]:
    """Return a line where the config's name or its ASPP is of another output stride than its ResNeStBackbone.

    A config of MMSegmentation whose ResNet was replaced has neither strides nor dilations, and trains all the same.
    """
    backbone = cfg.model.get("backbone") or {}
    if "type" not in backbone or type_name(backbone) != "ResNeStBackbone":
        return []
    named = re.search(r"-d(8|16)[-_]", Path(cfg.filename or "").name)
    rates = {tuple(head.get("dilations", ())) for head in as_list(cfg.model.get("decode_head") or {})}
    meant = int(named[1]) if named else next((stride for stride, own in _ASPP_DILATIONS.items() if own in rates), None)
    has = backbone.get("output_stride", 32)
    if meant in (None, has):
        return []
    why = f"the config's name says d{meant}" if named else f"its ASPP has the dilations for output stride {meant}"
    return [f"ResNeStBackbone has output_stride={has}, but {why}: set model.backbone.output_stride={meant}"]


def use_test_time_augmentation(cfg: Config) -> None:
    """Replace model and test pipeline by ``tta_model`` and ``tta_pipeline``; refuse a config without them."""
    missing = [name for name in ("tta_model", "tta_pipeline") if not cfg.get(name)]
    if missing:
        raise ConfigError(f"--tta needs {' and '.join(missing)} in the config")
    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def use_custom_dataset(cfg: Config, data_root: str | Path, class_file: str | Path | None = None) -> None:
    """Replace the datasets of a config by one in ADE20K's layout, and fit heads and evaluators to its classes.

    Pipelines and wrappers of the datasets stay; only the loading of labels becomes one that checks them. The class file
    is the one in ``data_root`` where None; one that is missing or wrong is a ``DatasetError``.
    """
    found = find_class_file(data_root) if class_file is None else class_file
    fit_heads(cfg, len(read_classes(found)))
    for name, split in _SPLITS.items():
        if cfg.get(f"{name}_dataloader"):
            loader = cfg[f"{name}_dataloader"]
            loader.dataset = _custom_dataset(loader.dataset, split, str(data_root), str(found))
        if cfg.get(f"{name}_evaluator"):
            cfg[f"{name}_evaluator"] = _evaluators_of_label_maps(cfg[f"{name}_evaluator"])
    if cfg.get("tta_pipeline"):
        cfg.tta_pipeline = _with_checked_labels(cfg.tta_pipeline)


def fit_heads(cfg: Config, num_classes: int) -> None:
    """Give the heads of a config's model another number of classes, and drop class weights that do not fit."""
    heads = [cfg.model.get(name) for name in ("decode_head", "auxiliary_head")]
    for head in [one for some in heads if some for one in as_list(some)]:
        head["num_classes"] = num_classes
        head.pop("out_channels", None)  # a single channel is for two classes only; the head's default is one per class
        for loss in as_list(head.get("loss_decode") or []):
            weight = loss.get("class_weight")
            if weight is not None and (isinstance(weight, str) or len(weight) != num_classes):
                del loss["class_weight"]


def _custom_dataset(settings: Any, split: str, data_root: str, class_file: str) -> dict[str, Any]:
    """Return the dataset's config; a wrapper of a single dataset stays around it, a concatenation becomes one."""
    if settings.get("dataset") is not None:
        wrapper = {key: _with_checked_labels(settings[key]) for key in settings if key != "dataset"}
        return {**wrapper, "dataset": _custom_dataset(settings.dataset, split, data_root, class_file)}
    first = inner_datasets(settings)[0]
    kept = {key: _with_checked_labels(first[key]) for key in ("pipeline", "test_mode", "ignore_index") if key in first}
    folders = {"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"}
    return {"type": "LabelMapDataset", "data_root": data_root, "data_prefix": folders, "class_file": class_file, **kept}


def _with_checked_labels(settings: Any) -> Any:
    """Return a pipeline whose label maps are read by ``LoadCheckedAnnotations``, as the dataset says they are."""
    if isinstance(settings, Mapping):
        if type_name(settings) in ("LoadAnnotations", "LoadCheckedAnnotations"):
            kept = {"backend_args": settings["backend_args"]} if "backend_args" in settings else {}
            return {"type": "LoadCheckedAnnotations", **kept}
        return {key: _with_checked_labels(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):  # transforms tell them from each other
        return type(settings)(map(_with_checked_labels, settings))
    return settings


def _evaluators_of_label_maps(settings: Any) -> list[dict[str, Any]]:
    """Return those that need nothing but label maps; others, such as Cityscapes', know their own dataset only."""
    kept = [
        {key: value for key, value in evaluator.items() if key not in ("format_only", "output_dir")}
        for evaluator in as_list(settings)
        if type_name(evaluator) == "IoUMetric"
    ]
    return kept or [{"type": "IoUMetric", "iou_metrics": ["mIoU"]}]
