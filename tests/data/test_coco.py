"""COCO files with the faults of annotation tools: what is filled in, what is refused, and what is said."""

import json
import math
import multiprocessing
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")

from pycocotools import mask as coco_mask

from resnest_backbones.data.coco import read_coco_json
from resnest_backbones.data.coco_masks import _decode_counts
from resnest_backbones.errors import DatasetError
from tests.data.coco import POLYGON, RLE, every, first, write, write_images


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_images(tmp_path)


def test_a_sound_file_stays_as_it_is(folder):
    file = write(folder)
    content, notes, changed = read_coco_json(file, folder)
    assert notes == [] and not changed and content == json.loads(file.read_text())


@pytest.mark.parametrize(
    ("change", "note", "key", "value"),
    [
        (lambda c: [a.update(id=a["id"] - 1) for a in c["annotations"]], "1 annotation ids are not positive", "id", 1),
        (every(id="x1"), "not unique", None, None),
        (first(id="x1"), "all were renumbered: x1", "id", 1),
        (first(id=7.0), "", "id", 7),
        (lambda c: c["annotations"][0].pop("id"), "all were renumbered: None", "id", 1),
        (first(ignore=1), r'marked "ignore": treated as crowds: 1', "iscrowd", 1),
        (first(ignore=None), "", "iscrowd", 0),
        (every(iscrowd=None), "4 annotations lack iscrowd: assumed to be 0: 1, 2, 3 and 1 more", "iscrowd", 0),
        (first(iscrowd=True), "", "iscrowd", 1),
        (first(iscrowd="0"), r"iscrowd that is not 0 or 1: 1 \('0'\)", None, None),
        (first(area=None), "1 annotations lack area: computed", "area", 480.0),
        (first(area=None, segmentation=RLE), "lack area", "area", 64.0),
        (first(area=None, segmentation=[]), "lack area", "area", 480.0),
        (every(area=[]), r"4 annotations have an area that is not a number .*: 1 \(\[\]\)", None, None),
        (first(area=math.nan), r"area that is not a number .*: 1 \(nan\)", None, None),
        (first(area=-5), r"area that is not a number .*: 1 \(-5\)", None, None),
        (first(area=1e11), r"area that is not a number .*: 1 \(100000000000.0\)", None, None),
        (first(area=False), r"area that is not a number .*: 1 \(False\)", None, None),
        (first(area=None, segmentation=[[10, 8] * 3]), "lack area", "area", 0.0),
        (first(ignore="0"), r"ignore that is not 0 or 1: 1 \('0'\)", None, None),
        (first(keypoints=["a"]), "keypoints are not a list of numbers: left out: 1", "id", 1),
        (first(id=10**20), "all were renumbered: 100000000000000000000", "id", 1),
        (first(id=True), "all were renumbered: True", "id", 1),
        (first(id=2), "annotation ids are not unique: 2", None, None),
        (first(image_id=1.0, category_id=1.0), "", "image_id", 1),
        (first(image_id="1"), r"image_id that is not in the file: 1 \(image_id '1'\)", None, None),
        (first(category_id=True), r"category_id that is not in the file: 1 \(category_id True\)", None, None),
    ],
)
@pytest.mark.fault(
    "COCO json: ids, iscrowd, ignore, area, keypoints of other types and values", "filled in and counted, or refused"
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
        (lambda c: c["images"][0].update(id="one"), "1 image ids are strings, while others are numbers: one"),
        (lambda c: c["images"][0].update(id=1.5), r"1 images have no id \(an integer or a string\): a.jpg"),
        (lambda c: c["images"][0].update(id=2), "image ids are not unique: 2"),
        (lambda c: c["images"][0].update(file_name=7), "1 images have no file_name: 1"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "1 of 2 images are not in .*: gone.jpg"),
        (lambda c: c["images"][0].update(file_name="."), r"1 of 2 images are not in .*: \."),
        (
            lambda c: c["images"][0].update(width="96"),
            r"width or height that is not a positive integer: 1 \('96' x 64\)",
        ),
        (lambda c: c["images"][0].update(height=0), r"width or height .*: 1 \(96 x 0\)"),
        (lambda c: c["images"][0].update(width=64, height=96), r"a.jpg \(is 96 x 64, listed 64 x 96\)"),
        (lambda c: c["categories"][0].update(name="y"), "1 category names are not unique: y"),
        (lambda c: c["categories"][0].update(id=True), "1 categories lack an integer id or a name: x"),
        (lambda c: c["categories"][0].update(name=None), "1 categories lack an integer id or a name: 1"),
        (lambda c: c["categories"][0].update(id=2), "1 category ids are not unique: 2"),
        (lambda c: c.pop("annotations"), "no list of objects 'annotations'"),
        (lambda c: c.update(images=[]), "has no images"),
        (lambda c: c.update(categories=[]), "has no categories"),
        (every(bbox=[0.1, 0.1, 0.5, 0.5]), "4 boxes lie between 0 and 1, .*: multiply them by width and height"),
        (every(bbox=[50, 30, 80, 54]), "4 boxes extend beyond .* would fit as x0, y0, x1, y1"),
        (every(bbox=[500, 8, 24, 20]), "4 boxes lie outside their images: 1, 2, 3 and 1 more"),
        (every(bbox=[10, 8, 0, 20]), "4 boxes have no width or no height"),
        (first(bbox=[10, 8, math.inf, 20]), "no bbox of four numbers"),
        (first(bbox=[10, 8, 24, 10**400]), "no bbox of four numbers"),
        (first(bbox=[10, 8, 24]), "no bbox of four numbers"),
        (first(bbox=None), "no bbox of four numbers"),
        (first(bbox=[34, 28, -24, -20]), "1 boxes have a negative width or height: 1"),
        (
            lambda c: [a.update(bbox=[0.1, 0.1, 0.5, 0.5]) for a in c["annotations"][:3]],
            "3 boxes lie between 0 and 1, .*: multiply them by width and height: 1, 2, 3",
        ),
        (
            lambda c: (
                c["annotations"].extend(
                    {**c["annotations"][0], "id": n, "bbox": [50, 30, 80, 54] if n < 44 else [9, 9, 9, 20]}
                    for n in range(5, 45)
                )
                or every(bbox=[50, 30, 80, 54])(c)
            ),
            "would fit as x0, y0, x1, y1",
        ),
    ],
)
@pytest.mark.fault(
    "COCO json: images, categories and boxes whose values cannot be meant", "refused with count and first ids"
)
def test_values_that_cannot_be_meant_are_refused(folder, change, message):
    file = write(folder, change)
    with pytest.raises(DatasetError, match=message) as raised:
        read_coco_json(file, folder)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("box", "note"),
    [
        ([500, 8, 24, 20], "1 boxes lie outside their images and are not used for training: 1"),
        ([10, 8, 0, 20], "1 boxes have no width or no height and are not used for training: 1"),
        ([80, 8, 24, 20], "1 boxes extend beyond their images: they are clipped: 1"),
        ([-5, 8, 24, 20], "1 boxes extend beyond their images: they are clipped: 1"),
        ([0.1, 0.2, 0.3, 0.9], "1 boxes lie between 0 and 1, like fractions of the image would: 1"),
    ],
)
@pytest.mark.fault("COCO json: boxes outside, beyond or of no size beside others", "counted in a line")
def test_a_box_among_others_is_counted(folder, box, note):
    assert read_coco_json(write(folder, first(bbox=box, segmentation=[])), folder)[1] == [note]


@pytest.mark.parametrize(
    ("mask", "read_as", "note"),
    [
        (POLYGON, [POLYGON], "one flat list or pairs of coordinates"),
        ([[10, 8], [34, 8], [34, 28], [10, 28]], [POLYGON], "one flat list or pairs of coordinates"),
        ([[[10, 8], [34, 8], [34, 28], [10, 28]]], [POLYGON], "one flat list or pairs of coordinates"),
        ([POLYGON, [1, 2, 3, 4]], [POLYGON], "unusable polygon next to valid ones: it is left out"),
        ([[1, 2, 3, 4]], [], "fewer than three points"),
        ([[10, 8, 34, 8, 34, 28, 10]], [], "an odd number of coordinates"),
        ([[10, 8, math.nan, 8, 34, 28]], [], "a coordinate is NaN or infinite"),
        ([POLYGON, [10, 8, math.inf, 8, 34, 28]], [], "a coordinate is NaN or infinite"),
        ([[10, 8, 2e8, 8, 34, 28]], [], "a coordinate is far outside the image"),
        ([["10", "8", "34", "8", "34", "28"]], [], "a polygon is not a list of numbers"),
        ([POLYGON, None], [POLYGON], "unusable polygon next to valid ones: it is left out"),
        ([[10, 8, True, 8, 34, 28]], [], "a polygon is not a list of numbers"),
        ([[10, 8], [34, 8]], [], "fewer than three points"),
        ([[10, 8, 10**400, 8, 34, 28]], [], "a coordinate is far outside the image"),
        ([[0, 0, 95, 63] * 20000], [], "the outline is longer than 1000000 pixels"),
        ([[0, 0, 95, 63, 0, 63]] * 20000, [], "the outline is longer than 1000000 pixels"),
        (7, [], "neither a list of polygons nor a run-length encoding"),
        ("10,8,34,8", [], "neither a list of polygons nor a run-length encoding"),
        ({**RLE, "size": [96, 64]}, [], r"size is not \[height, width\]"),
        ({"size": [64, 96]}, [], "lacks size or counts"),
        ({"size": [64, 96], "counts": [10, 20]}, [], "do not add up to the image"),
        ({"size": [64, 96], "counts": [64 * 96 + 1, -1]}, [], "are not lengths"),
        ({"size": [64, 96], "counts": ""}, [], "are not in COCO's format"),
        ({"size": [64, 96], "counts": "o" * 9 + "1"}, [], "are not in COCO's format"),
        ({"size": [64, 96], "counts": "PYn0"}, [], "do not add up to the image"),
        ({"size": "64x96", "counts": RLE["counts"]}, [], "lacks size or counts"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, [], r"size is not \[height, width\]"),
        (None, None, None),
        ([], [], None),
        (RLE, RLE, None),
        ({"size": [64, 96], "counts": [10, 64 * 96 - 10]}, {"size": [64, 96], "counts": [10, 64 * 96 - 10]}, None),
    ],
)
@pytest.mark.fault("COCO json: segmentations of any form", "read, or counted with the reason; their boxes are kept")
def test_segmentations_are_read_or_named(folder, mask, read_as, note):
    content, notes, changed = read_coco_json(write(folder, first(segmentation=mask)), folder)
    assert content["annotations"][0]["segmentation"] == read_as and changed == (note is not None)
    assert len(notes) == (note is not None)
    if note:
        assert re.search(f"1 segmentations .*{note}.*: 1", notes[0])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.fault("COCO json: UTF-8 and UTF-16 with a byte order mark", "read")
def test_byte_order_marks_are_taken(folder, encoding):
    file = write(folder)
    file.write_text(file.read_text(), encoding=encoding)
    content, notes, changed = read_coco_json(file, folder)
    assert content["images"] and notes == [] and changed, "Detectron2 does not read such files"


def test_sizes_of_floats_are_taken_and_those_of_turned_images_are_after_the_turn(folder):
    turn = Image.Exif()
    turn[0x0112] = 6
    Image.new("RGB", (96, 64)).save(folder / "a.jpg", exif=turn)
    with pytest.raises(DatasetError, match=r"a.jpg \(is 64 x 96 after EXIF rotation, 96 x 64 before, listed 96 x 64\)"):
        read_coco_json(write(folder), folder)
    assert read_coco_json(write(folder, lambda c: c["images"][0].update(width=64.0, height=96.0)), folder)[0]["images"]


def test_a_super_category_of_the_same_name_is_left_out(folder):
    file = write(folder, lambda c: c["categories"].append({"id": 0, "name": "x"}))
    content, (note,), _ = read_coco_json(file, folder)
    assert [c["id"] for c in content["categories"]] == [1, 2] and "no annotations: left out: 0" in note


@pytest.mark.parametrize("mask", [[[10, 8] * 4], [[60, 40, 80, 40, 80, 50]], {"size": [64, 96], "counts": [64 * 96]}])
@pytest.mark.fault("COCO json: segmentations apart from their boxes, or of no area", "counted; no masks where all are")
def test_segmentations_without_an_area_in_their_boxes_are_counted(folder, mask):
    content, notes, changed = read_coco_json(write(folder, first(segmentation=mask)), folder)
    assert notes == ["1 segmentations have no area in their boxes, and give no mask: 1"] and not changed

    def fractions(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = [[0.1, 0.2, 0.3, 0.2, 0.3, 0.4]]

    content, notes, changed = read_coco_json(write(folder, fractions), folder)
    assert changed and all(annotation["segmentation"] == [] for annotation in content["annotations"])
    assert notes == ["4 segmentations cannot be used: none has an area in its box: 1, 2, 3 and 1 more"]


def test_run_length_codes_are_decoded_as_pycocotools_does():
    chance = np.random.default_rng(0)
    for number in range(200):
        height, width = chance.integers(1, 40, 2)
        mask = (chance.random((height, width)) < number / 200).astype(np.uint8)
        code = coco_mask.encode(np.asfortranarray(mask))
        runs = _decode_counts(code["counts"].decode())
        again = coco_mask.decode(coco_mask.frPyObjects({"size": code["size"], "counts": runs}, height, width))
        assert sum(runs) == height * width and np.array_equal(again, mask)


def test_sizes_of_codes_that_are_floats_are_taken(folder):
    content, notes, changed = read_coco_json(write(folder, first(segmentation={**RLE, "size": [64.0, 96.0]})), folder)
    assert changed and notes == [] and content["annotations"][0]["segmentation"]["size"] == [64, 96]
    assert all(type(side) is int for side in content["annotations"][0]["segmentation"]["size"])


def test_images_that_are_listed_twice_are_counted(folder):
    file = write(folder, lambda c: c["images"].append({**c["images"][0], "id": 9}))
    assert read_coco_json(file, folder)[1] == ["1 image files are listed more than once: a.jpg"]


def test_ids_of_any_size_and_gaps_are_taken(folder):
    def change(content):
        for image, key in zip(content["images"], (0, 20200825123456789), strict=True):
            image["id"] = key
        for annotation in content["annotations"]:
            annotation.update(image_id=(0, 20200825123456789)[annotation["id"] > 2], category_id=-7)
        content["categories"] = [{"id": 900, "name": "y"}, {"id": -7, "name": "x"}]

    assert read_coco_json(write(folder, change), folder)[1:] == ([], False)


@pytest.mark.parametrize("text", ["[" * 100_000, "{" + '"images": [' * 50_000, '{"images": [NaN', "1" * 5000])
@pytest.mark.fault("COCO json: cut short, or nested without end", "refused in one line that names the file")
def test_nested_and_cut_jsons_are_no_json(folder, text):
    (folder / "train.json").write_text(text)
    with pytest.raises(DatasetError, match="train.json is not (JSON|a COCO instances file)"):
        read_coco_json(folder / "train.json", folder)


def read_within(size: int, file: Path, folder: Path, connection) -> None:
    """Send the notes of a check that has so many more bytes of memory than this process has now."""
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + size, own + size))
    connection.send(read_coco_json(file, folder)[1])


@pytest.mark.fault("COCO json: what takes any memory in pycocotools", "read within 1 GB, what cannot be used is named")
def test_memory_is_bounded_whatever_a_file_holds(folder):
    Image.new("1", (8000, 6000)).save(folder / "a.png")
    risky = [
        [[0, 0, math.nan, 0, 5, 5]], [[0, 0, 2e8, 0, 5, 5]], [[0, 0, 7999, 5999] * 50_000],
        [[0, 0, 7999, 5999, 0, 5999]] * 50_000, {"size": [6000, 8000], "counts": "o" * 100_000 + "1"},
        {"size": [60_000_000, 80_000_000], "counts": "0"}, {"size": [6000, 8000], "counts": [1 << 62, 5]},
        [[0, 0, 7999, 0, 7999, 5999, 0, 5999]],
    ]  # fmt: skip

    def change(content):
        content["images"][0].update(file_name="a.png", width=8000, height=6000)
        one = content["annotations"][0]
        content["annotations"] = [
            {**one, "id": n, "area": None, "segmentation": mask} for n, mask in enumerate(risky, start=1)
        ]

    receiver, sender = multiprocessing.Pipe(duplex=False)
    arguments = (1 << 30, write(folder, change), folder, sender)
    process = multiprocessing.get_context("fork").Process(target=read_within, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0 and receiver.poll()
    notes = [note for note in receiver.recv() if "segmentations cannot be used" in note]
    assert len(notes) == 6 and any("longer than 1000000 pixels: 3, 4" in note for note in notes)
