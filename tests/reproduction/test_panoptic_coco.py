"""Label maps for panoptic FPN: equal to those of the smoke data, which are made another way, and read by Detectron2."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from reproduction.panoptic_coco import main, make_stuff_map, prepare, read_segment_ids
from resnest_backbones.errors import DatasetError
from tests.helpers import environment


@pytest.fixture
def coco(smoke_root, tmp_path) -> Path:
    """COCO as one downloads it: all but the label maps."""
    folder = tmp_path / "root" / "coco"
    shutil.copytree(smoke_root / "coco", folder, ignore=shutil.ignore_patterns("panoptic_stuff_*"))
    return folder


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: np.asarray(Image.open(file)) for file in sorted(folder.iterdir())}


@pytest.mark.parametrize(("split", "workers"), [("train", 1), ("val", 2)])
def test_label_maps_are_those_of_the_smoke_data_also_after_an_interruption(
    coco, smoke_root, monkeypatch, split, workers
):
    monkeypatch.setattr("reproduction.common._CHUNK", 1)  # so that two processes share four files
    expected = pixels(smoke_root / f"coco/panoptic_stuff_{split}2017")
    assert prepare(coco, split, workers=workers) == len(expected) > 3
    folder, name = coco / f"panoptic_stuff_{split}2017", "000000000002.png"
    (folder / name).unlink()
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert prepare(coco, split) == 1 and prepare(coco, split) == 0
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir() if file.name != name} == before
    found = pixels(folder)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == np.uint8 and np.array_equal(found[name], expected[name])
    assert {0, 255} < set(np.unique(np.stack(list(found.values()))))


def test_the_tool_prepares_what_detectron2_loads(coco, capsys):
    main(["--data-root", str(coco.parent), "--workers", "1", "--quiet"])
    assert "panoptic_stuff_val2017: 4 label maps written, 4 there" in capsys.readouterr().out
    program = """
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.dataset_mapper import DatasetMapper
from resnest_backbones import model_zoo
name = "coco_2017_val_panoptic_separated"
mapper = DatasetMapper(model_zoo.get_config("panoptic_fpn_resnest200_3x_tricks"), True)
labels = [int(v) for d in DatasetCatalog.get(name) for v in mapper(d)["sem_seg"].unique()]
stuff = MetadataCatalog.get(name).stuff_classes
print("FOUND", len(labels) > 8, 255 in labels, {v for v in labels if v != 255} <= set(range(len(stuff))))
"""
    variables = {**environment(), "DETECTRON2_DATASETS": str(coco.parent)}
    run = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert "FOUND True True True" in run.stdout, run.stderr


def test_large_segment_ids_and_pixels_of_none(tmp_path):
    ids = np.array([[0, 0xFFFFFF, 5], [5, 7, 65536]])
    segments = [{"id": 0xFFFFFF, "category_id": 92}, {"id": 5, "category_id": 90}, {"id": 65536, "category_id": 200}]
    assert make_stuff_map(ids, segments).tolist() == [[255, 1, 0], [0, 255, 53]]
    with pytest.raises(DatasetError, match="133, got 12"):
        make_stuff_map(ids, [{"id": 5, "category_id": 12}])
    Image.fromarray(np.array([[[1, 2, 3], [255, 255, 255]]], dtype=np.uint8)).save(tmp_path / "map.png")
    assert read_segment_ids(tmp_path / "map.png").tolist() == [[1 + 2 * 256 + 3 * 65536, 0xFFFFFF]]
    Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(DatasetError, match="grey.png must be an RGB image of 8 bits, got the mode L"):
        read_segment_ids(tmp_path / "grey.png")


JSON = "annotations/panoptic_val2017.json"
MAP = "panoptic_val2017/000000000002.png"


def change(coco: Path, spoil) -> None:
    content = json.loads((coco / JSON).read_text())
    spoil(content)
    (coco / JSON).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda coco: (coco / JSON).unlink(), r"panoptic_val2017\.json does not exist; from"),
        (lambda coco: (coco / JSON).write_text("{"), r"COCO's panoptic annotations, got"),
        (lambda coco: change(coco, lambda c: c["categories"].pop(0)), r"id 1 must be \('person', 1\) .*, got None"),
        (lambda coco: (coco / MAP).unlink(), r"each of the 4 annotated images, 1 are missing, such as 0+2\.png"),
        (lambda coco: shutil.rmtree(coco / "panoptic_val2017"), r"4 are missing"),
        (lambda coco: (coco / MAP).write_bytes(b"\x89PNG\r\n"), r"0+2\.png cannot be read as an image"),
        (lambda coco: change(coco, lambda c: c["annotations"][1].pop("segments_info")), r"annotation of .* is damaged"),
    ],
)
def test_what_is_wrong_is_named(coco, spoil, message):
    spoil(coco)
    with pytest.raises(SystemExit) as stopped:
        main(["--data-root", str(coco.parent), "--splits", "val", "--quiet", "--workers", "1"])
    error = str(stopped.value.code)
    assert "error: " in error and "\n" not in error and re.search(message, error), error
