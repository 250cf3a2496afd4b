"""Tables are made from records and do not drift."""

import re
from pathlib import Path

import pytest

from resnest_backbones.model_zoo import RECIPES, get_config_file
from resnest_backbones.tables import detectron2_table, fill_tables, variants_table
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
    with pytest.raises(ValueError, match="table must be one of variants, detectron2, got 'speed'"):
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
