"""The smoke data: what both frameworks load of it with the recipes' own configs."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from resnest_backbones import model_zoo
from resnest_backbones.model_zoo import RECIPES
from tests.helpers import environment
from tests.reproduction.smoke_data import NUM_IMAGES

# What Detectron2's own catalogue, mapper and metadata make of the data root in the environment. In a process of its
# own, because the catalogue reads that variable when it is imported.
LOAD_WITH_DETECTRON2 = """
import json
import numpy as np
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.dataset_mapper import DatasetMapper
from resnest_backbones import model_zoo

found = {"sets": {}}
for recipe in ("mask_rcnn_resnest50_fpn_1x", "panoptic_fpn_resnest200_3x_tricks",
            "mask_cascade_rcnn_resnest200_dcnv2_fpn_3x_all_tricks_test_dev"):
    cfg = model_zoo.get_config(recipe)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        dicts = DatasetCatalog.get(name)
        mapped = [DatasetMapper(cfg, True)(d) for d in dicts if d["annotations"]]
        found["sets"][name] = {
            "images": len(dicts),
            "classes": sorted({int(c) for m in mapped for c in m["instances"].gt_classes}),
            "masks": sum(int(m["instances"].gt_masks.area().gt(0).sum()) for m in mapped),
            "stuff": sorted({int(v) for m in mapped if "sem_seg" in m for v in np.unique(m["sem_seg"])}),
            "names": len(MetadataCatalog.get(name).thing_classes),
        }
print("RESULT " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded_by_detectron2(smoke_root) -> dict:
    pytest.importorskip("detectron2")
    variables = {**environment(), "DETECTRON2_DATASETS": str(smoke_root)}
    run = subprocess.run([sys.executable, "-c", LOAD_WITH_DETECTRON2], env=variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.split("RESULT ")[1])


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", ["", "_panoptic_separated"])
def test_detectron2_trains_on_coco(loaded_by_detectron2, split, kind):
    found = loaded_by_detectron2["sets"][f"coco_2017_{split}{kind}"]
    assert found["images"] == NUM_IMAGES[split] and found["names"] == 80
    assert len(found["classes"]) > 3 and max(found["classes"]) <= 79
    assert found["masks"] >= NUM_IMAGES[split]
    if kind:
        assert {0, 255} < set(found["stuff"]) and len(found["stuff"]) > NUM_IMAGES[split]
        assert set(found["stuff"]) <= {*range(54), 255}


def test_detectron2_reads_the_images_of_test_dev(loaded_by_detectron2):
    assert loaded_by_detectron2["sets"]["coco_2017_test-dev"]["images"] == NUM_IMAGES["val"]


def test_panoptic_maps_and_annotations_agree(smoke_root):
    for split, count in NUM_IMAGES.items():
        content = json.loads((smoke_root / f"coco/annotations/panoptic_{split}2017.json").read_text())
        assert len(content["annotations"]) == count and len(content["categories"]) == 133
        for annotation in content["annotations"]:
            rgb = np.asarray(Image.open(smoke_root / f"coco/panoptic_{split}2017" / annotation["file_name"]))
            ids, areas = np.unique(rgb.astype(int) @ [1, 256, 65536], return_counts=True)
            found = dict(zip(ids.tolist(), areas.tolist(), strict=True))
            assert found.pop(0) > 0  # not labelled
            assert found == {segment["id"]: segment["area"] for segment in annotation["segments_info"]}


@pytest.mark.parametrize(
    ("recipe", "folder", "last"),
    [
        ("deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480", "ade/ADEChallengeData2016", 149),
        ("fcn_resnest101-d8_4xb4-160k_ade20k-512x512", "ade/ADEChallengeData2016", 149),
        ("fcn_resnest50-d8_4xb4-paper_pascal_context_59-480x480", "VOCdevkit/VOC2010", 58),
        ("fcn_resnest101-d8_4xb2-80k_cityscapes-512x1024", "cityscapes", 18),
    ],
)
def test_mmsegmentation_trains_and_tests_on_it(smoke_root, recipe, folder, last):
    pytest.importorskip("mmseg")
    from mmseg.registry import DATASETS

    import resnest_backbones.mmseg  # noqa: F401  # registers the transforms
    from tests.mmseg.helpers import as_in_a_new_process

    assert recipe in RECIPES
    cfg = model_zoo.get_config(recipe)
    labels: set[int] = set()
    with as_in_a_new_process():
        for split, loader in (("train", cfg.train_dataloader), ("val", cfg.val_dataloader)):
            dataset = DATASETS.build({**loader.dataset, "data_root": str(smoke_root / folder), "_scope_": "mmseg"})
            samples = [dataset[index] for index in range(len(dataset))]
            assert len(samples) == NUM_IMAGES[split]
            labels |= {int(v) for s in samples for v in np.unique(s["data_samples"].gt_sem_seg.data)}
    assert 255 in labels and len(labels) > 5
    assert max(labels - {255}) <= last


def test_first_and_last_class_are_there(smoke_root):
    label_maps = {
        "ade/ADEChallengeData2016/annotations": (1, 150, 0),
        "VOCdevkit/VOC2010/SegmentationClassContext": (1, 59, 0),
        "cityscapes/gtFine": (0, 18, 255),
    }
    for folder, (first, last, none) in label_maps.items():
        files = list((smoke_root / folder).rglob("*.png"))
        found = np.unique(np.stack([np.asarray(Image.open(file)) for file in files]))
        assert len(files) == sum(NUM_IMAGES.values())
        assert {first, last, none} < set(found.tolist()) and set(found.tolist()) <= {none, *range(first, last + 1)}
