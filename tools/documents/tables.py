"""The tables of README.md, MODEL_ZOO.md and docs/, made from the records; a test finds those that drift."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import torch

from benchmarks.small_records import circumstances_table, small_table
from documents import speed_tables
from documents.costs import costs
from markdown_table import markdown_table
from resnest_backbones import build
from resnest_backbones.model_zoo import MEASURED, METRICS, RECIPES, Recipe, get_config_file, list_trained
from resnest_backbones.model_zoo import list as list_configs
from resnest_backbones.models.variants import VARIANTS
from resnest_backbones.weights import WEIGHTS

_MARKED = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def variants_table() -> str:
    """Return every network with radix, cardinality, cost, and what was published of its ImageNet weights."""
    head = (
        "network", "radix", "cardinality", "parameters (M)", "multiply-adds (G, 224 x 224)", "published top-1 (%)",
        "crop", "measured here", "published file",
    )  # fmt: skip
    rows = []
    for name, spec in VARIANTS.items():
        record = WEIGHTS.get(name)
        published = (f"{record.top1:.2f}", str(record.crop)) if record else ("", "")
        file = f"`{record.filename}`" if record else ""
        cost = (f"{(spec.params or 0) / 1e6:.2f}", f"{(spec.multiply_adds or 0) / 1e9:.2f}")
        rows.append((f"`{name}`", str(spec.radix), str(spec.cardinality), *cost, *published, _measured(name), file))
    return markdown_table(head, rows, "lrrrrrrll")


def strides_table(network: str = "resnest50", side: int = 512) -> str:
    """Return the side of each stage's features of a square image, and the dilations of its blocks, at each stride."""
    rows = []
    for output_stride in (32, 16, 8):
        with torch.device("meta"):
            net = build(network, output_stride=output_stride)
        cells = []
        for name, stride in net.feature_strides.items():
            dilations = [block.conv2.conv.dilation[0] for block in net.get_submodule(name)]
            dilated = f", dilation {', '.join(map(str, dilations))}" if max(dilations) > 1 else ""
            cells.append(f"{side // stride} x {side // stride}{dilated}")
        rows.append((str(output_stride), *cells))
    return markdown_table(("output stride", *net.feature_strides), rows, "rl")


def detectron2_table() -> str:
    """Return every Detectron2 recipe with its published metrics, what it costs and what was measured."""
    head = (
        "recipe", "published box AP (%)", "mask AP (%)", "PQ (%)", "measured here", "parameters (M)",
        "multiply-adds (G)", "published file", "can be downloaded",
    )  # fmt: skip
    rows = []
    for recipe in _recipes("detectron2"):
        metrics = (percent(recipe, metric) for metric in ("box_ap", "mask_ap", "pq"))
        file = f"`{recipe.file.name}`" if recipe.file and recipe.file.name else ""
        rows.append((f"`{recipe.name}`", *metrics, _measured(recipe.name), *_cost(recipe), file, _living(recipe)))
        if "box_ap_test_dev" in recipe.metrics:
            metrics = (percent(recipe, metric) for metric in ("box_ap_test_dev", "mask_ap_test_dev", "pq"))
            rows.append((f"`{recipe.name}_test_dev`", *metrics, "", *_cost(recipe), "the same", ""))
    return markdown_table(head, rows, "lrrrlrrll")


def mmseg_table() -> str:
    """Return every MMSegmentation recipe with its published metrics, what it costs and what was measured."""
    head = (
        "recipe", "published mIoU, one scale (%)", "mIoU, several scales and flip (%)", "pixel accuracy, likewise (%)",
        "measured here", "parameters (M)", "multiply-adds (G)", "hash of the published file", "can be downloaded",
        "source",
    )  # fmt: skip
    rows = []
    for recipe in _recipes("mmseg"):
        multi = percent(recipe, "miou_multi_scale")
        if unstated := percent(recipe, "miou_scales_not_stated"):
            multi = f"{unstated} (scales not stated)"
        metrics = (percent(recipe, "miou"), multi, percent(recipe, "pix_acc_multi_scale"))
        digits = f"{recipe.file.hash_kinds[0]} `{recipe.file.hash_prefix}`" if recipe.file else ""
        facts = (_measured(recipe.name), *_cost(recipe), digits, _living(recipe), recipe.source)
        rows.append((f"`{recipe.name}`", *metrics, *facts))
    return markdown_table(head, rows, "lrrrlrrlll")


def _living(recipe: Recipe) -> str:
    return "yes" if recipe.name in list_trained() else ""


def trained_table() -> str:
    """Return the recipes whose trained file can be downloaded, with what was published of them."""
    rows = []
    for name in list_trained():
        metrics = RECIPES[name].metrics.items()
        published = ", ".join(f"{METRICS[metric]} {value:g}" for metric, value in metrics)
        rows.append((f"`{name}`", _DATASETS[RECIPES[name].dataset], published))
    return markdown_table(("trained model", "trained on", "published, on its validation split (%)"), rows, "l")


_DATASETS = {"coco": "COCO, 80 classes", "ade20k": "ADE20K, 150 classes", "cityscapes": "Cityscapes, 19 classes"}


def _recipes(framework: str) -> list[Recipe]:
    return [recipe for recipe in RECIPES.values() if recipe.framework == framework]


def percent(recipe: Recipe, metric: str) -> str:
    """Return a published metric as its source prints it; nothing where the source gives none."""
    value = recipe.metrics.get(metric)
    if value is None:
        return ""
    if recipe.framework != "detectron2":
        return f"{value:g}"
    return f"{value:.1f}" if "mmdetection" in recipe.source else f"{value:.2f}"


def _measured(name: str) -> str:
    run = MEASURED.get(name)
    if run is None:
        return ""
    metrics = ", ".join(f"{METRICS[metric]} {value:.2f}" for metric, value in run.metrics.items())
    return f"{metrics}; {run.machine}, {run.date}, `{run.command}`"


def _cost(recipe: Recipe) -> tuple[str, str]:
    cost = costs()[recipe.name]
    return f"{cost.parameters / 1e6:.1f}", f"{cost.multiply_adds / 1e9:.0f}"


def others_table() -> str:
    """Return every packaged config without a published metric, as the comment at its top describes it."""
    rows = []
    for name in list_configs():
        file = Path(get_config_file(name))
        if name.removesuffix("_test_dev") not in RECIPES and file.parent.name not in ("demo", "small"):
            comment = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
            rows.append((f"`{name}`", " ".join(line.removeprefix("#").strip() for line in comment)))
    return markdown_table(("recipe", "what it is"), rows, "l")


_METHODS = {
    "faster_rcnn": "Faster R-CNN, box AP",
    "cascade_rcnn": "Cascade R-CNN, box AP",
    "mask_rcnn": "Mask R-CNN, box / mask AP",
    "mask_cascade_rcnn": "Cascade Mask R-CNN, box / mask AP",
}


def coco_table() -> str:
    """Return the metrics of the 1x recipes on COCO: methods by networks."""
    networks = ("resnet50", "resnest50", "resnet101", "resnest101", "resnest200")
    rows = []
    for method, title in _METHODS.items():
        metrics = ("box_ap", "mask_ap") if method.startswith("mask") else ("box_ap",)
        recipes = (RECIPES.get(f"{method}_{network}_fpn_1x") for network in networks)
        cells = (" / ".join(percent(recipe, metric) for metric in metrics) if recipe else "" for recipe in recipes)
        rows.append((title, *cells))
    return markdown_table(("published, COCO val2017, 1x (%)", *networks), rows, "lr")


TABLES: dict[str, Callable[[], str]] = {
    "variants": variants_table,
    "detectron2": detectron2_table,
    "mmseg": mmseg_table,
    "coco": coco_table,
    "trained": trained_table,
    "others": others_table,
    "small": small_table,
    "small_circumstances": circumstances_table,
    "choosing": speed_tables.choosing_table,
    "performance": speed_tables.performance_table,
    "engines": speed_tables.engines_table,
    "ratios": speed_tables.ratios_table,
    "speed": speed_tables.speed_table,
    "speed_circumstances": speed_tables.circumstances_table,
    "memory": speed_tables.memory_table,
    "strides": strides_table,
}


def fill_tables(text: str) -> str:
    """Return a document with the table between each pair of markers as the records have it."""

    def table(match: re.Match[str]) -> str:
        if match["name"] not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, got {match['name']!r}")
        return f"{match[1]}{TABLES[match['name']]()}{match[3]}"

    return _MARKED.sub(table, text)
