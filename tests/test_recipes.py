"""The records are the published recipes, all of them and no others; a file is the published one or is refused."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from resnest_backbones.model_zoo import MEASURED, METRICS, RECIPES
from resnest_backbones.weights import PUBLISHED, WEIGHTS, PublishedFile


def recipes_of(framework: str, source: str = "") -> list:
    return [recipe for recipe in RECIPES.values() if recipe.framework == framework and source in recipe.source]


def test_the_detection_records_are_the_published_recipes_both_ways(published):
    theirs = {}
    for row in published["coco_val2017"]["rows"]:
        metrics = {metric: row[metric] for metric in ("box_ap", "mask_ap", "pq") if row.get(metric) is not None}
        theirs[row["method"], row["backbone"], row["schedule"]] = (metrics, row["file"])
    ours = {}
    for recipe in recipes_of("detectron2", "zhanghang1989"):
        metrics = {metric: value for metric, value in recipe.metrics.items() if "test_dev" not in metric}
        ours[recipe.method, recipe.backbone, recipe.schedule] = (metrics, recipe.file.name)
    assert len(ours) == 21
    assert ours == theirs
    (recipe,) = (recipe for recipe in RECIPES.values() if "box_ap_test_dev" in recipe.metrics)
    row = published["coco_val2017"]["test_dev2019_multi_scale"]
    assert (recipe.method, recipe.backbone) == (row["method"], row["backbone"])
    assert recipe.metrics["box_ap_test_dev"] == row["box_ap"]
    assert recipe.metrics["mask_ap_test_dev"] == row["mask_ap"]


def test_mmdetections_records_are_its_published_recipes_both_ways(shared):
    rows = json.loads((shared / "reference" / "live_checkpoints.json").read_text())["mmdetection"]["rows"]
    theirs = {(row["method"], row["backbone"], row["schedule"]): row["published"] for row in rows}
    ours = {(r.method, r.backbone, r.schedule): dict(r.metrics) for r in recipes_of("detectron2", "open-mmlab")}
    assert len(ours) == 8 and ours == theirs


def published_segmentation(published) -> dict:
    """Name -> method, backbone, dataset, schedule, metrics, digits of the sha1."""
    rows = {}
    for dataset, group in (("ade20k", "ade20k_val"), ("pascal_context_59", "pascal_context_59")):
        for row in published[group]["rows"]:
            name = f"{row['method']}_{row['backbone']}-d8_4xb4-paper_{dataset}-480x480"
            schedule = f"{row.get('epochs', published[group]['recipe']['epochs'])} epochs"
            metrics = {"miou_multi_scale": row["miou"], "pix_acc_multi_scale": row["pix_acc"]}
            rows[name] = (row["method"], row["backbone"], dataset, schedule, metrics, row["sha1_prefix"])
    for row in published["mmseg_s101_d8"]["rows"]:
        dataset, schedule, crop, gpus = row["dataset"].split()
        name = f"{row['method']}_resnest101-d8_{gpus.replace('x', 'xb')}-{schedule}_{dataset}-{crop}"
        metrics = {"miou": row["miou"], "miou_multi_scale": row["miou_ms"]}
        rows[name] = (row["method"], "resnest101", dataset, schedule, metrics, None)
    return rows


def _sha1(file: PublishedFile | None) -> str | None:
    """Digits of the hash of an author's file; those of MMSegmentation's are tested with all that can be fetched."""
    return file.hash_prefix if file and file.hash_kinds == ("sha1",) else None


def test_the_segmentation_records_are_the_published_recipes_both_ways(published):
    ours = {
        r.name: (r.method, r.backbone, r.dataset, r.schedule, dict(r.metrics), _sha1(r.file))
        for r in recipes_of("mmseg")
    }
    # The one metric with a source of its own: README.md of the original, "Results on Cityscapes".
    of_readme = ours.pop("deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024")
    assert of_readme == ("deeplabv3plus", "resnest200", "cityscapes", "80k", {"miou_scales_not_stated": 82.7}, None)
    assert ours == published_segmentation(published)


def test_a_hash_is_in_the_name_of_a_detectors_file():
    files = [recipe.file for recipe in recipes_of("detectron2", "zhanghang1989")]
    without = [file.name for file in files if not file.hash_prefix]
    assert without == [
        "faster_rcnn_ResNeSt_50_FPN_dcn_syncbn_range-scale_1x.pth",
        "mask_cascade_rcnn_ResNeSt_200_FPN_syncBN_all_tricks_3x.pth",
    ]
    assert all(file.name.endswith(f"-{file.hash_prefix}.pth") for file in files if file.hash_prefix)
    assert not any(file.server_answers for file in files)


def test_names_and_metrics_are_whole():
    assert all(RECIPES[name].name == name for name in RECIPES)
    assert Counter(recipe.framework for recipe in RECIPES.values()) == {"detectron2": 29, "mmseg": 21}
    assert all(recipe.metrics and recipe.metrics.keys() <= METRICS.keys() for recipe in RECIPES.values())
    assert PUBLISHED.keys() == {name for name, recipe in RECIPES.items() if recipe.file}
    assert all(measured.name == name in {**RECIPES, **WEIGHTS} for name, measured in MEASURED.items())


def test_metrics_are_known_ones_and_cannot_be_changed():
    recipe = RECIPES["faster_rcnn_resnest50_fpn_1x"]
    with pytest.raises(ValueError, match="metrics must be of box_ap, .*, got 'accuracy'"):
        replace(recipe, metrics={"accuracy": 1.0})
    assert recipe.figures is recipe.metrics, "the earlier name"
    with pytest.raises(TypeError):
        recipe.metrics["box_ap"] = 50.0
