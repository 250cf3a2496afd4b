"""Tables are made from records and do not drift."""

import json
from pathlib import Path

import pytest

import update_tables
from documents import speed_tables, tables
from documents.costs import costs
from documents.tables import coco_table, detectron2_table, fill_tables, mmseg_table, variants_table
from resnest_backbones import model_zoo
from resnest_backbones.model_zoo import RECIPES, Measurement
from resnest_backbones.models.variants import VARIANTS


@pytest.mark.parametrize("name", update_tables.FILES)
def test_the_tables_of_the_documents_are_what_the_records_say(name):
    text = (update_tables.ROOT / name).read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert fill_tables(text) == text


@pytest.mark.parametrize(("name", "draw"), update_tables.DRAWINGS.items())
def test_the_drawings_of_the_documents_are_what_the_networks_say(name, draw):
    assert (update_tables.ROOT / name).read_text(encoding="utf-8") == draw()


def test_a_stale_table_is_replaced_and_the_rest_stays():
    text = "before\n<!-- table: variants -->\nold\n<!-- end of table -->\nafter\n"
    assert fill_tables(text) == text.replace("old\n", variants_table())
    assert fill_tables(fill_tables(text)) == fill_tables(text)


def test_a_table_that_there_is_none_of_is_named():
    with pytest.raises(
        ValueError,
        match="table must be one of variants, .*, small, .*, speed, speed_circumstances, memory, .*, got 'size'",
    ):
        fill_tables("<!-- table: size -->\n<!-- end of table -->")


def test_every_network_has_its_row():
    table = variants_table()
    assert all(f"| `{name}` |" in table for name in VARIANTS)
    assert "| `resnest50` | 2 | 1 | 27.48 | 5.39 | 81.03 | 224 | `resnest50-528c19ca.pth` |" in table


def test_every_recipe_has_its_row_its_published_figures_and_its_costs():
    tables = {"detectron2": detectron2_table(), "mmseg": mmseg_table()}
    for name, recipe in RECIPES.items():
        (row,) = (row for row in tables[recipe.framework].splitlines() if row.startswith(f"| `{name}` |"))
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert cells[4] == "", "nothing was measured"
        assert cells[5] == f"{costs()[name].parameters / 1e6:.1f}"
        assert cells[6] == f"{costs()[name].multiply_adds / 1e9:.0f}"
        figures = [value for metric, value in recipe.metrics.items() if "test_dev" not in metric]
        assert [float(cell.split()[0]) for cell in cells[1:4] if cell] == figures
    assert "| `faster_rcnn_resnest50_fpn_1x` | 42.33 |  |  |" in tables["detectron2"]
    assert "| `panoptic_fpn_resnest200_3x_tricks` | 51.00 | 43.68 | 47.90 |" in tables["detectron2"]
    assert "_3x_all_tricks_test_dev` | 53.30 | 47.10 |  |" in tables["detectron2"]
    assert "fcn_resnest50-d8_4xb4-paper_ade20k-480x480` |  | 42.94 | 80.18 |" in tables["mmseg"]
    assert "fcn_resnest101-d8_4xb2-80k_cityscapes-512x1024` | 77.56 | 78.98 |  |" in tables["mmseg"]
    unstated = "deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024` |  | 82.7 (scales not stated) |  |"
    assert unstated in tables["mmseg"]


def test_a_measured_figure_is_shown_with_machine_date_and_command(monkeypatch):
    name = "mask_rcnn_resnest50_fpn_1x"
    run = Measurement(name, {"box_ap": 42.5, "mask_ap": 38.0}, "a machine", "2030-01-31", "reproduce.py run")
    monkeypatch.setattr(tables, "MEASURED", {name: run})
    text = "| `mask_rcnn_resnest50_fpn_1x` | 42.81 | 38.14 |  | "
    assert f"{text}box AP 42.50, mask AP 38.00; a machine, 2030-01-31, `reproduce.py run` |" in detectron2_table()
    assert model_zoo.MEASURED == {}, "a run in full goes there, and into this test"


def test_the_short_table_has_the_1x_rows():
    rows = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in coco_table().splitlines()
    }
    assert rows["Faster R-CNN, box AP"] == ["39.25", "42.33", "41.37", "44.72", ""]
    assert rows["Cascade R-CNN, box AP"] == ["42.52", "45.41", "44.03", "47.50", "49.03"]
    assert rows["Mask R-CNN, box / mask AP"][:2] == ["39.97 / 36.05", "42.81 / 38.14"]


def test_every_config_is_in_the_model_zoo():
    text = (update_tables.ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
    named = {name for name in model_zoo.list() if f"| `{name}` |" in text}
    assert {Path(model_zoo.get_config_file(name)).parent.name for name in set(model_zoo.list()) - named} == {
        "demo",
        "small",
    }


def test_the_table_of_speed_has_a_row_for_each_measured_case(monkeypatch, tmp_path):
    about = {
        "machine": "M",
        "threads": 2,
        "rounds": 3,
        "date": "2026-01-02",
        "versions": {"torch": "9"},
        "command": "run",
    }
    case = {"network": "resnest50", "height": 8, "width": 9, "batch": 2, "dtype": "float32", "what": "training"}
    times = {"ours": 1.4, "ours, channels_last": 2.0, "original": 3.0, "original, channels_last": 4.0, "limit": 0.9}
    results = [{"case": case, "milliseconds": times, "kept": {"ours": 5.2, "original": 9.0}}]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "benchmark.json").write_text(json.dumps({**about, "results": results}))
    monkeypatch.setattr(speed_tables, "BENCHMARKS", tmp_path)
    assert speed_tables.speed_table().splitlines()[2:] == [
        "| training, resnest50, 2 x 8 x 9, float32 | 1 / 2 | 3 / 4 |  |  |  |  | 1 | 5 / 9 |"
    ]
    assert speed_tables.memory_table().splitlines()[2:] == [
        "| resnest50, 2 x 8 x 9, float32: ours | 5 |",
        "| resnest50, 2 x 8 x 9, float32: original | 9 |",
    ]
    assert speed_tables.ratios_table().splitlines()[2:] == [
        "| training, resnest50, 2 x 8 x 9, float32 | 2.14 | 2.14 |  |  | 1.56 |"
    ]
    assert speed_tables.speed_circumstances_table().splitlines()[2:] == ["| `run` | M | 2 | 3 | 2026-01-02 | torch 9 |"]


def test_the_table_of_choices_has_each_network_with_its_cost_and_published_figures():
    rows = {
        cells[1].strip(" `"): cells[2:]
        for cells in (line.split("|") for line in speed_tables.choosing_table().splitlines()[2:])
    }
    assert list(rows) == list(VARIANTS)
    parameters, multiply_adds, milliseconds, kept, top1, faster, cascade, ade20k = (
        cell.strip() for cell in rows["resnest50"][:-1]
    )
    assert (parameters, multiply_adds, top1) == ("27.5", "5.4", "81.03")
    assert (faster, cascade, ade20k) == ("42.33", "46.19 / 39.55", "45.12")
    assert float(milliseconds) > 0 and float(kept) > 0
