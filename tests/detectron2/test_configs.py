"""The packaged recipes: short, resolved as published, of the network they name; they train a step and find objects."""

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2 import model_zoo as detectron2_model_zoo
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.modeling import build_backbone, build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import Keypoints
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from resnest_backbones import get_variant, list_variants, model_zoo
from resnest_backbones.detectron2 import ResNeSt, add_resnest_config
from resnest_backbones.model_zoo import RECIPES
from resnest_backbones.weights import DETECTOR_PIXELS, get_record
from tests.detectron2.helpers import images, parameters_without_gradient, training_losses
from tests.helpers import TINY_DETECTOR, flat

ROOT = model_zoo.config_root() / "detectron2"
LEAVES = {
    file.stem: file
    for file in sorted(ROOT.rglob("*"))
    if file.suffix in (".yaml", ".py") and "_base_" not in file.relative_to(ROOT).parts
}
LAZY = [name for name, file in LEAVES.items() if file.suffix == ".py"]
YAML = [name for name in LEAVES if name not in LAZY]
COCO_YAML = [name for name in YAML if LEAVES[name].parent.name.startswith("coco_")]
ROWS = {name: recipe for name, recipe in RECIPES.items() if recipe.framework == "detectron2"}
OF_WRAPPER = [name for name in ROWS if not name.endswith("_mmdet")]
LSJ = "mask_rcnn_resnest50_fpn_100ep_lsj"
TEST_DEV = "mask_cascade_rcnn_resnest200_dcnv2_fpn_3x_all_tricks_test_dev"


def intended_differences(name: str) -> dict[str, tuple[Any, str]]:
    """Where a row's resolved config is meant to differ from the published recipe: key -> what it is here, and why."""
    network = ROWS[name].backbone.removesuffix("_dcnv2")
    differences = {"MODEL.WEIGHTS": (f"resnest://{network}", "the wrapper's server no longer answers")}
    if network.startswith("resnet"):
        file = f"detectron2://ImageNetPretrained/MSRA/R-{network.removeprefix('resnet')}.pkl"
        differences["MODEL.WEIGHTS"] = (file, "the same file, by the address that Detectron2 has for it")
        # The recipe of this one row turns it back on itself.
        if name != "faster_rcnn_resnet50_fpn_1x":
            why = "MSRA's weights were trained so; the wrapper's default turned it off for ResNets too"
            differences["MODEL.RESNETS.STRIDE_IN_1X1"] = (True, why)
    if ROWS[name].dataset == "coco_panoptic":
        why = "Detectron2 has no test-time augmentation for panoptic models"
        differences["TEST.AUG.ENABLED"] = (False, why)
    return differences


@cache
def config_of(name: str) -> CfgNode:
    """A YAML recipe's; not to be changed."""
    cfg = model_zoo.get_config(LEAVES[name])
    cfg.freeze()
    return cfg


@cache
def defaults() -> dict[str, object]:
    """Detectron2's, and ours of the keys that it does not have."""
    cfg = get_cfg()
    add_resnest_config(cfg)
    return flat(cfg)


def header(name: str) -> str:
    lines = LEAVES[name].read_text(encoding="utf-8").splitlines()
    comment = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.removeprefix("#").strip() for line in comment)


@pytest.fixture(scope="module")
def published_recipes(shared) -> dict[str, dict[str, object]]:
    """Name of a row here -> the keys in which the original's recipe differs from Detectron2's defaults."""
    recipes = json.loads((shared / "reference" / "d2_recipes.json").read_text())["recipes"]
    by_stem = {Path(file).stem: keys for file, keys in recipes.items()}
    assert len(by_stem) == len(recipes)
    # A published detector has the name of the recipe that it was trained by.
    names = {re.sub(r"(-[0-9a-f]{8})?\.pth$", "", ROWS[name].file.name): name for name in OF_WRAPPER}
    assert names.keys() == by_stem.keys()
    return {name: by_stem[stem] for stem, name in names.items()}


@pytest.mark.parametrize("name", OF_WRAPPER)
def test_a_row_resolves_to_the_published_recipe_key_by_key(name, published_recipes):
    recipe, ours, intended = published_recipes[name], flat(config_of(name)), intended_differences(name)
    for key, value in recipe.items():
        wanted = intended[key][0] if key in intended else value
        assert ours[key] == wanted, key
    assert all(recipe[key] != wanted for key, (wanted, _) in intended.items()), "listed, and no difference"
    # And nothing else differs from Detectron2's defaults.
    neutral = defaults()
    assert {key for key in ours if ours[key] != neutral[key]} <= recipe.keys()


@pytest.mark.parametrize("name", [name for name in ROWS if name.endswith("_mmdet")])
def test_a_recipe_of_mmdetection_differs_from_the_wrappers_in_what_its_configs_say(name):
    ours, wrapper = (flat(config_of(which)) for which in (name, name.removesuffix("_mmdet")))
    wanted = {
        "MODEL.FPN.NORM": "",
        "SOLVER.STEPS": [8 * 7330, 11 * 7330],
        "SOLVER.MAX_ITER": 12 * 7330,  # 117 266 images with objects, in steps of 16
        "SOLVER.WARMUP_ITERS": 500,
        "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
        "TEST.PRECISE_BN.ENABLED": False,
    }
    if "cascade" in name:
        wanted |= {
            "MODEL.RPN.BOUNDARY_THRESH": 0,
            "MODEL.RPN.SMOOTH_L1_BETA": 1 / 9,
            "MODEL.ROI_HEADS.NAME": "MMDetCascadeROIHeads",
            "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS":
                [[1 / std for std in stage for _ in "xy"] for stage in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))],
        }  # fmt: skip
    assert {key: value for key, value in ours.items() if value != wrapper[key]} == wanted
    assert ours["MODEL.BACKBONE.FREEZE_AT"] == 2 and ours["SOLVER.IMS_PER_BATCH"] == 16
    assert ours["SOLVER.BASE_LR"] == 0.02 and ours["INPUT.MAX_SIZE_TRAIN"] == ours["INPUT.MAX_SIZE_TEST"] == 1333


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_is_short_and_its_header_names_the_recipe_or_says_that_no_metrics_are_published(name):
    assert len(LEAVES[name].read_text().splitlines()) <= 15
    text = header(name)
    recipe = ROWS.get(name.removesuffix("_test_dev"))
    if recipe is None:
        twin = f"{name.removesuffix('_lazy')}.yaml as a LazyConfig"
        assert ("no published metrics" in text.lower()) or text.startswith(twin) or name.endswith("_demo")
    else:
        assert text.startswith(f"Recipe {recipe.method}, Res")
        assert f" {recipe.schedule} " in text and text.endswith("in resnest_backbones/model_zoo.py.")


def network_of(cfg: CfgNode) -> str:
    """The name of the ResNeSt that the keys of a config describe, or of the ResNet."""
    keys = cfg.MODEL.RESNETS
    if "resnest" not in cfg.MODEL.BACKBONE.NAME:
        return f"resnet{keys.DEPTH}"
    if not keys.AVD_FIRST:
        return f"resnest{keys.DEPTH}"
    return f"resnest{keys.DEPTH}_fast_{keys.RADIX}s{keys.NUM_GROUPS}x{keys.BOTTLENECK_WIDTH}d"


@pytest.mark.parametrize("name", COCO_YAML)
def test_the_network_its_weights_its_pixels_its_datasets_and_its_name_belong_together(name):
    cfg = config_of(name)
    network = network_of(cfg)
    assert f"_{network}_" in name
    for data in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert data in DatasetCatalog
        panoptic = cfg.MODEL.META_ARCHITECTURE == "PanopticFPN"
        assert MetadataCatalog.get(data).evaluator_type == ("coco_panoptic_seg" if panoptic else "coco")
    if network.startswith("resnet"):
        assert f"detectron2://ImageNetPretrained/MSRA/R-{cfg.MODEL.RESNETS.DEPTH}.pkl" == cfg.MODEL.WEIGHTS
        neutral = defaults()
        assert all(flat(cfg)[key] == neutral[key] for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT"))
        return
    assert get_record(cfg.MODEL.WEIGHTS).name == network
    assert cfg.INPUT.FORMAT == DETECTOR_PIXELS.channel_order == get_record(network).channel_order
    assert tuple(cfg.MODEL.PIXEL_MEAN) == DETECTOR_PIXELS.mean
    assert tuple(cfg.MODEL.PIXEL_STD) == DETECTOR_PIXELS.std


def test_the_pixels_are_the_published_ones_close_to_those_of_the_weights(published):
    group = published["coco_val2017"]
    assert list(DETECTOR_PIXELS.mean) == group["pixel_mean"] and list(DETECTOR_PIXELS.std) == group["pixel_std"]
    assert DETECTOR_PIXELS.channel_order == group["format"]
    record = get_record("resnest50")
    assert DETECTOR_PIXELS.mean == pytest.approx([255 * value for value in record.mean], abs=0.5)
    assert DETECTOR_PIXELS.std == pytest.approx([255 * value for value in record.std], abs=0.01)


@pytest.mark.parametrize(("name", "batch"), [("1gpu", 4), ("8gb", 2)])
def test_a_smaller_batch_has_rate_and_schedule_by_the_linear_rule(name, batch):
    full, small = (flat(config_of(f"faster_rcnn_resnest50_fpn_1x{which}")) for which in ("", f"_{name}"))
    factor = Fraction(full["SOLVER.IMS_PER_BATCH"], small["SOLVER.IMS_PER_BATCH"])
    assert small["SOLVER.IMS_PER_BATCH"] == batch
    assert small["SOLVER.BASE_LR"] == pytest.approx(full["SOLVER.BASE_LR"] / factor)
    for key in ("SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD"):
        assert small[key] == factor * full[key], key
    assert small["SOLVER.STEPS"] == [factor * step for step in full["SOLVER.STEPS"]]
    norms = {key: value for key, value in small.items() if key.endswith(".NORM") and value != full[key]}
    assert norms == {"MODEL.RESNETS.NORM": "FrozenBN", "MODEL.FPN.NORM": "GN", "MODEL.ROI_BOX_HEAD.NORM": "GN"}
    assert not small["TEST.PRECISE_BN.ENABLED"]
    assert small["SOLVER.AMP.ENABLED"] == small["MODEL.RESNETS.GRADIENT_CHECKPOINTING"] == (name == "8gb")


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("retinanet_resnest50_fpn_1x", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"),
        ("keypoint_rcnn_resnest50_fpn_1x", "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"),
    ],
)
def test_what_has_no_row_is_detectron2s_own_baseline_but_for_the_backbone_and_the_norms(name, theirs):
    ours, other = flat(config_of(name)), flat(detectron2_model_zoo.get_config(theirs))
    different = {key for key in other if ours[key] != other[key]}
    backbone = {"MODEL.WEIGHTS", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE.NAME", "INPUT.FORMAT"}
    backbone |= {"MODEL.RESNETS.NORM", "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.FPN.NORM", "TEST.PRECISE_BN.ENABLED"}
    head = {f"MODEL.ROI_BOX_HEAD.{key}" for key in ("NUM_CONV", "NUM_FC", "NORM")}
    size = {"INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING"}
    if name.startswith("keypoint"):
        # rcnn_fpn.yaml has what only masks use.
        assert different == backbone | head | (different & {"INPUT.MIN_SIZE_TRAIN", "MODEL.ROI_MASK_HEAD.NUM_CONV"})
        return
    unused = {key for key in different if key.startswith(("MODEL.ROI_", "MODEL.RPN."))}
    assert different - unused == backbone | size


def test_test_dev_is_the_row_with_test_time_augmentation_and_another_dataset():
    row, dev = flat(config_of(TEST_DEV.removesuffix("_test_dev"))), flat(config_of(TEST_DEV))
    changed = {key: value for key, value in dev.items() if value != row[key]}
    assert changed == {"DATASETS.TEST": ["coco_2017_test-dev"], "TEST.AUG.ENABLED": True}


TINY_YAML = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RPN.CONV_DIMS": "[16]",
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": "(16,)",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
}


def tiny_yaml(name: str) -> CfgNode:
    """The recipe's detector with smaller heads on the shallowest network of its kind."""
    cfg = config_of(name).clone()
    cfg.defrost()
    cfg.merge_from_list([*TINY_DETECTOR, *(word for pair in TINY_YAML.items() for word in pair)])
    cfg.MODEL.RESNETS.DEPTH = 14 if "resnest" in cfg.MODEL.BACKBONE.NAME else 50
    if cfg.MODEL.ROI_HEADS.NAME == "ResNeStRes5ROIHeads":
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    return cfg


def tiny_lazy(name: str) -> DictConfig:
    """The recipe's detector with fewer proposals and objects on the shallowest network."""
    cfg = model_zoo.get_config(LEAVES[name])
    cfg.model.backbone.bottom_up.spec = "resnest14"
    cfg.model.proposal_generator.update(pre_nms_topk=(100, 50), post_nms_topk=(20, 10))
    cfg.model.roi_heads.batch_size_per_image = 16
    cfg.model.roi_heads.box_predictor.update(test_score_thresh=0.0, test_topk_per_image=3)
    return cfg


# Another test builds the network, and those of the backbone train it. LazyConfigs build their YAML files' models.
OF_THE_NETWORK = {f"RESNETS.{key}" for key in ("DEPTH", "RADIX", "NUM_GROUPS", "BOTTLENECK_WIDTH", "AVD_FIRST")}
OF_THE_NETWORK |= {"BACKBONE.NAME", "RESNETS.STRIDE_IN_1X1", "PIXEL_MEAN", "PIXEL_STD"}


def architecture(name: str) -> str:
    return str({key: value for key, value in flat(tiny_yaml(name).MODEL).items() if key not in OF_THE_NETWORK})


# ResNeSts come last, and replace the ResNets with the same heads.
ARCHITECTURES = {architecture(name): name for name in sorted(YAML, key=lambda name: "resnest" in name)} | {LSJ: LSJ}


def batch() -> list[dict[str, object]]:
    """Two images, each with one object of the first class, its mask, its joints and a semantic map."""
    pictures = images(2)
    for picture in pictures:
        instances = picture["instances"]
        instances.gt_classes = torch.zeros(1, dtype=torch.long)
        joints = torch.stack([torch.linspace(8, 42, 17), torch.linspace(8, 50, 17), torch.full((17,), 2.0)], dim=-1)
        instances.gt_keypoints = Keypoints(joints[None])
    return pictures


@pytest.mark.parametrize(
    "name", {str((config_of(name).MODEL.BACKBONE, config_of(name).MODEL.RESNETS)): name for name in YAML}.values()
)
def test_a_recipe_builds_the_network_it_names(name):
    network = network_of(config_of(name))
    with torch.device("meta"):
        backbone = build_backbone(config_of(name))
        trunk = getattr(backbone, "bottom_up", backbone)
    assert isinstance(trunk, ResNeSt) == (network in list_variants())
    if isinstance(trunk, ResNeSt):
        blocks = [len(stage) for key, stage in trunk.named_children() if key.startswith("res")]
        assert blocks == list(get_variant(network).depths[: 3 if "_c4_" in name else 4])
        widths = ("radix", "cardinality", "bottleneck_width", "avd_first", "stem_width")
        assert all(getattr(trunk.spec, key) == getattr(get_variant(network), key) for key in widths)


@pytest.mark.parametrize("name", ARCHITECTURES.values())
def test_each_architecture_trains_a_step_and_infers(name):
    model = instantiate(tiny_lazy(name).model) if name in LAZY else build_model(tiny_yaml(name))
    pictures = batch()
    training_losses(model, pictures)
    assert parameters_without_gradient(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    model.eval()
    with torch.no_grad():
        (found,) = model([{key: pictures[0][key] for key in ("image", "height", "width")}])
    has = {key for key in ("pred_masks", "pred_keypoints") if found["instances"].has(key)}
    assert found["instances"].image_size == (64, 64) and len(found["instances"]) > 0
    heads = getattr(model, "roi_heads", None)
    on = {"pred_masks": getattr(heads, "mask_on", False), "pred_keypoints": getattr(heads, "keypoint_on", False)}
    assert has == {key for key, value in on.items() if value}
    assert ("panoptic_seg" in found) == name.startswith("panoptic")


# What says nothing of how a model computes: counts that a ResNeSt carries along, Detectron2's drawings in training.
APART = ("params", "multiply_adds", "vis_period")


def settings(thing: object) -> object:
    """What makes up a model or a mapper: types, modules by name, shapes, and every plain attribute."""
    if isinstance(thing, Tensor):
        return list(thing.shape) if thing.numel() > 100 or isinstance(thing, nn.Parameter) else thing.tolist()
    if isinstance(thing, Mapping):
        return {str(key): settings(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple, ListConfig)):
        return [settings(value) for value in thing]
    if hasattr(thing, "__dict__") and type(thing).__module__.startswith(("detectron2", "torch.nn", "resnest_backb")):
        parts = {key: settings(value) for key, value in vars(thing).items() if key not in APART}
        if type(thing).__name__ == "FastRCNNOutputLayers":  # a loss that is not named there has 1
            parts["loss_weight"] = {"loss_cls": 1.0, "loss_box_reg": 1.0} | parts["loss_weight"]
        if parts.get("short_edge_length") == [800, 800]:  # one from that range, or one of these two
            del parts["is_range"], parts["sample_style"]
        return {"type": type(thing).__name__} | parts
    return thing if isinstance(thing, (str, int, float, bool, type(None))) else type(thing).__name__


@pytest.mark.parametrize("name", [name for name in LAZY if name.endswith("_lazy")])
def test_a_lazy_recipe_builds_the_model_of_its_yaml(name):
    yaml, lazy = model_zoo.get_config(name.removesuffix("_lazy")), model_zoo.get_config(name)
    assert (yaml.MODEL.RESNETS.DEPTH, lazy.model.backbone.bottom_up.spec) == (50, "resnest50")
    yaml.MODEL.DEVICE, yaml.MODEL.RESNETS.DEPTH, lazy.model.backbone.bottom_up.spec = "cpu", 14, "resnest14"
    from_yaml, from_lazy = build_model(yaml), instantiate(lazy.model)
    assert settings(from_lazy) == settings(from_yaml)
    assert lazy.train.init_checkpoint == yaml.MODEL.WEIGHTS

    lazy.optimizer.params.model = from_lazy
    optimizers = [instantiate(lazy.optimizer), build_optimizer(yaml, from_yaml)]
    decays = [
        {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in optimizer.param_groups}
        for optimizer in optimizers
    ]
    assert decays[0] == decays[1] and len(decays[0]) == 2
    for key in ("lr", "momentum", "nesterov", "dampening"):
        assert optimizers[0].defaults[key] == optimizers[1].defaults[key], key


@pytest.mark.parametrize("name", [name for name in LAZY if name.endswith("_lazy")])
def test_a_lazy_recipe_has_the_data_and_the_schedule_of_its_yaml(name):
    yaml, lazy = model_zoo.get_config(name.removesuffix("_lazy")), model_zoo.get_config(name)
    for split, train in (("train", True), ("test", False)):
        of_yaml = DatasetMapper(**DatasetMapper.from_config(yaml, is_train=train))
        ours, theirs = settings(instantiate(lazy.dataloader[split].mapper)), settings(of_yaml)
        if not train:  # annotations are not read then
            del ours["use_instance_mask"], theirs["use_instance_mask"]
        assert ours == theirs
    assert (lazy.dataloader.train.dataset.names,) == yaml.DATASETS.TRAIN
    assert (lazy.dataloader.test.dataset.names,) == yaml.DATASETS.TEST
    assert lazy.dataloader.train.total_batch_size == yaml.SOLVER.IMS_PER_BATCH
    assert lazy.train.max_iter == yaml.SOLVER.MAX_ITER and lazy.train.eval_period == 5000
    scheduler = build_lr_scheduler(yaml, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0))
    multiplier = instantiate(lazy.lr_multiplier)
    for step in (0, 1, 500, 999, 1000, 59_999, 60_000, 79_999, 80_000, 89_999):
        of_yaml = scheduler._multiplier(step / yaml.SOLVER.MAX_ITER)
        assert multiplier(step / lazy.train.max_iter) == pytest.approx(of_yaml), step


def test_the_jittered_recipe_is_detectron2s_own_but_for_the_backbone_and_its_pixels():
    ours = OmegaConf.to_container(model_zoo.get_config(LSJ))
    theirs = OmegaConf.to_container(detectron2_model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"))
    backbone = ours["model"]["backbone"].pop("bottom_up")
    del theirs["model"]["backbone"]["bottom_up"]
    assert (backbone["spec"], backbone["norm"], backbone["freeze_at"]) == ("resnest50", "SyncBN", 0)
    for key, value in (("mean", DETECTOR_PIXELS.mean), ("std", DETECTOR_PIXELS.std)):
        assert ours["model"].pop(f"pixel_{key}") == list(value) != theirs["model"].pop(f"pixel_{key}")
    assert ours["model"].pop("input_format") == ours["dataloader"]["train"]["mapper"].pop("image_format") == "RGB"
    assert theirs["model"].pop("input_format") == theirs["dataloader"]["train"]["mapper"].pop("image_format") == "BGR"
    # Detectron2's file makes its norms by a function, which is another one each time it is loaded.
    assert without_addresses(ours) == without_addresses(theirs)


def without_addresses(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: without_addresses(value) for key, value in node.items()}
    return re.sub(r" at 0x[0-9a-f]+", "", str(node))
