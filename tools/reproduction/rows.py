"""Choosing rows by name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from resnest_backbones.model_zoo import RECIPES, Recipe


class RowError(ValueError):
    """There is no row of that name."""


def select_rows(patterns: Sequence[str]) -> list[Recipe]:
    """The rows that names, patterns with ``*`` and ``?``, or data sets choose; in the order of the records, each once.

    Args:
        patterns: ``faster_rcnn_resnest50_fpn_1x``, ``mask_rcnn_*``, ``ade20k``; all rows where there are none.

    Raises:
        RowError: one of them chooses nothing.
    """
    for pattern in patterns:
        if not any(_fits(recipe, pattern) for recipe in RECIPES.values()):
            raise RowError(f"ROW must be a name, a pattern, or a data set of `list`, got {pattern!r}")
    return [row for row in RECIPES.values() if not patterns or any(_fits(row, pattern) for pattern in patterns)]


def _fits(recipe: Recipe, pattern: str) -> bool:
    return pattern == recipe.dataset or fnmatchcase(recipe.name, pattern)
