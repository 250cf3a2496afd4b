"""Detectron2's configs with settings of the command line; what has no effect or no sense is refused in one line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import detectron2.modeling as detectron2_modeling
import yaml
from detectron2.config import CfgNode, LazyConfig, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.utils.registry import locate
from fvcore.common.registry import Registry
from omegaconf import DictConfig, ListConfig

from resnest_backbones.detectron2.config import add_resnest_config
from resnest_backbones.errors import ConfigError, did_you_mean

_UNKNOWN = re.compile(r"[Nn]on-existent (?:config )?key: (\S+)")
_UNREGISTERED = re.compile(r"No object named '(.*)' found in '(.*)' registry")
_NO_DATASET = re.compile(r"(Dataset '(.*)' is not registered)! Available")
_ENGINE = {"seed"}  # of ``train`` in a LazyConfig, beside what Detectron2's own have


def load_yaml_config(file: str, options: Sequence[str] = ()) -> CfgNode:
    """Return a YAML config with the ResNeSt keys, and with settings as ``KEY VALUE`` words.

    Raises:
        ConfigError: the file or a setting cannot be used; the message names the key, or the nearest of an unknown one.
    """
    cfg = get_cfg()
    add_resnest_config(cfg)
    try:
        cfg.merge_from_file(file)
    except (AssertionError, KeyError, ValueError, yaml.YAMLError) as error:
        key = _UNKNOWN.search(str(error))
        reason = _unknown(cfg, key[1].strip("'\"")) if key else f"it cannot be read as a config: {error}"
        raise ConfigError(f"{file}: {reason}") from error
    merge_options(cfg, options)
    return cfg


def merge_options(cfg: CfgNode, words: Sequence[str]) -> None:
    """Set keys of a config, in place, as ``CfgNode.merge_from_list`` does.

    Raises:
        ConfigError: a key is unknown, has no value or one of another type.
    """
    known = {*_keys(cfg)}
    for number, key in enumerate(words):
        if number % 2:
            continue
        if key.startswith("--"):
            raise ConfigError(f"options must come before config overrides, got {key} after {words[0]}")
        if "=" in key:
            raise ConfigError(f"overrides of a YAML config are KEY VALUE: {' '.join(key.split('=', 1))}, got {key}")
        if number + 1 == len(words) or (len(words) % 2 and words[number + 1] in known):
            raise ConfigError(f"overrides of a YAML config are KEY VALUE pairs, but {key} has no value")
        try:
            cfg.merge_from_list([key, words[number + 1]])
        except (AssertionError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(_reason(cfg, key, words[number + 1], known)) from error


def _reason(cfg: CfgNode, key: str, value: str, known: set[str]) -> str:
    if key not in known:
        return _unknown(cfg, key)
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return f"{key} must be of type {type(node).__name__}, such as {node!r}, got {value!r}"


def _unknown(cfg: CfgNode, key: str) -> str:
    known = [*_keys(cfg)]
    if below := [name for name in known if name.startswith(f"{key}.")]:
        return f"{key} is a group of keys, such as {below[0]}"
    inner = [name for name in known if name.endswith(f".{key.upper()}")]
    hint = f"did you mean {inner[0]}?" if inner else did_you_mean(key, known, "a run's config.yaml lists all keys")
    return f"a config has no key {key!r}; {hint}"


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def load_lazy_config(file: str, options: Sequence[str] = ()) -> DictConfig:
    """Return a LazyConfig with settings as ``key=value`` words.

    Raises:
        ConfigError: the file or a setting cannot be used, or a setting would change nothing.
    """
    try:
        cfg: DictConfig = LazyConfig.load(file)
    except Exception as error:  # a LazyConfig is a program
        raise ConfigError(f"{file} cannot be read as a config: {error or type(error).__name__}") from error
    return merge_lazy_options(cfg, options)


def merge_lazy_options(cfg: DictConfig, words: Sequence[str]) -> DictConfig:
    """Set keys of a LazyConfig, in place; see ``load_lazy_config``."""
    for word in words:
        if word.startswith("--"):
            raise ConfigError(f"options must come before config overrides, got {word} after {words[0]}")
        if "=" not in word:
            raise ConfigError(f"overrides of a LazyConfig are key=value, without spaces, got {word!r}")
        if word[0] not in "+~":
            _check_lazy_key(cfg, word.partition("=")[0])
        try:
            LazyConfig.apply_overrides(cfg, [word])
        except Exception as error:  # of hydra and omegaconf, which have many
            reason = str(error).splitlines() or [type(error).__name__]
            raise ConfigError(f"the setting {word} cannot be used: {reason[0]}") from error
    return cfg


def _check_lazy_key(cfg: DictConfig, key: str) -> None:
    """Refuse a key that nothing reads: omegaconf adds any."""
    node: Any = cfg
    for part in key.split("."):
        if isinstance(node, ListConfig) or not isinstance(node, DictConfig):
            return
        if part in node:
            node = node[part]
            continue
        target = node.get("_target_")
        target = locate(target) if isinstance(target, str) else target
        parameters = inspect.signature(target).parameters if target is not None else {}
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        known = {*map(str, node), *parameters, *(_ENGINE if node is cfg.get("train") else ())}
        nearest = did_you_mean(part, known, "")
        if part not in known and (nearest or not takes_any):
            hint = nearest or f"it may have {', '.join(sorted(known))}"
            raise ConfigError(f"the setting {key}: there is no {part!r}; {hint}")
        return


def name_nearest(message: str) -> str:
    """Return Detectron2's message about an unregistered name with the nearest ones; other messages as they are."""
    if found := _NO_DATASET.match(message):
        hint = did_you_mean(found[2], DatasetCatalog.list(), "DatasetCatalog knows none like it")
        return f"{found[1]}; {hint}"
    found = _UNREGISTERED.search(message)
    registries = [r for r in vars(detectron2_modeling).values() if isinstance(r, Registry)]
    names = [name for r in registries if found and r._name == found[2] for name, _ in r]
    if not found or not names:
        return message
    return f"{found[2]} has no {found[1]!r}; {did_you_mean(found[1], names, 'it has ' + ', '.join(names))}"
