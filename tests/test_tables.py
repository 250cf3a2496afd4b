"""Tables are made from records and do not drift."""

import pytest

from resnest_backbones.tables import fill_tables, variants_table
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
    with pytest.raises(ValueError, match="table must be one of variants, got 'speed'"):
        fill_tables("<!-- table: speed -->\n<!-- end of table -->")


def test_every_network_has_its_row():
    table = variants_table()
    assert all(f"| `{name}` |" in table for name in VARIANTS)
    assert "| `resnest50` | 2 | 1 | 27.48 | 5.39 | 81.03 | 224 | `resnest50-528c19ca.pth` |" in table
