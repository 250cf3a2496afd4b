"""The records are the published rows, all of them and no others; and a file is the published one or is refused."""

import hashlib
from collections import Counter
from dataclasses import replace

import pytest

from resnest_backbones.errors import CheckpointError
from resnest_backbones.model_zoo import MEASURED, METRICS, RECIPES
from resnest_backbones.weights import PUBLISHED, PublishedFile


def rows_of(framework: str) -> list:
    return [recipe for recipe in RECIPES.values() if recipe.framework == framework]


def test_the_detection_records_are_the_published_rows_both_ways(published):
    theirs = {}
    for row in published["coco_val2017"]["rows"]:
        figures = {metric: row[metric] for metric in ("box_ap", "mask_ap", "pq") if row.get(metric) is not None}
        theirs[row["method"], row["backbone"], row["schedule"]] = (figures, row["file"])
    ours = {}
    for recipe in rows_of("detectron2"):
        figures = {metric: value for metric, value in recipe.metrics.items() if "test_dev" not in metric}
        ours[recipe.method, recipe.backbone, recipe.schedule] = (figures, recipe.file.name)
    assert len(ours) == 21
    assert ours == theirs


def test_one_row_has_figures_on_test_dev(published):
    (recipe,) = (recipe for recipe in RECIPES.values() if "box_ap_test_dev" in recipe.metrics)
    row = published["coco_val2017"]["test_dev2019_multi_scale"]
    assert (recipe.method, recipe.backbone) == (row["method"], row["backbone"])
    assert recipe.metrics["box_ap_test_dev"] == row["box_ap"]
    assert recipe.metrics["mask_ap_test_dev"] == row["mask_ap"]


def published_segmentation(published) -> dict:
    """(method, backbone or None, data set, training) -> figures, digits of the sha1."""
    rows = {}
    for dataset, group in (("ade20k", "ade20k_val"), ("pascal_context_59", "pascal_context_59")):
        for row in published[group]["rows"]:
            name = f"{row['method']}_{row['backbone']}-d8_4xb4-paper_{dataset}-480x480"
            figures = {"miou_multi_scale": row["miou"], "pix_acc_multi_scale": row["pix_acc"]}
            rows[name] = (row["method"], row["backbone"], dataset, figures, row["sha1_prefix"])
    for row in published["mmseg_s101_d8"]["rows"]:
        dataset, schedule, crop, gpus = row["dataset"].split()
        name = f"{row['method']}_resnest101-d8_{gpus.replace('x', 'xb')}-{schedule}_{dataset}-{crop}"
        figures = {"miou": row["miou"], "miou_multi_scale": row["miou_ms"]}
        rows[name] = (row["method"], "resnest101", dataset, figures, None)
    return rows


def test_the_segmentation_records_are_the_published_rows_both_ways(published):
    ours = {
        r.name: (r.method, r.backbone, r.dataset, dict(r.metrics), r.file.hash_prefix if r.file else None)
        for r in rows_of("mmseg")
    }
    # The one figure with a source of its own: README.md of the original, "Results on Cityscapes".
    of_readme = ours.pop("deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024")
    assert of_readme == ("deeplabv3plus", "resnest200", "cityscapes", {"miou_scales_not_stated": 82.7}, None)
    assert ours == published_segmentation(published)
    assert all(r.file.hash_kinds == ("sha1",) for r in rows_of("mmseg") if r.file)


def test_the_epochs_are_the_published_ones(published):
    groups = {"ade20k": published["ade20k_val"], "pascal_context_59": published["pascal_context_59"]}
    checked = 0
    for recipe in rows_of("mmseg"):
        for row in groups.get(recipe.dataset, {"rows": []})["rows"]:
            if "-paper_" in recipe.name and (row["method"], row["backbone"]) == (recipe.method, recipe.backbone):
                epochs = row.get("epochs", groups[recipe.dataset]["recipe"]["epochs"])
                assert recipe.schedule == f"{epochs} epochs"
                checked += 1
    assert checked == 12


def test_a_hash_is_in_the_name_of_a_detectors_file():
    files = [recipe.file for recipe in rows_of("detectron2")]
    without = [file.name for file in files if not file.hash_prefix]
    assert without == [
        "faster_rcnn_ResNeSt_50_FPN_dcn_syncbn_range-scale_1x.pth",
        "mask_cascade_rcnn_ResNeSt_200_FPN_syncBN_all_tricks_3x.pth",
    ]
    assert all(file.name.endswith(f"-{file.hash_prefix}.pth") for file in files if file.hash_prefix)
    assert not any(file.server_answers for file in files)


def test_names_and_metrics_are_whole():
    assert all(RECIPES[name].name == name for name in RECIPES)
    assert Counter(recipe.framework for recipe in RECIPES.values()) == {"detectron2": 21, "mmseg": 21}
    assert all(recipe.metrics and recipe.metrics.keys() <= METRICS.keys() for recipe in RECIPES.values())
    assert PUBLISHED.keys() == {name for name, recipe in RECIPES.items() if recipe.file}
    assert all(measured.name == name in RECIPES for name, measured in MEASURED.items())


def test_a_figure_of_no_known_metric_is_refused():
    with pytest.raises(ValueError, match="metrics must be of box_ap, .*, got 'accuracy'"):
        replace(RECIPES["faster_rcnn_resnest50_fpn_1x"], metrics={"accuracy": 1.0})


def test_a_figure_cannot_be_changed():
    with pytest.raises(TypeError):
        RECIPES["faster_rcnn_resnest50_fpn_1x"].figures["box_ap"] = 50.0


@pytest.mark.parametrize("kind", ["sha256", "sha1"])
def test_a_file_is_the_published_one_by_either_hash_or_is_refused(kind, tmp_path):
    file = tmp_path / "model.pth"
    file.write_bytes(b"weights")
    digits = hashlib.new(kind, b"weights").hexdigest()[:8]
    published = PublishedFile(f"detector-{digits}.pth", digits, ("sha256", "sha1"), "https://example.invalid")
    assert published.check(file) == kind
    file.write_bytes(b"other weights")
    message = rf"{file} is not the published detector-{digits}.pth: its sha256 or sha1 must begin with {digits}, got "
    with pytest.raises(CheckpointError, match=message):
        published.check(file)
    assert replace(published, hash_prefix="").check(file) == "", "no hash was published to hold it to"
    other = {"sha256": ("sha1",), "sha1": ("sha256",)}[kind]
    file.write_bytes(b"weights")
    with pytest.raises(CheckpointError):
        replace(published, hash_kinds=other).check(file)
