"""The tables of README.md and MODEL_ZOO.md, made from the records; a test fails where a file and the records differ."""

from __future__ import annotations

import re
from collections.abc import Callable

from resnest_backbones.recipes import RECIPES, Recipe
from resnest_backbones.variants import VARIANTS, ResNeStSpec
from resnest_backbones.weights import WEIGHTS

_MARKED = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _variant_row(spec: ResNeStSpec) -> str:
    record = WEIGHTS.get(spec.name)
    published = (f"{record.top1:.2f}", str(record.crop), f"`{record.filename}`") if record else ("", "", "")
    return _row(
        f"`{spec.name}`",
        str(spec.radix),
        str(spec.cardinality),
        f"{(spec.params or 0) / 1e6:.2f}",
        f"{(spec.multiply_adds or 0) / 1e9:.2f}",
        *published,
    )


def variants_table() -> str:
    """Every network: radix, cardinality, cost, and what was published of its ImageNet weights."""
    head = (
        "network", "radix", "cardinality", "parameters (M)", "multiply-adds (G, 224 x 224)", "published top-1 (%)",
        "crop", "published file",
    )  # fmt: skip
    rows = [_row(*head), _row("---", *["---:"] * 6, "---"), *map(_variant_row, VARIANTS.values())]
    return "\n".join(rows) + "\n"


def _percent(recipe: Recipe, metric: str) -> str:
    """A published figure as the sources print it; nothing where they give none."""
    value = recipe.figures.get(metric)
    if value is None:
        return ""
    return f"{value:.2f}" if recipe.framework == "detectron2" else f"{value:g}"


def _detector_row(recipe: Recipe) -> str:
    return _row(
        f"`{recipe.name}`", *(_percent(recipe, metric) for metric in ("box_ap", "mask_ap", "pq")), recipe.source
    )


def detectron2_table() -> str:
    """Every Detectron2 recipe that has published figures, with them."""
    rows = [
        _row("recipe", "published box AP, COCO val2017 (%)", "mask AP (%)", "PQ (%)", "source"),
        _row("---", *["---:"] * 3, "---"),
    ]
    rows += [_detector_row(recipe) for recipe in RECIPES.values() if recipe.framework == "detectron2"]
    return "\n".join(rows) + "\n"


def _segmentor_row(recipe: Recipe) -> str:
    multi = _percent(recipe, "miou_multi_scale")
    if "miou_scales_not_stated" in recipe.figures:
        multi = f"{_percent(recipe, 'miou_scales_not_stated')} (scales not stated)"
    accuracy = _percent(recipe, "pix_acc_multi_scale")
    return _row(f"`{recipe.name}`", _percent(recipe, "miou"), multi, accuracy, recipe.source)


def mmseg_table() -> str:
    """Every MMSegmentation recipe that has a published figure, with it."""
    head = (
        "recipe", "published mIoU, one scale (%)", "mIoU, several scales and flip (%)", "pixel accuracy, likewise (%)",
        "source",
    )  # fmt: skip
    rows = [_row(*head), _row("---", *["---:"] * 3, "---")]
    rows += [_segmentor_row(recipe) for recipe in RECIPES.values() if recipe.framework == "mmseg"]
    return "\n".join(rows) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "variants": variants_table,
    "detectron2": detectron2_table,
    "mmseg": mmseg_table,
}


def fill_tables(text: str) -> str:
    """Replace what stands between the markers of each table by the table as the records have it.

    Raises:
        ValueError: a marker names a table that there is none of.
    """

    def table(match: re.Match[str]) -> str:
        if match["name"] not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, got {match['name']!r}")
        return f"{match[1]}{TABLES[match['name']]()}{match[3]}"

    return _MARKED.sub(table, text)
