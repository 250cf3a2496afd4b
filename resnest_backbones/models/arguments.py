"""The trunk's options, and their checks: an error names the argument, what is allowed and what came."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypedDict

from torch import nn

NormLayer = Callable[[int], nn.Module]
STAGES = ("res2", "res3", "res4", "res5")
FEATURES = ("conv1", "stem", *STAGES, "logits")


class TrunkOptions(TypedDict, total=False):
    """The options of ``models.ResNeSt`` that every wrapper of it takes; described there."""

    output_stride: int
    avg_pool_at_stride_1: bool
    out_features: Sequence[str]
    in_channels: int
    num_classes: int | None
    multi_grid: Sequence[int] | None
    deform_stages: Collection[str]
    deform_modulated: bool
    deform_groups: int
    drop_path_rate: float
    drop_block_rate: float
    gradient_checkpointing: bool
    recompute: bool | str
    zero_init_last_norm: bool


class ResNeStOptions(TrunkOptions, total=False):
    """All options of ``models.ResNeSt``; a framework's own class has other ways to name a norm."""

    norm_layer: NormLayer | None
    attention_norm_layer: NormLayer | None


def is_positive(value: object) -> bool:
    """Return whether it is an integer of 1 or more; True is not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_positive(argument: str, value: object) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer of 1 or more."""
    if not is_positive(value):
        raise ValueError(f"{argument} must be a positive integer, got {value!r}")


def check_flags(**flags: object) -> None:
    """Refuse values that are neither True nor False, by the arguments' names."""
    for argument, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{argument} must be True or False, got {value!r}")


def check_rates(**rates: object) -> None:
    """Refuse values that are no probabilities below 1, by the arguments' names."""
    for argument, value in rates.items():
        if not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
            raise ValueError(f"{argument} must be a number in [0, 1), got {value!r}")


def check_recompute(value: object) -> None:
    """Refuse a value that is neither "auto" nor True nor False."""
    if value != "auto" and not isinstance(value, bool):
        raise ValueError(f'recompute must be "auto", True or False, got {value!r}')


def check_norm_layers(**norm_layers: object) -> None:
    """Refuse values that are neither None nor callable, and modules, whose call computes, by the arguments' names."""
    for argument, value in norm_layers.items():
        if value is not None and (not callable(value) or isinstance(value, nn.Module)):
            raise ValueError(f"{argument} must be a callable from channels to a module, or None, got {value!r}")


def check_choice(argument: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not one of a few."""
    if value not in allowed:
        *most, last = (str(choice) for choice in sorted(allowed))  # type: ignore[type-var]
        raise ValueError(f"{argument} must be {', '.join(most)}{' or ' if most else ''}{last}, got {value!r}")


def check_names(argument: str, names: Collection[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Return the names in the order of ``allowed``; refuse unknown ones and a bare string."""
    one = isinstance(names, str) or not isinstance(names, Collection)
    wrong = [names] if one else [name for name in names if name not in allowed]
    if wrong:
        raise ValueError(f"{argument} must be a sequence of {', '.join(allowed)}, got {wrong[0]!r}")
    return tuple(name for name in allowed if name in names)


def check_out_features(names: Sequence[str], num_classes: int | None) -> tuple[str, ...]:
    """Return the features in network order, with ``logits`` where there are classes."""
    features = check_names("out_features", names, FEATURES)
    if not features:
        raise ValueError(f"out_features must name at least one of {', '.join(FEATURES)}, got none")
    if "logits" in features and num_classes is None:
        raise ValueError("num_classes must be a positive integer if out_features has 'logits', got None")
    if num_classes is not None and "logits" not in features:
        features = (*features, "logits")
    return features


def stages_to_build(features: Sequence[str]) -> tuple[str, ...]:
    """Return the stages up to the last feature asked for; the parameters of others would get no gradient."""
    if "logits" in features:
        return STAGES
    return STAGES[: max(FEATURES.index(name) - 1 for name in features)] if features != ("conv1",) else ()


def check_multi_grid(grid: Sequence[int] | None, depth: int, *, built: bool) -> tuple[int, ...] | None:
    """Return the factors on res5's dilations, one per block, or None."""
    if grid is None:
        return None
    if not built:
        raise ValueError(f"multi_grid must be None if res5 is not built, got {grid!r}")
    if not isinstance(grid, Sequence) or len(grid) != depth or not all(is_positive(factor) for factor in grid):
        raise ValueError(f"multi_grid must be {depth} positive integers, one per block of res5, got {grid!r}")
    return tuple(grid)
