"""The tables of README.md, MODEL_ZOO.md and docs/, made from the records; a test finds those that drift."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

from benchmarks.small_benchmark import circumstances_table, small_table
from documents.costs import costs
from documents.key_tables import mmseg_keys_table, original_keys_table, wrapper_keys_table
from documents.markdown import row as _row
from documents.speed_tables import (
    choosing_table,
    memory_table,
    ratios_table,
    speed_circumstances_table,
    speed_table,
)
from resnest_backbones.model_zoo import MEASURED, METRICS, RECIPES, Recipe, get_config_file
from resnest_backbones.model_zoo import list as list_configs
from resnest_backbones.models.variants import VARIANTS, ResNeStSpec
from resnest_backbones.weights import WEIGHTS

_MARKED = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


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


def _rows_of(framework: str) -> list[Recipe]:
    return [recipe for recipe in RECIPES.values() if recipe.framework == framework]


def _percent(recipe: Recipe, metric: str) -> str:
    """A published figure as the sources print it; nothing where they give none."""
    value = recipe.metrics.get(metric)
    if value is None:
        return ""
    return f"{value:.2f}" if recipe.framework == "detectron2" else f"{value:g}"


def _measured(recipe: Recipe) -> str:
    """What a run gave, where, when and by which command; nothing where none was made."""
    run = MEASURED.get(recipe.name)
    if run is None:
        return ""
    figures = ", ".join(f"{METRICS[metric]} {value:.2f}" for metric, value in run.metrics.items())
    return f"{figures}; {run.machine}, {run.date}, `{run.command}`"


def _cost(recipe: Recipe) -> tuple[str, str]:
    cost = costs()[recipe.name]
    return f"{cost.parameters / 1e6:.1f}", f"{cost.multiply_adds / 1e9:.0f}"


def _file(recipe: Recipe) -> str:
    return f"`{recipe.file.name}`" if recipe.file and recipe.file.name else ""


def _detector_rows(recipe: Recipe) -> list[str]:
    figures = (_percent(recipe, metric) for metric in ("box_ap", "mask_ap", "pq"))
    rows = [_row(f"`{recipe.name}`", *figures, _measured(recipe), *_cost(recipe), _file(recipe))]
    if "box_ap_test_dev" in recipe.metrics:
        figures = (_percent(recipe, metric) for metric in ("box_ap_test_dev", "mask_ap_test_dev", "pq"))
        rows.append(_row(f"`{recipe.name}_test_dev`", *figures, "", *_cost(recipe), "the same"))
    return rows


def detectron2_table() -> str:
    """Every Detectron2 recipe that has published figures, with them, what it costs and what was measured."""
    head = (
        "recipe", "published box AP (%)", "mask AP (%)", "PQ (%)", "measured here", "parameters (M)",
        "multiply-adds (G)", "published file",
    )  # fmt: skip
    rows = [_row(*head), _row("---", *["---:"] * 3, "---", *["---:"] * 2, "---")]
    rows += [row for recipe in _rows_of("detectron2") for row in _detector_rows(recipe)]
    return "\n".join(rows) + "\n"


def _segmentor_row(recipe: Recipe) -> str:
    multi = _percent(recipe, "miou_multi_scale")
    if "miou_scales_not_stated" in recipe.metrics:
        multi = f"{_percent(recipe, 'miou_scales_not_stated')} (scales not stated)"
    figures = (_percent(recipe, "miou"), multi, _percent(recipe, "pix_acc_multi_scale"))
    digits = f"`{recipe.file.hash_prefix}`" if recipe.file else ""
    return _row(f"`{recipe.name}`", *figures, _measured(recipe), *_cost(recipe), digits, recipe.source)


def mmseg_table() -> str:
    """Every MMSegmentation recipe that has a published figure, with it, what it costs and what was measured."""
    head = (
        "recipe", "published mIoU, one scale (%)", "mIoU, several scales and flip (%)", "pixel accuracy, likewise (%)",
        "measured here", "parameters (M)", "multiply-adds (G)", "sha1 of the published file", "source",
    )  # fmt: skip
    rows = [_row(*head), _row("---", *["---:"] * 3, "---", *["---:"] * 2, "---", "---")]
    rows += map(_segmentor_row, _rows_of("mmseg"))
    return "\n".join(rows) + "\n"


def _header(name: str) -> str:
    """The comment that a config begins with."""
    lines = Path(get_config_file(name)).read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))


def others_table() -> str:
    """Every config of a known data set that has no published figure of its own, as it describes itself."""
    names = [name for name in list_configs() if name.removesuffix("_test_dev") not in RECIPES]
    rows = [_row("recipe", "what it is"), _row("---", "---")]
    rows += [
        _row(f"`{name}`", _header(name))
        for name in names
        if Path(get_config_file(name)).parent.name not in ("demo", "small")
    ]
    return "\n".join(rows) + "\n"


_METHODS = {
    "faster_rcnn": "Faster R-CNN, box AP",
    "cascade_rcnn": "Cascade R-CNN, box AP",
    "mask_rcnn": "Mask R-CNN, box / mask AP",
    "mask_cascade_rcnn": "Cascade Mask R-CNN, box / mask AP",
}


def coco_table() -> str:
    """The 1x rows on COCO at a glance: methods by networks."""
    networks = ("resnet50", "resnest50", "resnet101", "resnest101", "resnest200")
    rows = [_row("published, COCO val2017, 1x (%)", *networks), _row("---", *["---:"] * len(networks))]
    for method, title in _METHODS.items():
        cells = []
        for network in networks:
            recipe = RECIPES.get(f"{method}_{network}_fpn_1x")
            metrics = ("box_ap", "mask_ap") if method.startswith("mask") else ("box_ap",)
            cells.append(" / ".join(_percent(recipe, metric) for metric in metrics) if recipe else "")
        rows.append(_row(title, *cells))
    return "\n".join(rows) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "variants": variants_table,
    "detectron2": detectron2_table,
    "mmseg": mmseg_table,
    "coco": coco_table,
    "others": others_table,
    "small": small_table,
    "small_circumstances": circumstances_table,
    "choosing": choosing_table,
    "ratios": ratios_table,
    "speed": speed_table,
    "speed_circumstances": speed_circumstances_table,
    "memory": memory_table,
    "keys_original": original_keys_table,
    "keys_mmseg": mmseg_keys_table,
    "keys_wrapper": wrapper_keys_table,
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
