"""Whether ``--cfg-options`` change something: MMEngine takes any key, and a mistyped one has no effect."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import mmseg.registry
from mmengine.config import Config, DictAction
from mmengine.registry import Registry
from mmengine.runner import Runner

from resnest_backbones.errors import ConfigError

# What MMEngine's runner, its training tool and this package read at the top of a config.
_READ = {*inspect.signature(Runner.__init__).parameters} - {"self", "cfg"}
_READ |= {"custom_imports", "tta_model", "tta_pipeline", "runner_type", "compile", "find_unused_parameters"}
_READ |= {"model_wrapper_cfg", "sync_bn", "env"}
_CLOSE = 0.75  # ratio from which a key that nothing knows is taken for a mistyped one


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of ``KEY=VALUE`` words, as MMEngine's command lines read them.

    Raises:
        ConfigError: a word has no ``=``, or a value has brackets that do not match.
    """
    for word in words:
        if not word.partition("=")[0].strip() or "=" not in word:
            raise ConfigError(f"a setting must be KEY=VALUE, without spaces, got {word!r}")
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*", action=DictAction)
    try:
        return dict(parser.parse_args(["--", *words]).words) if words else {}
    except (AssertionError, ValueError) as error:
        raise ConfigError(f"the settings {' '.join(words)} cannot be read: {error}") from error


def check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Refuse options that would change nothing.

    Raises:
        ConfigError: a key that neither the config nor what it configures has, with the nearest one; or a variable of
            the config file, which was read before, with the keys that have its value.
    """
    for key in options:
        first = key.partition(".")[0]
        where: list[str] = []
        if first == "data_preprocessor" and first in cfg.get("model", {}):  # which comes before the one at the top
            where = [f"model.{key}"]
        elif first in cfg and first not in _READ:
            paths = (path for path in _paths_of(cfg, cfg[first]) if path.partition(".")[0] in _READ)
            where = [f"{path}{key[len(first) :]}" for path in paths]
        else:
            _check_key(cfg, key)
            continue
        remedy = f"; set {', '.join(where)} instead" if where else ""
        reason = f"{first} is a variable of the config file, which is read before"
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
        elif not isinstance(node, Mapping) and not isinstance(node, Config):
            return  # a value becomes a dict
        elif part in node:
            node = node[part]
        else:
            known, complete = (_READ, True) if node is cfg else _parameters(node)
            known = known | set(node)
            near = get_close_matches(part, known, n=1, cutoff=_CLOSE)
            if part not in known and (complete or near):
                all_of_it = f"it may have {', '.join(sorted(known))}" if node is not cfg else "nothing reads it"
                hint = f"did you mean {near[0]!r}?" if near else all_of_it
                raise ConfigError(f"the setting {key}: {parent} has no {part!r}; {hint}")
            return


def _parameters(settings: Mapping[str, Any]) -> tuple[set[str], bool]:
    """Return the arguments of what settings build, and whether there are no others."""
    kind = settings.get("type")
    if isinstance(kind, str):
        registries = (value for value in vars(mmseg.registry).values() if isinstance(value, Registry))
        kind = next(filter(None, (registry.get(kind) for registry in registries)), None)
    found: set[str] = set()
    for cls in inspect.getmro(kind) if inspect.isclass(kind) else ():
        constructor = vars(cls).get("__init__")
        parameters = inspect.signature(constructor).parameters.values() if constructor else ()
        found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if parameters and all(p.kind != p.VAR_KEYWORD for p in parameters):
            return found, True
    return found, False


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
