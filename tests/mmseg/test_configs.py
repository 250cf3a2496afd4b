"""The packaged recipes: named as agreed, resolved as published, and of networks that train a step and predict."""

import copy
import re
from functools import cache
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISUALIZERS,
)
from mmseg.structures import SegDataSample
from PIL import Image

from resnest_backbones import get_variant, model_zoo
from resnest_backbones.errors import DatasetError
from resnest_backbones.mmseg.config import load_config

ROOT = model_zoo.config_root() / "mmseg"
LEAVES = {file.stem: file for file in sorted(ROOT.rglob("*.py")) if "_base_" not in file.relative_to(ROOT).parts}
NAME = re.compile(
    r"(?P<method>[a-z0-9]+)_(?P<backbone>resnes?t\d+)(?P<dilated>-d8)?_(?P<gpus>\d+)xb(?P<batch>\d+)"
    r"-(?P<recipe>paper|160k|80k|20k|cpu|demo)_(?P<dataset>\w+)-(?P<height>\d+)x(?P<width>\d+)"
)
PAPER = [name for name in LEAVES if "-paper_" in name]
CONVENTION = [name for name in LEAVES if "-160k_" in name or "-80k_" in name]
# A config of each method, way to train and family of networks: others differ in the depth and where the data is.
KINDS = {
    (parts["method"], parts["recipe"].replace("160k", "80k"), parts["backbone"].rstrip("0123456789")): name
    for name in LEAVES
    if (parts := NAME.fullmatch(name))
}.values()
# A config of each dataset and way to train; what is asked of their pipelines need not be asked of every network.
DATA = {
    "ade20k/paper": "deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480",
    "pascal_context_59/paper": "deeplabv3_resnest50-d8_4xb4-paper_pascal_context_59-480x480",
    "ade20k/160k": "deeplabv3_resnest50-d8_4xb4-160k_ade20k-512x512",
    "cityscapes/80k": "deeplabv3_resnest50-d8_4xb2-80k_cityscapes-512x1024",
    "custom/20k": "deeplabv3_resnest50-d8_1xb4-20k_custom-512x512",
    "custom/cpu": "deeplabv3_resnest14-d8_1xb8-cpu_custom-128x128",
}

# What differs from MMSegmentation's own config, and why.
INTENDED = {
    "custom_imports": "our modules",
    "custom_hooks": "checkpoints in other layouts",
    "model.backbone": "the original's ResNeSt; what the two share is compared apart",
    "model.pretrained": "init_cfg of the backbone, with the weights in resnest://",
    "model.data_preprocessor": "numbers from the weight record; compared with its own apart",
    # Names of values in between, which the loaders and the optimizer below have in them.
    **dict.fromkeys(("optimizer", "dataset_type", "data_root", "img_ratios", "num_classes", "data_preprocessor"), ""),
}


@pytest.fixture(autouse=True)
def names_are_mmsegs():
    """As a Runner does with ``default_scope``."""
    init_default_scope("mmseg")


@cache
def _read(name: str) -> Config:
    return Config.fromfile(LEAVES[name])


def resolved(name: str) -> Config:
    return copy.deepcopy(_read(name))


def header(name: str) -> str:
    """The comment that a config begins with, in one line."""
    return " ".join(re.match(r"(?:#.*\n)*", LEAVES[name].read_text())[0].replace("#", "").split())


def batch(num_classes: int, size: tuple[int, int], number: int = 2) -> dict:
    """What a pipeline gives: images in BGR, labels with some that are ignored."""
    labels = torch.randint(0, num_classes, (number, 1, *size))
    labels[:, :, :4] = 255
    meta = {"img_shape": size, "ori_shape": size, "pad_shape": size}
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one), metainfo=dict(meta)) for one in labels]
    return {"inputs": list(torch.randint(0, 256, (number, 3, *size), dtype=torch.uint8)), "data_samples": samples}


DEEP = re.compile("resnest(200|269)")  # which take a second to build


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if DEEP.search(name) else ()) for name in LEAVES]
)
def test_a_leaf_does_what_its_name_says_and_builds(name):
    file, cfg = LEAVES[name], resolved(name)
    assert file.parent.name == "demo" or model_zoo.get_config_file(name) == str(file)
    assert len(file.read_text().splitlines()) <= 15
    parts = NAME.fullmatch(name)
    assert parts, "the name does not follow the pattern"
    assert parts["dataset"] == file.parent.name
    assert int(parts["batch"]) == cfg.train_dataloader.batch_size
    assert cfg.model.data_preprocessor.size == (int(parts["height"]), int(parts["width"]))
    backbone = cfg.model.backbone
    assert parts["backbone"] == backbone.get("name", f"resnet{backbone.get('depth')}")
    dilated = backbone.get("output_stride") == 8 or backbone.get("dilations") == (1, 1, 2, 4)
    assert bool(parts["dilated"]) == dilated
    if parts["recipe"].endswith("k"):
        assert cfg.train_cfg.max_iters == 1000 * int(parts["recipe"][:-1])
    if parts["recipe"] == "paper":
        assert cfg.train_cfg.type == "EpochBasedTrainLoop"

    # The weights and the normalisation are of that network.
    if backbone.type == "ResNetV1c":
        assert backbone.init_cfg.checkpoint == f"open-mmlab://resnet{backbone.depth}_v1c"
    elif parts["recipe"] in ("cpu", "demo"):  # from scratch
        assert backbone.init_cfg == {}
    else:
        preprocessor = cfg.model.data_preprocessor
        assert (preprocessor.type, preprocessor.weights) == ("ResNeStDataPreProcessor", backbone.name)
        assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": f"resnest://{backbone.name}"}

    # Every part that it names is registered.
    loaders = [cfg[f"{split}_dataloader"] for split in ("train", "val", "test")]
    parts = [(DATASETS, loader.dataset) for loader in loaders] + [(DATA_SAMPLERS, loader.sampler) for loader in loaders]
    parts += [(METRICS, cfg.val_evaluator), (METRICS, cfg.test_evaluator), (VISUALIZERS, cfg.visualizer)]
    parts += [(HOOKS, hook) for hook in (*cfg.default_hooks.values(), *cfg.custom_hooks)]
    parts += [(LOOPS, cfg.train_cfg), (LOOPS, cfg.val_cfg), (LOOPS, cfg.test_cfg)]
    parts += [(PARAM_SCHEDULERS, scheduler) for scheduler in cfg.param_scheduler]
    parts += [(OPTIM_WRAPPERS, cfg.optim_wrapper), (MODELS, cfg.tta_model)]
    for registry, part in parts:
        assert registry.get(part.type) is not None, part.type
    for pipeline in (*(loader.dataset.pipeline for loader in loaders), cfg.tta_pipeline):
        Compose([TRANSFORMS.build(transform) for transform in pipeline])

    backbone.init_cfg = None
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    classes = DATASETS.get(cfg.train_dataloader.dataset.type).METAINFO.get("classes")  # custom: none
    assert cfg.model.decode_head.num_classes == (len(classes) if classes else cfg.num_classes)
    if "name" in backbone:
        blocks = [len(stage) for name, stage in model.backbone.named_children() if name.startswith("res")]
        assert blocks == list(get_variant(backbone.name).depths)[: len(blocks)]
        assert len(blocks) == max(backbone.get("out_indices", [3])) + 1


def test_a_variable_sets_the_sizes_of_the_recipe_for_a_cpu_and_settings_its_weights(monkeypatch):
    monkeypatch.setenv("SHORT_SIDE", "96")
    weights = {"type": "Pretrained", "checkpoint": "resnest://resnest14"}
    options = [f"model.backbone.init_cfg.{key}={value}" for key, value in weights.items()]
    cfg = load_config(LEAVES["deeplabv3_resnest14-d8_1xb8-cpu_custom-128x128"], options)
    assert cfg.model.backbone.init_cfg == weights
    train, test = (cfg[f"{split}_dataloader"].dataset.pipeline for split in ("train", "test"))
    assert train[2].scale == test[1].scale == (384, 96)
    assert train[3].crop_size == cfg.model.data_preprocessor.size == (96, 96)


@pytest.mark.parametrize("name", LEAVES)
def test_a_header_names_the_published_metrics_or_says_that_there_are_none(name):
    text, recipe = header(name), model_zoo.RECIPES.get(name)
    if recipe is None:
        assert "no published metrics" in text
        return
    words = {"pix_acc_multi_scale": "pixel accuracy {:g}"}
    if "miou" in recipe.metrics:
        words["miou_multi_scale"] = "{:g} at several"
    for metric, value in recipe.metrics.items():
        assert words.get(metric, "published mIoU {:g}").format(value) in text
    assert recipe.source.rpartition(" ")[2] in text
    titles = {"fcn": "FCN", "pspnet": "PSPNet", "deeplabv3": "DeepLabV3", "deeplabv3plus": "DeepLabV3+"}
    parts = NAME.fullmatch(name)
    network = parts["backbone"].replace("resnest", "ResNeSt-").replace("resnet", "ResNet-")
    assert text.startswith(f"{titles[parts['method']]}, {network}")


def check_that_it_learns_and_predicts(cfg: Config) -> None:
    num_classes = cfg.model.decode_head.num_classes
    cfg.model.backbone.init_cfg = None  # no download
    cfg.model.data_preprocessor.size = (64, 64)  # no padding to the real crop
    model = MODELS.build(cfg.model)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    losses = model(**model.data_preprocessor(batch(num_classes, (64, 64)), True), mode="loss")
    heads = {"decode"} | ({"aux"} if model.with_auxiliary_head else set())
    assert losses.keys() == {f"{head}.{key}" for head in heads for key in ("loss_ce", "acc_seg")}
    loss, _ = model.parse_losses(losses)
    optim_wrapper.backward(loss)
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    before = {key: p.detach().clone() for key, p in trained.items() if key.endswith("conv_seg.weight")}
    optim_wrapper.step()
    assert len(before) == len(heads)
    assert all(not trained[key].equal(value) for key, value in before.items())
    model.eval()
    for runner in (model, MODELS.build(dict(cfg.tta_model, module=model)).module):
        (prediction,) = runner.test_step(batch(num_classes, (64, 80), number=1))
        assert prediction.seg_logits.data.shape == (num_classes, 64, 80)
        assert prediction.pred_sem_seg.data.shape == (1, 64, 80)


@pytest.mark.parametrize("name", KINDS)
def test_a_leaf_with_a_shallow_network_trains_a_step_and_predicts(name):
    cfg = resolved(name)
    cfg.model.backbone.update({"name": "resnest14"} if "name" in cfg.model.backbone else {"depth": 50})
    for head in (cfg.model.decode_head, cfg.model.get("auxiliary_head") or {}):
        head["channels"] = 32
    check_that_it_learns_and_predicts(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAVES)
def test_every_leaf_trains_a_step_and_predicts(name):
    check_that_it_learns_and_predicts(resolved(name))


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings_are_the_published_ones(name, published):
    cfg, parts = resolved(name), NAME.fullmatch(name)
    group = published["ade20k_val" if parts["dataset"] == "ade20k" else "pascal_context_59"]
    recipe = {**published["ade20k_val"]["recipe"], **group["recipe"]}
    (row,) = (r for r in group["rows"] if (r["method"], r["backbone"]) == (parts["method"], parts["backbone"]))
    assert cfg.train_cfg.max_epochs == row.get("epochs", recipe["epochs"])
    assert int(parts["gpus"]) * int(parts["batch"]) == recipe["batch"]
    optimizer = {key: recipe[key] for key in ("lr", "momentum", "weight_decay")}
    assert cfg.optim_wrapper.optimizer == {"type": recipe["optimizer"], **optimizer}
    assert cfg.model.auxiliary_head.loss_decode.loss_weight == recipe["aux_loss_weight"]
    assert cfg.model.auxiliary_head.in_index == 2
    if parts["method"] == "deeplabv3":
        assert cfg.model.decode_head.dilations == (1, *recipe["aspp_rates"])
    evaluation = recipe["evaluation"]
    assert cfg.model.test_cfg.crop_size == (evaluation["sliding_window"],) * 2 == (recipe["crop"],) * 2
    assert cfg.model.test_cfg.stride == (evaluation["window_stride"],) * 2
    assert cfg.test_pipeline[1].scale == (recipe["base_size"],) * 2
    assert cfg.train_dataloader.drop_last
    heads = [MODELS.build(cfg.model[head]) for head in ("decode_head", "auxiliary_head")]
    assert [head.align_corners for head in heads] == [recipe["align_corners"]] * 2
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    for key in ("mean", "std"):
        assert torch.allclose(getattr(preprocessor, key).flatten(), 255 * torch.tensor(recipe[key]))

    # The heads learn at ten times the rate.
    factors = {"backbone": 1.0, "decode_head": 10.0, "auxiliary_head": 10.0}
    model = torch.nn.ModuleDict({key: torch.nn.Conv2d(1, 1, 1) for key in factors})
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    rates = {id(p): group["lr"] for group in wrapper.optimizer.param_groups for p in group["params"]}
    for key, module in model.items():
        assert [rates[id(p)] for p in module.parameters()] == pytest.approx([factors[key] * recipe["lr"]] * 2)

    # The loss is the mean over the labelled pixels.
    for head, weight in ((cfg.model.decode_head, 1.0), (cfg.model.auxiliary_head, 0.2)):
        loss = MODELS.build(head.loss_decode)
        logits, labels = torch.randn(2, head.num_classes, 4, 4), torch.randint(0, head.num_classes, (2, 4, 4))
        labels[0] = 255
        expected = weight * torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
        torch.testing.assert_close(loss(logits, labels, ignore_index=255), expected)


def test_the_papers_learning_rate_decays_in_every_iteration_as_published():
    cfg = resolved(DATA["ade20k/paper"])
    epochs, length, lr = cfg.train_cfg.max_epochs, 50, 0.01
    last = epochs * length - 1
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    settings = dict(cfg.param_scheduler[0], end=epochs)  # which a Runner adds
    scheduler = PARAM_SCHEDULERS.build(settings, default_args={"optimizer": optimizer, "epoch_length": length})
    rates = []
    for _ in range(last + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    steps = np.arange(last + 1)
    assert np.allclose(rates, lr * (1 - steps / last) ** 0.9, rtol=1e-6, atol=1e-12)
    # The original divides by the number of steps and not by that of the last one; that is all.
    assert np.abs(rates - lr * (1 - steps / (last + 1)) ** 0.9).max() <= 1.01 * lr * (last + 1) ** -0.9


def write_data_set(root: Path, dataset: dict, label: int) -> None:
    """One image of 100 x 140 pixels and its label map, in the layout that a config expects."""
    cityscapes = ("a_leftImg8bit.png", "a_gtFine_labelTrainIds.png")
    files = cityscapes if dataset["type"] == "CityscapesDataset" else ("a.jpg", "a.png")
    labels = np.full((100, 140), label, dtype=np.uint8)
    labels[:10] = 255
    contents = {"img_path": np.zeros((100, 140, 3), dtype=np.uint8), "seg_map_path": labels}
    for (key, content), name in zip(contents.items(), files, strict=True):
        file = root / dataset["data_prefix"][key] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(file)
    (root / "classes.txt").write_text("nothing\nsomething\n")
    if "ann_file" in dataset:
        (root / dataset["ann_file"]).parent.mkdir(parents=True, exist_ok=True)
        (root / dataset["ann_file"]).write_text("a\n")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", DATA.values(), ids=DATA)
def test_a_pipeline_gives_the_crop_and_names_a_wrong_label(name, split, tmp_path):
    cfg = resolved(name)
    dataset = cfg[f"{split}_dataloader"].dataset
    dataset.data_root = str(tmp_path)
    last = cfg.num_classes - 1 if "cityscapes" in name else cfg.num_classes  # label 0 of the others is ignored
    write_data_set(tmp_path, dataset, label=last)
    sample = DATASETS.build(dataset)[0]
    labels = sample["data_samples"].gt_sem_seg.data
    assert set(labels.unique().tolist()) <= {cfg.num_classes - 1, 255}
    assert cfg.num_classes - 1 in labels
    if split == "train":
        # MMSegmentation pads what is smaller than the crop in its preprocessor, and the paper in its pipeline.
        size = sample["inputs"].shape[1:]
        assert labels.shape[1:] == size
        assert size == cfg.crop_size if "-paper_" in name else all(map(int.__le__, size, cfg.crop_size))
    else:
        assert labels.shape == (1, 100, 140)
    write_data_set(tmp_path, dataset, label=last + 1)
    with pytest.raises(DatasetError, match=rf"must hold labels from 0 to {last} or 255 .*got {last + 1} "):
        DATASETS.build(dataset)[0]


def mmsegs_own(name: str) -> Config:
    """MMSegmentation's config of the same recipe: with its own ResNeSt-101, or with ResNet-50."""
    parts = NAME.fullmatch(name)
    rest = name[parts.start("gpus") :]
    dilated = parts["dilated"] or ""
    folder = Path(mmseg.__file__).parent / ".mim" / "configs"
    if not folder.is_dir():
        pytest.skip(f"this MMSegmentation came without its configs in {folder}")
    # The crop is left open because one of its files has no hyphen before it.
    pattern = f"resnest/resnest_s101{dilated}_{parts['method']}_{rest.rpartition('-')[0]}*.py"
    if parts["backbone"] != "resnest101":
        pattern = f"{'sem_' * (parts['method'] == 'fpn')}{parts['method']}/{parts['method']}_r50{dilated}_{rest}.py"
    (file,) = folder.glob(pattern)
    return Config.fromfile(file)


def comparable(cfg: Config) -> dict:
    """Plain values, without the intended differences."""
    keys = cfg.to_dict()
    for path in INTENDED:
        parent, _, last = path.rpartition(".")
        (keys[parent] if parent else keys).pop(last, None)
    return unchecked(keys)


def unchecked(node: object) -> object:
    """Our loading of label maps as MMSegmentation's, which knows reduce_zero_label from the dataset as well."""
    if isinstance(node, dict):
        if node.get("type") in ("LoadAnnotations", "LoadCheckedAnnotations"):
            return {"type": "LoadAnnotations"}
        return {key: unchecked(value) for key, value in node.items()}
    return [unchecked(value) for value in node] if isinstance(node, (list, tuple)) else node


@pytest.mark.parametrize("name", [name for name in CONVENTION if "resnest200" not in name])
def test_a_recipe_of_mmsegmentation_is_its_own_config_apart_from_the_backbone(name):
    ours, theirs = resolved(name), mmsegs_own(name)
    assert comparable(ours) == comparable(theirs)
    backbone, original = ours.model.backbone, theirs.model.backbone
    assert all(backbone[key] == original[key] for key in ("out_indices", "norm_cfg", "norm_eval"))
    strides = {(1, 1, 2, 4): 8, (1, 1, 1, 1): 32}
    assert backbone.output_stride == strides[original.dilations]
    own, other = (MODELS.build(cfg.model.data_preprocessor) for cfg in (ours, theirs))
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)
    mine, others = (preprocessor({"inputs": [image]})["inputs"] for preprocessor in (own, other))
    torch.testing.assert_close(mine, others)
    for setting in ("size", "size_divisor", "pad_val", "seg_pad_val", "test_cfg"):
        assert getattr(own, setting) == getattr(other, setting), setting


def test_the_recipes_with_a_file_of_mmsegmentation_leave_out_the_average_pools_that_its_network_lacks():
    without = [name for name in LEAVES if not resolved(name).model.backbone.get("avg_pool_at_stride_1", True)]
    assert without == [name for name in CONVENTION if "resnest101" in name] and len(without) == 8


def test_the_cityscapes_row_of_the_original_has_mmsegmentations_settings():
    large = resolved("deeplabv3plus_resnest200-d8_4xb2-80k_cityscapes-512x1024")
    small = resolved("deeplabv3plus_resnest101-d8_4xb2-80k_cityscapes-512x1024")
    assert comparable(large) == comparable(small)


@pytest.mark.parametrize("name", [name for name in PAPER if "resnet" in name])
def test_a_baseline_is_dilated_as_the_original(name):
    """The first block of a dilated stage keeps the dilation of the stage before it."""
    with torch.device("meta"):
        backbone = MODELS.build(resolved(name).model.backbone)
    for stage, first, rest in ((backbone.layer3, 1, 2), (backbone.layer4, 2, 4)):
        dilations = [block.conv2.dilation for block in stage]
        assert dilations == [(first, first)] + [(rest, rest)] * (len(stage) - 1)
