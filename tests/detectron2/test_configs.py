"""The packaged recipes: short, resolved as published, and of networks that build."""

import json

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from resnest_backbones import get_variant, model_zoo
from resnest_backbones.detectron2 import add_resnest_config
from resnest_backbones.weights import get_record
from tests.helpers import TINY_DETECTOR

LEAVES = sorted(f for f in (model_zoo.config_root() / "detectron2").rglob("*.yaml") if f.parent.name != "_base_")

# Names in d2_recipes.json -> ours, and each key that is meant to differ from the recipe, with its reason.
RECIPES = {
    "COCO-Detection/faster_rcnn_ResNeSt_50_FPN_syncbn_range-scale_1x.yaml": "faster_rcnn_resnest50_fpn_1x",
    "COCO-Detection/faster_rcnn_ResNeSt_101_FPN_syncbn_range-scale_1x.yaml": "faster_rcnn_resnest101_fpn_1x",
}
INTENDED = {"MODEL.WEIGHTS": "by name, resnest://, since the wrapper's server no longer answers"}


def resolved(name: str) -> CfgNode:
    cfg = get_cfg()
    add_resnest_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(name))
    return cfg


def flat(node: CfgNode, prefix: str = "") -> dict[str, object]:
    keys = {}
    for key, value in node.items():
        keys |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
    return keys


def plain(value: object) -> object:
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(("published", "name"), RECIPES.items())
def test_a_recipe_resolves_to_the_published_one_key_by_key(published, name, shared):
    recipe = json.loads((shared / "reference" / "d2_recipes.json").read_text())["recipes"][published]
    ours, defaults = flat(resolved(name)), flat(get_cfg())
    for key, value in recipe.items():
        if key not in INTENDED:
            assert plain(ours[key]) == value, key
    # And nothing else differs from Detectron2's defaults, apart from our own keys at theirs.
    own = get_cfg()
    add_resnest_config(own)
    neutral = defaults | {k: v for k, v in flat(own).items() if k not in defaults}
    surplus = {k for k in ours if plain(ours[k]) != plain(neutral[k]) and k not in recipe}
    assert surplus == set()


@pytest.mark.parametrize("file", LEAVES, ids=lambda file: file.stem)
def test_a_leaf_is_short_and_found_by_its_name(file):
    assert len(file.read_text().splitlines()) <= 15
    assert model_zoo.get_config_file(file.stem) == str(file)


@pytest.mark.parametrize("file", LEAVES, ids=lambda file: file.stem)
def test_a_leaf_trains_a_step_and_infers_with_the_network_it_names(file):
    cfg = resolved(file.stem)
    if cfg.MODEL.WEIGHTS:
        assert get_record(cfg.MODEL.WEIGHTS).name == f"resnest{cfg.MODEL.RESNETS.DEPTH}"
    depth = cfg.MODEL.RESNETS.DEPTH
    cfg.merge_from_list([*TINY_DETECTOR, "MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", depth])
    model = build_model(cfg)
    blocks = [len(stage) for name, stage in model.backbone.bottom_up.named_children() if name.startswith("res")]
    assert blocks == list(get_variant(f"resnest{depth}").depths)
    images = [{"image": torch.randint(0, 256, (3, 64, 80)), "instances": one_box((64, 80))} for _ in range(2)]
    with EventStorage():
        losses = model(images)
    assert losses.keys() == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    model.eval()
    with torch.no_grad():
        assert model(images[:1])[0]["instances"].image_size == (64, 80)


def one_box(size: tuple[int, int]) -> Instances:
    return Instances(size, gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 40.0, 48.0]])), gt_classes=torch.tensor([0]))


def test_a_base_is_no_recipe():
    with pytest.raises(ValueError, match="got 'resnest_fpn'") as error:
        model_zoo.get_config_file("resnest_fpn")
    assert "rcnn_fpn," not in str(error.value)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="name must be one of .*faster_rcnn_resnest50_fpn_1x.*, got 'nothing'"):
        model_zoo.get_config_file("nothing")
