"""Label maps for panoptic FPN: equal to those of the smoke data, which are made another way, and read by Detectron2."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog

from reproduction.panoptic_coco import main, make_stuff_map, prepare, read_segment_ids
from resnest_backbones import model_zoo
from resnest_backbones.errors import DatasetError
from tests.helpers import error_of


@pytest.fixture
def coco(smoke_root, tmp_path) -> Path:
    """COCO as one downloads it: all but the label maps."""
    folder = tmp_path / "root" / "coco"
    shutil.copytree(smoke_root / "coco", folder, ignore=shutil.ignore_patterns("panoptic_stuff_*"))
    return folder


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: np.asarray(Image.open(file)) for file in sorted(folder.iterdir())}


def test_label_maps_are_those_of_the_smoke_data_and_an_interrupted_preparation_goes_on(coco, smoke_root, monkeypatch):
    monkeypatch.setattr("reproduction.common._CHUNK", 1)  # so that two processes share four files
    expected, folder = pixels(smoke_root / "coco/panoptic_stuff_val2017"), coco / "panoptic_stuff_val2017"
    times = set()
    for written in (4, 1):
        assert prepare(coco, "val", workers=2) == written
        found = pixels(folder)
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name].dtype == np.uint8 and np.array_equal(found[name], expected[name])
        times.add((folder / "000000000001.png").stat().st_mtime_ns)
        (folder / "000000000002.png").unlink()
    assert len(times) == 1
    assert {0, 255} < set(np.unique(np.stack(list(found.values()))))


def test_the_tool_prepares_what_detectron2_loads(coco, tmp_path, monkeypatch, capsys):
    main(["--data-root", str(coco.parent), "--workers", "1", "--quiet"])
    assert "panoptic_stuff_val2017: 4 label maps written, 4 there" in capsys.readouterr().out
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    if (root := Path(metadata.sem_seg_root).parents[1]).is_absolute():
        pytest.skip(f"Detectron2 looks for data in {root}, not below the working directory")
    (tmp_path / root).symlink_to(coco.parent)
    monkeypatch.chdir(tmp_path)
    mapper = DatasetMapper(model_zoo.get_config("panoptic_fpn_resnest200_3x_tricks"), True)
    labels = {int(v) for d in DatasetCatalog.get(metadata.name) for v in mapper(d)["sem_seg"].unique()}
    assert len(labels) > 4 and 255 in labels
    assert {v for v in labels if v != 255} <= {*range(len(metadata.stuff_classes))}


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
        (lambda coco: (coco / MAP).write_bytes(b"\x89PNG\r\n"), r"0+2\.png cannot be read as an image"),
        (lambda coco: change(coco, lambda c: c["annotations"][1].pop("segments_info")), r"annotation of .* is damaged"),
    ],
)
def test_what_is_wrong_is_named(coco, spoil, message):
    spoil(coco)
    arguments = ["--data-root", coco.parent, "--splits", "val", "--quiet", "--workers", "1"]
    assert re.search(message, error_of(main, *arguments))
