"""COCO files with the faults of annotation tools: what is filled in, what is refused, and what is said."""

import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

pytest.importorskip("detectron2")

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from resnest_backbones.data.coco import read_coco_json
from resnest_backbones.detectron2 import add_resnest_config
from resnest_backbones.detectron2.custom_coco import check_coco_json, register_custom_coco, use_custom_dataset
from resnest_backbones.errors import DatasetError

POLYGON = [10, 8, 34, 8, 34, 28, 10, 28]
RLE = coco_mask.encode(np.asfortranarray(np.eye(64, 96, dtype=np.uint8)))
RLE["counts"] = RLE["counts"].decode()


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a", "b"):
        Image.new("RGB", (96, 64)).save(tmp_path / f"{name}.jpg")
    return tmp_path


def write(folder: Path, change=lambda content: None, name: str = "train.json") -> Path:
    """Two images with two annotations each, changed."""
    images = [{"id": i, "file_name": f"{n}.jpg", "width": 96, "height": 64} for i, n in ((1, "a"), (2, "b"))]
    one = {"category_id": 1, "bbox": [10, 8, 24, 20], "area": 480, "iscrowd": 0, "segmentation": [POLYGON]}
    other = {**one, "category_id": 2, "bbox": [50, 30, 30, 24], "area": 720}
    annotations = [{"id": n + 1, "image_id": 1 + n // 2, **(other if n % 2 else one)} for n in range(4)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
    }
    change(content)
    file = folder / name
    file.write_text(json.dumps(content))
    return file


def every(**values):
    return lambda content: [annotation.update(values) for annotation in content["annotations"]]


def first(**values):
    return lambda content: content["annotations"][0].update(values)


def test_a_sound_file_stays_as_it_is(folder):
    file = write(folder)
    content, notes, changed = read_coco_json(file, folder)
    assert notes == [] and not changed and content == json.loads(file.read_text())


@pytest.mark.parametrize(
    ("change", "note", "key", "value"),
    [
        (lambda c: [a.update(id=a["id"] - 1) for a in c["annotations"]], "1 annotation ids are not positive", "id", 1),
        (every(id="x1"), "not unique", None, None),
        (first(id="x1"), "all were numbered anew: x1", "id", 1),
        (first(id=7.0), "", "id", 7),
        (lambda c: c["annotations"][0].pop("id"), "all were numbered anew: None", "id", 1),
        (first(ignore=1), r'to be ignored \("ignore"\): taken as crowds: 1', "iscrowd", 1),
        (first(ignore=None), "", "iscrowd", 0),
        (every(iscrowd=None), "4 annotations lack iscrowd: taken as 0: 1, 2, 3 and 1 more", "iscrowd", 0),
        (lambda c: c["annotations"][0].pop("iscrowd"), "1 annotations lack iscrowd", "iscrowd", 0),
        (first(iscrowd=True), "", "iscrowd", 1),
        (first(iscrowd="0"), r"iscrowd that is not 0 or 1: 1 \('0'\)", None, None),
        (first(area=None), "1 annotations lack area: computed", "area", 480.0),
        (first(area=None, segmentation=RLE), "lack area", "area", 64.0),
        (first(area=None, segmentation=[]), "lack area", "area", 480.0),
        (first(area="480"), r"area that is not a number: 1 \('480'\)", None, None),
        (every(area=[]), r"4 annotations have an area that is not a number: 1 \(\[\]\)", None, None),
        (first(area=math.nan), r"area that is not a number: 1 \(nan\)", None, None),
        (first(image_id=1.0, category_id=1.0), "", "image_id", 1),
    ],
)
def test_what_cocos_rules_determine_is_filled_in_and_the_rest_is_named(folder, change, note, key, value):
    file = write(folder, change)
    if key is None:
        with pytest.raises(DatasetError, match=note):
            read_coco_json(file, folder)
        return
    content, notes, changed = read_coco_json(file, folder)
    assert changed and content["annotations"][0][key] == value
    assert type(content["annotations"][0][key]) is type(value)
    assert "ignore" not in content["annotations"][0]
    if note:
        assert re.search(note, "; ".join(notes))
    else:
        assert notes == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(id="one"), "1 image ids are strings, and the others numbers: one"),
        (lambda c: c["images"][0].update(id=1.5), "lack id, file_name, width or height: 1.5"),
        (lambda c: c["images"][0].update(width=64, height=96), r"a.jpg \(is 96 x 64, listed 64 x 96\)"),
        (lambda c: c["categories"][0].update(name="y"), "1 category names are not unique: y"),
        (lambda c: c["categories"][0].update(id=True), "lacks an integer id or a name"),
        (every(bbox=[0.1, 0.1, 0.5, 0.5]), "4 boxes lie between 0 and 1, .*: multiply them by width and height"),
        (every(bbox=[50, 30, 80, 54]), "4 boxes reach beyond .* all would fit as x0, y0, x1, y1"),
        (every(bbox=[500, 8, 24, 20]), "4 boxes lie outside their images: 1, 2, 3 and 1 more"),
        (every(bbox=[10, 8, 0, 20]), "4 boxes have no width or no height"),
        (first(bbox=[10, 8, 24, True]), "no bbox of four numbers"),
        (first(bbox=None), "no bbox of four numbers"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(folder, change, message):
    file = write(folder, change)
    with pytest.raises(DatasetError, match=message) as raised:
        check_coco_json(file, folder)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("box", "note"),
    [
        ([500, 8, 24, 20], "1 boxes lie outside their images and are not trained on: 1"),
        ([10, 8, 0, 20], "1 boxes have no width or no height and are not trained on: 1"),
        ([80, 8, 24, 20], "1 boxes reach beyond their images: they are cut off: 1"),
    ],
)
def test_a_box_among_others_is_counted(folder, box, note):
    assert read_coco_json(write(folder, first(bbox=box)), folder)[1] == [note]


@pytest.mark.parametrize(
    ("mask", "read_as", "note"),
    [
        (POLYGON, [POLYGON], "one flat list or as pairs"),
        ([[10, 8], [34, 8], [34, 28], [10, 28]], [POLYGON], "one flat list or as pairs"),
        ([[[10, 8], [34, 8], [34, 28], [10, 28]]], [POLYGON], "one flat list or as pairs"),
        ([POLYGON, [1, 2, 3, 4]], [POLYGON], "beside others: it is left out"),
        ([[1, 2, 3, 4]], [], "fewer than three points"),
        ([[]], [], "fewer than three points"),
        ([[10, 8, 34, 8, 34, 28, 10]], [], "an odd number of coordinates"),
        ([[10, 8, math.nan, 8, 34, 28]], [], "a coordinate is NaN or infinite"),
        ([POLYGON, [10, 8, math.inf, 8, 34, 28]], [], "a coordinate is NaN or infinite"),
        ([10, 8, math.nan, 8, 34, 28], [], "a coordinate is NaN or infinite"),
        ([[10, 8, 2e8, 8, 34, 28]], [], "a coordinate is far outside the image"),
        ([["10", "8", "34", "8", "34", "28"]], [], "a polygon is not a list of numbers"),
        ([None], [], "a polygon is not a list of numbers"),
        ("10,8,34,8", [], "neither a list of polygons nor a run-length code"),
        ({**RLE, "size": [96, 64]}, [], r"another size than \[height, width\]"),
        ({"size": [64, 96]}, [], "lacks size or counts"),
        ({"size": [64, 96], "counts": [10, 20]}, [], "do not add up to the image"),
        ({"size": [64, 96], "counts": [64 * 96 + 1, -1]}, [], "are not lengths"),
        ({"size": [64, 96], "counts": " ~"}, [], "are not COCO's"),
        (None, None, None),
        (RLE, RLE, None),
        ({"size": [64, 96], "counts": [10, 64 * 96 - 10]}, {"size": [64, 96], "counts": [10, 64 * 96 - 10]}, None),
    ],
)
def test_segmentations_are_read_or_named(folder, mask, read_as, note):
    content, notes, changed = read_coco_json(write(folder, first(segmentation=mask)), folder)
    assert content["annotations"][0]["segmentation"] == read_as and changed == (note is not None)
    assert len(notes) == (note is not None)
    if note:
        assert re.search(f"1 segmentations .*{note}.*: 1", notes[0])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_taken(folder, encoding):
    file = write(folder)
    file.write_text(file.read_text(), encoding=encoding)
    assert check_coco_json(file, folder).num_images == 2


def test_sizes_of_floats_are_taken_and_those_of_turned_images_are_after_the_turn(folder):
    turn = Image.Exif()
    turn[0x0112] = 6
    Image.new("RGB", (96, 64)).save(folder / "a.jpg", exif=turn)
    with pytest.raises(DatasetError, match=r"a.jpg \(is 64 x 96 after its EXIF turn, 96 x 64 before, listed 96 x 64\)"):
        check_coco_json(write(folder), folder)
    assert (
        check_coco_json(write(folder, lambda c: c["images"][0].update(width=64.0, height=96.0)), folder).num_images == 2
    )


def test_a_super_category_of_the_same_name_is_left_out(folder):
    file = write(folder, lambda c: c["categories"].append({"id": 0, "name": "x"}))
    content, (note,), _ = read_coco_json(file, folder)
    assert [c["id"] for c in content["categories"]] == [1, 2] and "no annotations: left out: 0" in note


def test_detectron2_reads_what_was_filled_in(folder, caplog):
    file = write(folder, lambda c: [a.update(id=a["id"] - 1, iscrowd=None, ignore=0) for a in c["annotations"]])
    with caplog.at_level(logging.INFO, "resnest_backbones"):
        train, val, _ = register_custom_coco(file, folder, file, folder)
    assert train == val and "is used for training and for validation" in caplog.text
    assert f"{file}: 2 images, 0 of them without objects; 4 objects of 2 classes" in caplog.text
    assert [a["iscrowd"] for d in DatasetCatalog.get(train) for a in d["annotations"]] == [0] * 4
    assert MetadataCatalog.get(train).json_file != str(file)
    assert json.loads(file.read_text())["annotations"][0]["id"] == 0


def test_boxes_of_unusable_masks_are_kept_for_boxes_and_refused_for_masks(folder):
    file = write(folder, first(segmentation=[[10, 8, math.nan, 8, 34, 28]]))
    cfg = get_cfg()
    add_resnest_config(cfg)
    use_custom_dataset(cfg, str(file), str(folder), str(file), str(folder))
    assert sum(len(d["annotations"]) for d in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 4
    cfg.MODEL.MASK_ON = True
    with pytest.raises(DatasetError, match=r"1 annotations of .*train.json have no segmentation .*: 1; .*NaN"):
        use_custom_dataset(cfg, str(file), str(folder), str(file), str(folder))
    coded = write(folder, first(segmentation=RLE), "coded.json")
    use_custom_dataset(cfg, str(coded), str(folder), str(coded), str(folder))
    assert cfg.INPUT.MASK_FORMAT == "bitmask"


REFUSED = {
    "04a_exif_raw_size": "after its EXIF turn",
    "04b_swapped_no_exif": "another size",
    "12a_normalised_boxes": "between 0 and 1",
    "12b_xyxy_boxes": "x0, y0, x1, y1",
    "12d_all_boxes_outside": "outside their images",
    "14b_mixed_image_ids": "image ids are strings",
    "03b3_area_empty_list": "area that is not a number",
}
WITH_MASKS = {
    "06a_polygon_of_4": "fewer than three points",
    "06b_polygon_odd": "odd number of coordinates",
    "06d_val_polygon_of_4": "fewer than three points",
    "07d_rle_size_swapped": "another size",
    "22a_polygon_nan": "NaN",
}


def test_the_shared_cases_are_taken_or_refused_before_a_training(shared):
    root = shared / "cases" / "detection"
    if not root.is_dir():
        pytest.skip("the shared cases are not there")
    refused, maskless = {}, {}
    for case in sorted(path for path in root.iterdir() if (path / "train.json").is_file()):
        try:
            _, _, source = register_custom_coco(
                case / "train.json", case / "images", case / "val.json", case / "images"
            )
        except DatasetError as error:
            refused[case.name] = str(error)
        else:
            maskless[case.name] = source.without_mask
    assert refused.keys() - {"09b_ids_swapped"} == REFUSED.keys()
    assert all(text in refused[name] for name, text in REFUSED.items())
    assert all(text in maskless[name] for name, text in WITH_MASKS.items())
    assert all(maskless[name] == "" for name in ("00_base_masks", "05_flat_segmentation", "22c_polygon_pairs"))
