"""Tables are made from records and do not drift."""

import json
from pathlib import Path

import pytest
import torch

import update_tables
from documents import speed_tables, tables
from documents.costs import costs
from documents.tables import coco_table, detectron2_table, fill_tables, mmseg_table, percent, variants_table
from resnest_backbones import build, model_zoo
from resnest_backbones.model_zoo import RECIPES, Measurement
from resnest_backbones.models.variants import VARIANTS
from tests.documents.pages import table_rows


def named_rows(table: str) -> dict[str, list[str]]:
    return {first.strip("`"): cells for first, *cells in table_rows(table)}


def test_the_documents_are_up_to_date(capsys):
    update_tables.run(["--check"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name}: up to date" for name in update_tables.FILES]
    for name in update_tables.FILES:
        assert "<!-- table: " in (update_tables.ROOT / name).read_text(encoding="utf-8")


def test_a_stale_document_is_named_by_the_check_and_rewritten_without_it(monkeypatch, tmp_path):
    text = "before\n<!-- table: variants -->\nold\n<!-- end of table -->\nafter\n"
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr(update_tables, "ROOT", tmp_path)
    monkeypatch.setattr(update_tables, "FILES", ("page.md",))
    with pytest.raises(SystemExit, match=r"page\.md: not up to date; run tools/update_tables\.py"):
        update_tables.run(["--check"])
    assert (tmp_path / "page.md").read_text() == text
    update_tables.run([])
    assert (tmp_path / "page.md").read_text() == text.replace("old\n", variants_table())
    update_tables.run(["--check"])
    with pytest.raises(ValueError, match="table must be one of variants, .*, performance, .*, memory, .*, got 'size'"):
        fill_tables("<!-- table: size -->\n<!-- end of table -->")


def test_every_network_has_its_row():
    rows = named_rows(variants_table())
    assert list(rows) == list(VARIANTS)
    assert rows["resnest50"] == ["2", "1", "27.48", "5.39", "81.03", "224", "", "`resnest50-528c19ca.pth`"]


def test_the_sizes_of_features_are_those_that_networks_compute():
    for row in table_rows(tables.strides_table("resnest14")):
        with torch.device("meta"):
            features = build("resnest14", output_stride=int(row[0]))(torch.zeros(2, 3, 512, 512))
        assert [cell.split(" x ")[0] for cell in row[1:]] == [str(one.shape[-1]) for one in features.values()]
    assert table_rows(tables.strides_table())[2][3:] == [
        "64 x 64, dilation 1, 2, 2, 2, 2, 2", "64 x 64, dilation 2, 4, 4"
    ]  # fmt: skip


def test_every_recipe_has_its_published_metrics_and_its_costs():
    found = {**named_rows(detectron2_table()), **named_rows(mmseg_table())}
    for name, recipe in RECIPES.items():
        cells = found[name]
        assert cells[3] == "", "nothing was measured"
        assert cells[4] == f"{costs()[name].parameters / 1e6:.1f}"
        assert cells[5] == f"{costs()[name].multiply_adds / 1e9:.0f}"
        metrics = [percent(recipe, metric) for metric in recipe.metrics if "test_dev" not in metric]
        assert [cell.split()[0] for cell in cells[:3] if cell] == metrics
    assert found["faster_rcnn_resnest50_fpn_1x"][:3] == ["42.33", "", ""]
    assert found["panoptic_fpn_resnest200_3x_tricks"][:3] == ["51.00", "43.68", "47.90"]
    assert found["mask_cascade_rcnn_resnest200_dcnv2_fpn_3x_all_tricks_test_dev"][:3] == ["53.30", "47.10", ""]
    assert found["fcn_resnest101-d8_4xb2-80k_cityscapes-512x1024"][:3] == ["77.56", "78.98", ""]
    unstated = found["deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024"]
    assert unstated[:3] == ["", "82.7 (scales not stated)", ""]
    rows = named_rows(coco_table())
    assert rows["Faster R-CNN, box AP"] == ["39.25", "42.33", "41.37", "44.72", ""]
    assert rows["Cascade R-CNN, box AP"] == ["42.52", "45.41", "44.03", "47.50", "49.03"]
    assert rows["Mask R-CNN, box / mask AP"][:2] == ["39.97 / 36.05", "42.81 / 38.14"]


def test_a_measured_recipe_is_shown_with_machine_date_and_command(monkeypatch):
    name = "mask_rcnn_resnest50_fpn_1x"
    run = Measurement(name, {"box_ap": 42.5, "mask_ap": 38.0}, "a machine", "2030-01-31", "reproduce.py run")
    monkeypatch.setattr(tables, "MEASURED", {name: run})
    expected = "box AP 42.50, mask AP 38.00; a machine, 2030-01-31, `reproduce.py run`"
    assert named_rows(detectron2_table())[name][:4] == ["42.81", "38.14", "", expected]
    network = Measurement("resnest14", {"top1": 75.5}, "a machine", "2030-01-31", "reproduce.py run")
    monkeypatch.setattr(tables, "MEASURED", {"resnest14": network})
    cell = named_rows(variants_table())["resnest14"][6]
    assert cell == "top-1 accuracy 75.50; a machine, 2030-01-31, `reproduce.py run`"
    assert model_zoo.MEASURED == {}, "a run in full goes there, and into this test"


def test_every_packaged_config_is_in_the_model_zoo():
    text = (update_tables.ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
    missing = [name for name in model_zoo.list() if f"| `{name}` " not in text]
    assert {Path(model_zoo.get_config_file(name)).parent.name for name in missing} <= {"demo", "small"}


def test_the_tables_of_speed_have_a_row_for_each_measured_case(monkeypatch, tmp_path):
    about = {"machine": "M", "threads": 2, "rounds": 3, "date": "2026-01-02", "versions": {"torch": "9"}}
    case = {"network": "resnest50", "height": 8, "width": 9, "batch": 2, "dtype": "float32", "what": "training"}
    times = {"ours": 1.4, "ours, channels_last": 2.0, "original": 3.0, "original, channels_last": 4.0, "limit": 0.9}
    results = [{"case": case, "milliseconds": times, "kept": {"ours": 5.2, "original": 9.0}}]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "benchmark.json").write_text(json.dumps({**about, "command": "run", "results": results}))
    monkeypatch.setattr(speed_tables, "BENCHMARKS", tmp_path)
    what = "training, resnest50, 2 x 8 x 9, float32"
    assert named_rows(speed_tables.speed_table()) == {what: ["1 / 2", "3 / 4", "", "", "", "", "1", "5 / 9"]}
    assert table_rows(speed_tables.memory_table()) == [
        ["resnest50, 2 x 8 x 9, float32: ours", "5"],
        ["resnest50, 2 x 8 x 9, float32: original", "9"],
    ]
    assert named_rows(speed_tables.ratios_table()) == {what: ["2.14", "2.14", "", "", "1.56"]}
    assert table_rows(speed_tables.circumstances_table()) == [["`run`", "M", "2", "3", "2026-01-02", "torch 9"]]


def test_the_table_of_performance_compares_with_the_fastest_peer_and_with_resnet(monkeypatch, tmp_path):
    times = {"ours": 2.0, "ours, compiled": 4.0, "timm": 3.0, "timm, compiled": 5.0, "mmseg, channels_last": 2.5,
             "ResNet-50-D": 1.0, "ResNet-50-D, compiled": 0.5}  # fmt: skip
    for what in ("inference", "training"):
        case = {"network": "resnest50", "height": 8, "width": 9, "batch": 1, "dtype": "float32", "what": what}
        (tmp_path / what).mkdir()
        content = json.dumps({"results": [{"case": case, "milliseconds": times}]})
        (tmp_path / what / "benchmark.json").write_text(content)
    engines = {"onnxruntime": 3.0, "onnxruntime, int8": 1.0, "openvino": 2.5, "openvino, int8": 1.5}
    results = [{"case": {**case, "what": "inference"}, "milliseconds": {"ours": 2.0, "timm": 3.0, **engines}}]
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "benchmark.json").write_text(json.dumps({"results": results}))
    monkeypatch.setattr(speed_tables, "BENCHMARKS", tmp_path)
    assert table_rows(speed_tables.performance_table()) == [
        *(
            [f"{what}, 1 x 8 x 9, float32", *cells]
            for what in ("inference", "training step")
            for cells in (
                ["fastest other ResNeSt", "2", "2", "1.25", "2.50"],  # ours is faster without the compiler
                ["ResNet-50-D", "2", "1", "0.50", "0.25"],
            )
        ),
        ["inference, 1 x 8 x 9, float32", "faster engine in float32: OpenVINO", "2", "2", "1.25", ""],
        ["inference, 1 x 8 x 9, float32", "faster engine in int8: ONNX Runtime", "2", "1", "0.50", ""],
    ]
    assert table_rows(speed_tables.engines_table()) == [
        ["inference, resnest50, 1 x 8 x 9, float32", "2", "3", "2", "1", "2"]
    ]


def test_the_table_of_choices_has_each_network_with_its_cost_and_published_metrics():
    rows = named_rows(speed_tables.choosing_table())
    assert list(rows) == list(VARIANTS)
    parameters, multiply_adds, milliseconds, kept, top1, faster, cascade, ade20k = rows["resnest50"]
    assert (parameters, multiply_adds, top1) == ("27.5", "5.4", "81.03")
    assert (faster, cascade, ade20k) == ("42.33", "46.19 / 39.55", "45.12")
    assert float(milliseconds) > 0 and float(kept) > 0
