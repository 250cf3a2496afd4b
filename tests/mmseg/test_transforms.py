import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import MODELS, TRANSFORMS
from PIL import Image

import resnest_backbones.mmseg  # noqa: F401  (registers)
from resnest_backbones.errors import DatasetError
from resnest_backbones.mmseg.transforms import LoadCheckedAnnotations

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "mmseg"
PAPER = [
    CONFIGS / "ade20k" / "deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480.py",
    CONFIGS / "pascal_context_59" / "deeplabv3_resnest50-d8_4xb4-paper_pascal_context_59-480x480.py",
]
CROP = 480
read_config = cache(Config.fromfile)


def save(folder: Path, labels: object, name: str = "labels.png") -> str:
    image = labels if isinstance(labels, Image.Image) else Image.fromarray(np.asarray(labels))
    image.save(folder / name)
    return str(folder / name)


def info(file: str | None, *, reduce_zero_label: bool = False, **more) -> dict:
    """What MMSegmentation's datasets hand to the pipeline."""
    return {"img_path": "street.jpg", "seg_map_path": file, "label_map": None, "seg_fields": [],
            "reduce_zero_label": reduce_zero_label, **more}  # fmt: skip


def labels_of(*values: int, dtype: type = np.uint8) -> np.ndarray:
    return np.array([values, values], dtype)


@pytest.mark.parametrize("reduce_zero_label", [False, True])
@pytest.mark.parametrize("part", ["whole", "one row", "one column"])
def test_good_label_maps_load_as_mmsegmentation_loads_them(tmp_path, part, reduce_zero_label):
    """Its own squeezes maps of one row or column to one dimension, so that those are part of larger ones here."""
    whole = labels_of(0, 1, 2, 3 if reduce_zero_label else 2, 255)
    whole = whole.T if part == "one column" else whole
    own = {"whole": np.s_[:], "one row": np.s_[:1], "one column": np.s_[:, :1]}[part]
    files = save(tmp_path, whole[own], "own.png"), save(tmp_path, whole, "whole.png")
    got, want = (info(file, reduce_zero_label=reduce_zero_label, label_map={1: 0, 0: 1}) for file in files)
    LoadCheckedAnnotations(num_classes=3)(got)
    LoadAnnotations()(want)
    np.testing.assert_array_equal(got["gt_seg_map"], want["gt_seg_map"][own])
    assert got["seg_fields"] == ["gt_seg_map"] and got["gt_seg_map"].dtype == np.uint8
    assert set(np.unique(got["gt_seg_map"])) <= {0, 1, 2, 255}


@pytest.mark.parametrize(
    ("labels", "reduce_zero_label", "message"),
    [
        (labels_of(0, 3, 4, 254, 255), True,
         "must hold labels from 0 to 3 or 255 (3 classes; 0 and 255 are ignored), got 4 (2 pixels), 254 (2 pixels)"),
        # Cast to 8 bits, these would be 1 and 255.
        (labels_of(0, 257, dtype=np.uint16), False, "got 257 (2 pixels)"),
        (labels_of(-1, 0, dtype=np.int32), False, "got -1 (2 pixels)"),
    ],
    ids=["beyond", "wraps to a class", "negative"],
)  # fmt: skip
def test_labels_without_a_class_are_refused_in_the_files_own_terms(tmp_path, labels, reduce_zero_label, message):
    file = save(tmp_path, labels, "labels.tif")
    with pytest.raises(DatasetError, match=re.escape(f"the label map {file} must hold")) as error:
        LoadCheckedAnnotations(num_classes=3)(info(file, reduce_zero_label=reduce_zero_label))
    assert message in str(error.value)


def test_files_that_are_no_label_maps_of_their_image_are_named(tmp_path):
    """tests/data/test_label_maps.py has what the reader refuses."""
    load = LoadCheckedAnnotations(num_classes=3)
    with pytest.raises(DatasetError, match=r"no label map for the image street\.jpg"):
        load(info(None))
    file = save(tmp_path, np.zeros((4, 5), np.uint8))
    assert load(info(file, ori_shape=(4, 5)))["gt_seg_map"].shape == (4, 5)
    with pytest.raises(
        DatasetError, match=r"labels\.png must have the height and width of its image street\.jpg.*5, 4\).*\(4, 5\)"
    ):
        load(info(file, ori_shape=(5, 4)))


def test_the_data_set_knows_best_how_many_classes_there_are(tmp_path):
    file = save(tmp_path, labels_of(0, 4))
    LoadCheckedAnnotations(num_classes=3)(info(file, num_classes=5))
    with pytest.raises(DatasetError, match="from 0 to 1 or 255"):
        LoadCheckedAnnotations(num_classes=150)(info(file, num_classes=2))
    with pytest.raises(ValueError, match="num_classes must be passed to LoadCheckedAnnotations"):
        LoadCheckedAnnotations()(info(file))
    load = TRANSFORMS.build({"type": "LoadCheckedAnnotations", "num_classes": 5, "backend_args": {"backend": "local"}})
    loaded = load(info(file, label_map={0: 255, 4: 1}))  # a chosen subset of classes
    np.testing.assert_array_equal(loaded["gt_seg_map"], labels_of(255, 1))
    for wrong in (0, 256, True):
        with pytest.raises(ValueError, match=f"num_classes must be an integer from 1 to 255, got {wrong!r}"):
            LoadCheckedAnnotations(num_classes=wrong)


@pytest.fixture
def config() -> Config:
    """A config of the paper, whose training augmentation the tests below look at."""
    init_default_scope("mmseg")
    np.random.seed(0)  # what MMCV's transforms draw from
    return read_config(PAPER[0])


def steps(config: Config, *names: str) -> Compose:
    pipeline = config.train_dataloader.dataset.pipeline
    return Compose([step for step in pipeline if step["type"] in names])


def sample_of(height: int, width: int) -> dict:
    """A random image, and labels that follow its brightness."""
    image = np.random.default_rng(0).integers(1, 255, (height, width, 3), dtype=np.uint8)
    return {"img": image, "gt_seg_map": image[..., 0] // 4, "seg_fields": ["gt_seg_map"]}


def test_the_steps_are_the_papers_in_its_order_for_both_datasets(config):
    other = Config.fromfile(PAPER[1]).train_dataloader.dataset.pipeline
    assert config.train_dataloader.dataset.pipeline[2:] == other[2:]
    assert [step.type for step in other[:2]] == ["LoadImageFromFile", "LoadCheckedAnnotations"]
    loading, *augmentation, packing = [step["type"] for step in config.train_dataloader.dataset.pipeline[1:]]
    assert (loading, packing) == ("LoadCheckedAnnotations", "PackSegInputs")
    assert augmentation == ["RandomFlip", "RandomResize", "Pad", "RandomCrop"]
    flip, crop = steps(config, "RandomFlip", "RandomCrop").transforms
    assert flip.prob == 0.5
    # A crop is not drawn again where one class fills it, as MMSegmentation's own recipes do.
    assert (crop.crop_size, crop.cat_max_ratio) == ((CROP, CROP), 1)


def test_the_long_side_is_any_integer_from_260_to_1040(config):
    resize, given = steps(config, "RandomResize"), sample_of(100, 1)
    sizes = {max(resize(dict(given))["img"].shape) for _ in range(2_000)}
    assert len(sizes) > 600 and sizes <= {*range(260, 1041)} and min(sizes) < 265 and max(sizes) > 1035


def test_images_are_resized_bilinearly_with_antialiasing_and_labels_to_the_nearest(config):
    resize = steps(config, "RandomResize")
    sizes = set()
    for _ in range(6):
        given = sample_of(600, 811)
        got = resize(dict(given))
        size = got["img"].shape[1::-1]
        pil = Image.fromarray(given["img"][..., ::-1]).resize(size, Image.Resampling.BILINEAR)  # RGB, as the original
        np.testing.assert_array_equal(got["img"], np.asarray(pil)[..., ::-1])
        nearest = Image.fromarray(given["gt_seg_map"]).resize(size, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(got["gt_seg_map"], np.asarray(nearest))
        sizes.add(size[0] < 811)
    assert sizes == {True, False}  # both directions were seen


@pytest.mark.parametrize("size", [(64, 64), (60, 200)])
def test_batches_reach_the_network_at_the_crop_size_with_padding_that_was_black_before(config, tmp_path, size):
    image = np.full((*size, 3), 128, np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    file = save(tmp_path, np.ones(size, np.uint8))
    whole = Compose(config.train_dataloader.dataset.pipeline)
    preprocess = MODELS.build(config.model.data_preprocessor)
    seen = 0
    for _ in range(8):
        batch = pseudo_collate([whole({**info(file, reduce_zero_label=True), "img_path": str(tmp_path / "image.png")})
                                for _ in range(2)])  # fmt: skip
        data = preprocess(batch, True)
        assert data["inputs"].shape == (2, 3, CROP, CROP)
        for one, sample in zip(data["inputs"], data["data_samples"], strict=True):
            assert tuple(sample.padding_size) == (0, 0, 0, 0)
            labels = sample.gt_sem_seg.data[0]
            assert set(labels.unique().tolist()) <= {0, 255}
            for label, value in ((0, 128), (255, 0)):
                pixels = one[:, labels == label]
                want = ((value - preprocess.mean) / preprocess.std)[:, 0].expand_as(pixels)
                np.testing.assert_allclose(pixels, want, atol=1e-5)
                seen |= (pixels.numel() > 0) << (label == 255)
    assert seen == 3  # both image and padding occurred
