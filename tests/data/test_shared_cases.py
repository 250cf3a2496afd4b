"""Small datasets with the faults of real files, beside the checkout: each is used, or refused before a training."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_backbones.data import read_classes, read_image
from resnest_backbones.errors import DatasetError

USED, BOXES, REFUSED = "used", "used for boxes, refused by name for masks", "refused, naming the file and the reason"


def case_of(name: str, *, kind: str, what: str, outcome: str, words: str = ""):
    fault = pytest.mark.fault(f"{kind}: {what}", f"{outcome}: {words}" if words else outcome)
    return pytest.param(name, outcome, words, marks=fault, id=name)


def detection(name: str, what: str, outcome: str, words: str = ""):
    return case_of(name, kind="COCO json", what=what, outcome=outcome, words=words)


def segmentation(name: str, what: str, outcome: str, words: str = ""):
    return case_of(name, kind="label maps", what=what, outcome=outcome, words=words)


@pytest.fixture
def case(shared, request, tmp_path) -> Path:
    kind = "detection" if "detection" in request.function.__name__ else "segmentation"
    folder = shared / "cases" / kind / request.getfixturevalue("name")
    if not folder.is_dir():
        pytest.skip(f"the shared case {folder} is not there")
    links = [file for file in folder.rglob("b") if file.is_file()]  # which a copy may have made of links
    if links:
        folder = Path(shutil.copytree(folder, tmp_path / folder.name))
    for link in [folder / file.relative_to(shared / "cases" / kind / folder.name) for file in links]:
        target = link.read_text().strip()
        link.unlink()
        link.symlink_to(target)
    return folder


@pytest.mark.parametrize(
    ("name", "outcome", "words"),
    [
        detection("00_base", "nothing wrong, boxes", USED),
        detection("00_base_masks", "nothing wrong, masks", USED),
        detection("01_roboflow_ids_from_0", "annotation ids from 0", USED, "all were renumbered"),
        detection("02b_ignore_1", '"ignore": 1', USED, "treated as crowds"),
        detection("03a_iscrowd_null", "iscrowd is null", USED, "assumed to be 0"),
        detection("03b_area_null", "area is null", USED, "computed from the mask or the box"),
        detection("03b3_area_empty_list", "area is a list", REFUSED, "area that is not a number"),
        detection("03e_float_sizes", "width and height are floats", USED),
        detection("04a_exif_raw_size", "EXIF turns a photo, size of before", REFUSED, "after EXIF rotation"),
        detection("04b_swapped_no_exif", "width and height swapped", REFUSED, "a different size"),
        detection("04c_exif_turned_size", "EXIF turns a photo, size of after", USED),
        detection("05_flat_segmentation", "polygons as one flat list", USED, "read as polygons"),
        detection("06a_polygon_of_4", "polygons of four numbers", BOXES, "fewer than three points"),
        detection("06b_polygon_odd", "polygons of an odd count", BOXES, "odd number of coordinates"),
        detection("06d_val_polygon_of_4", "polygons of 4 numbers in validation only", BOXES, "fewer than three points"),
        detection("07c_rle_and_polygons", "run-length codes and polygons", USED, "MASK_FORMAT is set to bitmask"),
        detection("07d_rle_size_swapped", "run-length codes of another size", BOXES, "encoding's size is not"),
        detection("09b_ids_swapped", "classes in another order in validation", REFUSED, "their order differs"),
        detection("10_bom", "a byte order mark", USED),
        detection("11_16bit_images", "photos of 16 bits", USED),
        detection("12a_normalised_boxes", "boxes in 0..1", REFUSED, "between 0 and 1"),
        detection("12b_xyxy_boxes", "boxes as x0, y0, x1, y1", REFUSED, "x0, y0, x1, y1"),
        detection("12d_all_boxes_outside", "all boxes outside", REFUSED, "outside their images"),
        detection("13_dense", "150 objects in an image", USED),
        detection("14b_mixed_image_ids", "image ids of two types", REFUSED, "image ids are strings"),
        detection("22a_polygon_nan", "NaN in a polygon", BOXES, "NaN"),
        detection("22c_polygon_pairs", "polygons as pairs", USED, "read as polygons"),
    ],
)
def test_detection_cases(name, case, outcome, words, caplog):
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog

    from resnest_backbones.detectron2 import add_resnest_config
    from resnest_backbones.detectron2.custom_coco import use_custom_dataset
    from resnest_backbones.detectron2.engine.data import ImageMapper

    files = [str(case / part) for part in ("train.json", "images", "val.json", "images")]
    cfg = get_cfg()
    add_resnest_config(cfg)
    caplog.set_level(logging.INFO, "resnest_backbones")
    if outcome == REFUSED:
        with pytest.raises(DatasetError, match=words) as raised:
            use_custom_dataset(cfg, *files)
        assert str(case) in str(raised.value)
        return
    use_custom_dataset(cfg, *files)
    masked = any("segmentation" in a for d in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]) for a in d["annotations"])
    if outcome == BOXES or masked:
        cfg.MODEL.MASK_ON = True
    if outcome == BOXES:
        with pytest.raises(DatasetError, match=words):
            use_custom_dataset(cfg, *files)
        cfg.MODEL.MASK_ON = False
    use_custom_dataset(cfg, *files)
    assert words in caplog.text
    mapper, kept = ImageMapper(cfg, is_train=True), 0
    for sample in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]):
        found = mapper(sample)
        assert found["image"].float().std() > 0 or not name.startswith("11"), "16 bits were cut off"
        kept += len(found["instances"])
    assert kept == {"02b_ignore_1": 3, "04c_exif_turned_size": 6, "13_dense": 150}.get(name, 4), "objects were dropped"


@pytest.mark.parametrize(
    ("name", "outcome", "words"),
    [
        segmentation("00_base", "nothing wrong", USED),
        segmentation("01a_binary_0_255", "maps of 0 and 255, one class", REFUSED, "every pixel"),
        segmentation("01b_binary_0_255_two_classes", "maps of 0 and 255", REFUSED, "every pixel"),
        segmentation("01c_labels_from_0", "labels from 0", USED, "add 1 to all labels"),
        segmentation("02a_some_tif", "photos as .tif", USED),
        segmentation("03a_symlinked_subfolder", "a sub-folder is a link", USED),
        segmentation(
            "04a_exif_map_of_raw", "EXIF turns a photo, not its map", REFUSED, "the height and width of its image"
        ),
        segmentation("06d_rgb", "maps as RGB", REFUSED, "must have one channel"),
        segmentation("06i_uppercase", "names in capitals", USED),
        segmentation("09_16bit_photos", "photos of 16 bits", USED),
        segmentation("20_one_class", "one class", REFUSED, "list the background too"),
        segmentation("22_nested_val", "images in sub-folders", USED),
    ],
)
def test_segmentation_cases(name, case, outcome, words):
    pytest.importorskip("mmseg")
    from resnest_backbones.mmseg.datasets import LabelMapDataset, check_custom_dataset
    from resnest_backbones.predict.evaluate import label_map_pairs

    classes = read_classes(case / "classes.txt")
    settings = [
        {"data_root": str(case), "data_prefix": {"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"}}
        for split in ("training", "validation")
    ]
    if outcome == REFUSED:  # in training, testing and visualize.py
        for split in ("training", "validation") if name != "04a_exif_map_of_raw" else ("training",):
            with pytest.raises(DatasetError, match=words):
                check_custom_dataset({"type": "LabelMapDataset", **settings[split == "validation"]})
            with pytest.raises(DatasetError, match=words):
                label_map_pairs(case / "images" / split, case / "annotations" / split, classes)
        return
    steps = [{"type": "mmseg.LoadImageFromFile"}, {"type": "mmseg.LoadCheckedAnnotations"}]
    for given, split in zip(settings, ("training", "validation"), strict=True):
        _, lines = check_custom_dataset({"type": "LabelMapDataset", **given})
        assert any(words in line for line in lines) if words else lines == []
        dataset = LabelMapDataset(**given, pipeline=steps)
        pairs, _ = label_map_pairs(case / "images" / split, case / "annotations" / split, classes)
        assert [str(image) for image, _ in pairs] == [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
        assert len(dataset) == {"training": 6 if name.startswith("03a") else 4, "validation": 2}[split]
        for sample, (image, label_map) in zip(dataset, pairs, strict=True):
            np.testing.assert_array_equal(sample["img"][..., ::-1], read_image(image))
            assert sample["img"].std() > 0
            raw = np.asarray(Image.open(label_map)).astype(int)
            np.testing.assert_array_equal(sample["gt_seg_map"], np.where((raw == 0) | (raw == 255), 255, raw - 1))


@pytest.mark.parametrize("name", ["21_class_files"])
@pytest.mark.fault(
    "class files with comments, a byte order mark, CRLF; of Latin-1", "read by every tool; refused by name"
)
def test_detection_class_files(name, case):
    for kind in ("plain", "comment", "bom", "crlf"):
        assert read_classes(case / f"{kind}.txt") == ("cell", "platelet")
    with pytest.raises(DatasetError, match=r"latin1.txt is not UTF-8 text: .*; save it as UTF-8"):
        read_classes(case / "latin1.txt")
