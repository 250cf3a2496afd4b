"""The resumable training loader on real images, with Detectron2's own mapper and samplers; the evaluators."""

import importlib.util
import random
from itertools import islice

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.datasets import load_coco_json
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils.env import seed_all_rng

from resnest_backbones import model_zoo
from resnest_backbones.data import read_image
from resnest_backbones.detectron2.engine import train
from resnest_backbones.detectron2.engine.data import (
    ImageMapper,
    build_evaluator,
    build_resumable_train_loader,
    build_test_loader,
    build_train_loader_from_config,
    seeded,
    set_first_batch,
    use_image_mapper,
)
from resnest_backbones.errors import ConfigError
from tests.detectron2.trainings import CONFIG, parse
from tests.helpers import ODD_IMAGES, odd_image, subset_of_coco


@pytest.fixture(scope="module")
def dicts(shared, tmp_path_factory):
    root = shared / "data" / "coco_mini"
    file = subset_of_coco(
        root / "annotations" / "instances_train2017.json", tmp_path_factory.mktemp("coco") / "train.json", 12
    )
    return load_coco_json(str(file), str(root / "train2017"), "coco_mini_for_loader_tests")


@pytest.fixture(scope="module")
def mapper():
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 96)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    cfg.INPUT.CROP.ENABLED = True
    return DatasetMapper(cfg, is_train=True)


def test_the_mapper_is_detectron2s_own_on_photographs(dicts, mapper):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = cfg.INPUT.CROP.ENABLED = True
    for is_train in (True, False):
        for sample in dicts[:4]:
            with seeded(1):
                ours = ImageMapper(cfg, is_train=is_train)(sample)
            with seeded(1):
                theirs = DatasetMapper(cfg, is_train=is_train)(sample)
            assert ours.keys() == theirs.keys() and torch.equal(ours["image"], theirs["image"])
            if is_train:
                boxes = [found["instances"].gt_boxes.tensor for found in (ours, theirs)]
                assert torch.equal(*boxes) and len(boxes[0]) == len(ours["instances"].gt_masks)


def test_trainings_evaluations_and_predictions_see_the_same_pixels(tmp_path):
    files = [odd_image(name, tmp_path) for name in ODD_IMAGES]
    samples = [{"file_name": str(f), "width": w, "height": h, "annotations": []} for f, w, h in files]
    DatasetCatalog.register("odd_images", lambda: samples)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.SOLVER.IMS_PER_BATCH = ("odd_images",), ("odd_images",), 1
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.RANDOM_FLIP = (0,), 0, "none"
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = 0, False
    lazy = LazyCall(build_detection_test_loader)(
        dataset=samples, mapper=LazyCall(DatasetMapper)(is_train=False, augmentations=[], image_format="BGR")
    )
    loaders = (
        build_train_loader_from_config(cfg),
        build_test_loader(cfg, "odd_images"),
        instantiate(use_image_mapper(lazy)),
    )
    for loader in loaders:
        seen = {d["file_name"]: d["image"] for batch in islice(loader, len(samples)) for d in batch}
        assert len(seen) == len(samples)
        for file, image in seen.items():
            np.testing.assert_array_equal(image.numpy()[::-1].transpose(1, 2, 0), read_image(file), err_msg=file)
    DatasetCatalog.remove("odd_images")


def batches(dicts, mapper, count, *, start=0, workers=0, **options):
    loader = build_resumable_train_loader(
        dicts, mapper=mapper, total_batch_size=3, seed=5, num_workers=workers, **options
    )
    set_first_batch(loader, start)
    return list(islice(iter(loader), count))


def assert_equal(left, right):
    assert [[d["file_name"] for d in b] for b in left] == [[d["file_name"] for d in b] for b in right]
    for a, b in zip([d for x in left for d in x], [d for x in right for d in x], strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def test_the_stream_entered_at_any_batch_goes_on_as_the_unbroken_one(dicts, mapper):
    whole = batches(dicts, mapper, 9, aspect_ratio_grouping=False)
    assert_equal(whole[5:], batches(dicts, mapper, 4, start=5, aspect_ratio_grouping=False))


def test_the_number_of_workers_changes_nothing(dicts, mapper):
    whole = batches(dicts, mapper, 6)
    assert_equal(whole, batches(dicts, mapper, 6, workers=2))
    assert_equal(whole[4:], batches(dicts, mapper, 2, start=4, workers=1))


def test_batches_are_all_wide_or_all_tall_and_an_image_is_augmented_anew_each_time_it_comes(dicts, mapper):
    found, seen = batches(dicts, mapper, 12), {}
    assert {tuple(d["width"] > d["height"] for d in batch) for batch in found} <= {(True,) * 3, (False,) * 3}
    for d in [d for batch in found for d in batch]:
        seen.setdefault(d["file_name"], []).append(d["image"])
    again = [images for images in seen.values() if len(images) > 1]
    assert again and any(a[0].shape != a[1].shape or not torch.equal(a[0], a[1]) for a in again)


def test_images_come_in_the_order_of_detectron2s_own_loader(dicts, mapper):
    stock = build_detection_train_loader(
        dicts, mapper=mapper, total_batch_size=3, sampler=TrainingSampler(len(dicts), seed=11), num_workers=0
    )
    ours = batches(dicts, mapper, 6, sampler=TrainingSampler(len(dicts), seed=11))
    names = [[d["file_name"] for d in batch] for batch in islice(iter(stock), 6)]
    assert [[d["file_name"] for d in batch] for batch in ours] == names


def test_other_samplers_of_detectron2_work(dicts, mapper):
    def sampler():
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.5)
        return RepeatFactorTrainingSampler(factors, seed=3)

    whole = batches(dicts, mapper, 6, sampler=sampler())
    assert_equal(whole[2:], batches(dicts, mapper, 4, start=2, sampler=sampler()))


def test_seeding_for_a_while_leaves_no_trace():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_all_rng(7)
    expected = draw()
    seed_all_rng(7)
    with seeded(3):
        inside = draw()
    assert draw() == expected != inside
    with seeded(3):
        assert draw() == inside


# Evaluators


EVALUATORS = {
    "coco": "COCOEvaluator",
    "coco_panoptic_seg": "DatasetEvaluators",
    "lvis": "LVISEvaluator",
    "cityscapes_instance": "CityscapesInstanceEvaluator",
    "cityscapes_sem_seg": "CityscapesSemSegEvaluator",
    "pascal_voc": "PascalVOCDetectionEvaluator",
    "sem_seg": "SemSegEvaluator",
}


@pytest.mark.parametrize("kind", EVALUATORS)
def test_each_kind_of_dataset_gets_its_evaluator(kind, shared, tmp_path):
    name = f"some_{kind}"
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: [{"file_name": "a", "sem_seg_file_name": "b"}])
        root = shared / "data" / "coco_mini" / "annotations"
        MetadataCatalog.get(name).set(
            evaluator_type=kind,
            json_file=str(root / "instances_val2017.json"),
            panoptic_json=str(root / "instances_val2017.json"),
            stuff_classes=["sky"],
            thing_classes=["cat"],
            thing_dataset_id_to_contiguous_id={1: 0},
            stuff_dataset_id_to_contiguous_id={1: 0},
            ignore_label=255,
            dirname="datasets/VOC2007",
            split="test",
            year=2007,
        )
    try:
        assert type(build_evaluator(name, str(tmp_path))).__name__ == EVALUATORS[kind]
    except ModuleNotFoundError as missing:
        pytest.skip(f"{kind} needs {missing.name}, which is not installed here")


@pytest.mark.parametrize(
    ("name", "package"), [("lvis_v1_val", "lvis"), ("coco_2017_val_panoptic_separated", "panopticapi")]
)
def test_an_evaluator_without_its_package_is_missed_before_the_training(name, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else object())
    arguments = ["--config-file", str(CONFIG), "DATASETS.TEST", f"('{name}',)"]
    with pytest.raises(ConfigError, match=f"DATASETS.TEST has {name}, whose evaluation needs the package {package}"):
        train.YamlRun(parse(*arguments))


@pytest.mark.parametrize(
    "name", ["mask_cascade_rcnn_resnest200_fpn_3x_all_tricks", "mask_rcnn_resnest50_fpn_100ep_lsj"]
)
def test_what_crops_masks_is_missed_before_the_training(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == "shapely" else object())
    arguments = ["--config-file", model_zoo.get_config_file(name)]
    with pytest.raises(ConfigError, match="crops training images with masks, which needs the package shapely"):
        train.main(parse(*arguments))


def test_a_dataset_of_no_known_kind_is_refused():
    with pytest.raises(ConfigError, match="of_no_kind needs an evaluator_type of sem_seg, coco, .*got None"):
        build_evaluator("of_no_kind", ".")
