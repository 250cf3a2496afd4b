"""Tables are made from records and do not drift."""

import pytest

from resnest_backbones.recipes import RECIPES
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


def test_every_recipe_has_its_row_and_its_published_figures():
    tables = {"detectron2": detectron2_table(), "mmseg": mmseg_table()}
    for name, recipe in RECIPES.items():
        assert tables[recipe.framework].count(f"| `{name}` |") == 1
    assert "| `faster_rcnn_resnest50_fpn_1x` | 42.33 |  |  |" in tables["detectron2"]
    assert "| `panoptic_fpn_resnest200_3x_tricks` | 51.00 | 43.68 | 47.90 |" in tables["detectron2"]
    assert "fcn_resnest50-d8_4xb4-paper_ade20k-480x480` |  | 42.94 | 80.18 |" in tables["mmseg"]
    assert "fcn_resnest101-d8_4xb2-80k_cityscapes-512x1024` | 77.56 | 78.98 |  |" in tables["mmseg"]
    unstated = "deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024` |  | 82.7 (scales not stated) |  |"
    assert unstated in tables["mmseg"]
