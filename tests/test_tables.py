"""Tables are made from records and do not drift."""

import re
from pathlib import Path

import pytest

from resnest_backbones.model_zoo import MULTI_SCALE, RECIPES, SEGMENTATION_RECIPES, SINGLE_SCALE, get_config_file
from resnest_backbones.tables import detectron2_table, fill_tables, mmseg_table, variants_table
from resnest_backbones.variants import VARIANTS
from tools import update_tables


@pytest.mark.parametrize("name", update_tables.FILES)
def test_the_tables_of_the_documents_are_what_the_records_say(name):
    text = (update_tables.ROOT / name).read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert fill_tables(text) == text


def test_a_stale_table_is_replaced_and_the_rest_stays():
    text = "before\n<!-- table: variants -->\nold\n<!-- end of table -->\nafter\n"
    assert fill_tables(text) == text.replace("old\n", variants_table())
    assert fill_tables(fill_tables(text)) == fill_tables(text)


def test_a_table_that_there_is_none_of_is_named():
    with pytest.raises(ValueError, match="table must be one of variants, detectron2, mmseg, got 'speed'"):
        fill_tables("<!-- table: speed -->\n<!-- end of table -->")


def test_every_network_has_its_row():
    table = variants_table()
    assert all(f"| `{name}` |" in table for name in VARIANTS)
    assert "| `resnest50` | 2 | 1 | 27.48 | 5.39 | 81.03 | 224 | `resnest50-528c19ca.pth` |" in table


def test_every_recipe_has_its_row_and_its_published_figure(published):
    rows = {(r["method"], r["backbone"], r["schedule"]): r for r in published["coco_val2017"]["rows"]}
    for name, recipe in RECIPES.items():
        assert Path(get_config_file(name)).stem == name
        method, backbone, schedule = re.fullmatch(r"(\w+)_(resnest\w+)_fpn_(\w+)", name).groups()
        assert rows[method, backbone, schedule]["box_ap"] == recipe.box_ap
        assert f"| `{name}` | {recipe.box_ap:.2f} |" in detectron2_table()


def published_segmentation(published):
    """Name of a recipe -> mIoU, how it was evaluated, pixel accuracy, mIoU over several scales."""
    figures = {}
    for dataset, group in (("ade20k", "ade20k_val"), ("pascal_context_59", "pascal_context_59")):
        for row in published[group]["rows"]:
            name = f"{row['method']}_{row['backbone']}-d8_4xb4-paper_{dataset}-480x480"
            figures[name] = (row["miou"], MULTI_SCALE, row["pix_acc"], None)
    for row in published["mmseg_s101_d8"]["rows"]:
        dataset, schedule, crop, gpus = row["dataset"].split()
        name = f"{row['method']}_resnest101-d8_{gpus.replace('x', 'xb')}-{schedule}_{dataset}-{crop}"
        figures[name] = (row["miou"], SINGLE_SCALE, None, row["miou_ms"])
    return figures


def test_the_segmentation_records_are_the_published_rows_all_of_them(published):
    ours = {r.name: (r.miou, r.evaluation, r.pix_acc, r.miou_ms) for r in SEGMENTATION_RECIPES.values()}
    # The one figure with a source of its own: README.md of the original, "Results on Cityscapes".
    assert ours.pop("deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024")[0] == 82.7
    assert ours == published_segmentation(published)


def test_every_segmentation_recipe_has_its_config_and_its_row():
    table = mmseg_table()
    for name in SEGMENTATION_RECIPES:
        assert Path(get_config_file(name)).stem == name
        assert table.count(f"| `{name}` |") == 1
    assert "fcn_resnest50-d8_4xb4-paper_ade20k-480x480` |  | 42.94 | 80.18 |" in table
    assert "fcn_resnest101-d8_4xb2-80k_cityscapes-512x1024` | 77.56 | 78.98 |  |" in table
    assert "deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024` |  | 82.7 (scales not stated) |  |" in table


def test_a_base_of_the_segmentation_configs_is_no_recipe():
    with pytest.raises(ValueError, match="fcn_resnest50-d8_4xb4-paper_ade20k-480x480.*, got 'fcn_paper'"):
        get_config_file("fcn_paper")
