import pytest

pytest.importorskip("detectron2")

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, LazyCall, get_cfg, instantiate
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import FPN, build_backbone, build_model
from torch import nn

from resnest_backbones import ResNeStSpec, get_variant
from resnest_backbones.detectron2 import ResNeSt, add_resnest_config, use_resnest
from tests.helpers import flat, indented_block

ROOT = Path(__file__).parents[2]
# The keys and defaults of resnest/d2/config.py.
WRAPPER_DEFAULTS = {"DEEP_STEM": True, "AVD": True, "AVG_DOWN": True, "RADIX": 2, "BOTTLENECK_WIDTH": 64}
# As in the original wrapper's configs/Base-RCNN-FPN.yaml and faster_rcnn_R_50_FPN_syncbn_range-scale_1x.yaml.
OLD_YAML = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  BACKBONE:
    NAME: "build_resnest_fpn_backbone"
    FREEZE_AT: 0
  RESNETS:
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
    DEPTH: 50
    STRIDE_IN_1X1: False
    RADIX: 2
    DEEP_STEM: True
    AVD: True
    AVG_DOWN: True
    BOTTLENECK_WIDTH: 64
    NORM: "SyncBN"
  FPN:
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
    NORM: "SyncBN"
"""


def test_the_defaults_are_the_wrappers_and_the_new_keys_change_nothing():
    cfg = get_cfg()
    stock = get_cfg().MODEL.RESNETS
    add_resnest_config(cfg)
    added = {key: value for key, value in cfg.MODEL.RESNETS.items() if key not in stock}
    assert added == {
        **WRAPPER_DEFAULTS,
        "AVD_FIRST": False,
        "RES4_DILATION": 1,
        "RES5_MULTI_GRID": [],
        "AVG_POOL_AT_STRIDE_1": True,
        "DROP_PATH_RATE": 0.0,
        "DROP_BLOCK_RATE": 0.0,
        "GRADIENT_CHECKPOINTING": False,
        "RECOMPUTE": None,
        "CHANNELS_LAST": False,
        "COMPILE": False,
        "COMPILE_BACKEND": "inductor",
    }
    assert {key: cfg.MODEL.RESNETS[key] for key in stock} == dict(stock)


@pytest.mark.parametrize("deeplab_first", [True, False])
def test_it_stands_beside_the_keys_of_the_deeplab_project_and_keeps_what_was_set(deeplab_first):
    def add_deeplab_config(cfg):  # the lines of projects/DeepLab that touch MODEL.RESNETS
        cfg.MODEL.RESNETS.RES4_DILATION = 1
        cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 2, 4]

    cfg = get_cfg()
    for add in (add_deeplab_config, add_resnest_config) if deeplab_first else (add_resnest_config, add_deeplab_config):
        add(cfg)
    cfg.merge_from_list(["MODEL.RESNETS.RES4_DILATION", 2, "MODEL.RESNETS.AVD_FIRST", True])
    add_resnest_config(cfg)
    keys = cfg.MODEL.RESNETS
    assert (keys.RES4_DILATION, keys.AVD_FIRST, keys.RADIX) == (2, True, 2)


def test_a_yaml_file_of_the_wrapper_works_unchanged(tmp_path):
    (tmp_path / "old.yaml").write_text(OLD_YAML)
    cfg = get_cfg()
    add_resnest_config(cfg)
    cfg.merge_from_file(str(tmp_path / "old.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    backbone = build_backbone(cfg)
    assert isinstance(backbone, FPN)
    assert backbone.bottom_up.spec == get_variant("resnest50")
    assert isinstance(backbone.bottom_up.stem.conv1_1.norm, nn.SyncBatchNorm)
    with torch.no_grad():
        pyramid = backbone.eval()(torch.zeros(1, 3, 64, 96))
    sizes = {name: tuple(level.shape[2:]) for name, level in pyramid.items()}
    assert sizes == {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6), "p5": (2, 3), "p6": (1, 2)}


@pytest.mark.slow
def test_the_plugin_imports_no_other_framework_gives_way_to_another_owner_of_its_names_and_can_be_reloaded():
    code = """
import importlib, sys
import resnest_backbones
assert not {"detectron2", "mmseg", "mmengine", "timm"} & set(sys.modules)
from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
def build_resnest_backbone(cfg, input_shape): pass
build_resnest_backbone.__module__ = "resnest.d2.resnest"
BACKBONE_REGISTRY.register(build_resnest_backbone)
try:
    import resnest_backbones.detectron2
except ImportError as error:
    print("refused:", error)
assert BACKBONE_REGISTRY.get("build_resnest_backbone") is build_resnest_backbone
assert "build_resnest_fpn_backbone" not in BACKBONE_REGISTRY
del BACKBONE_REGISTRY._obj_map["build_resnest_backbone"]
import resnest_backbones.detectron2 as plugin
assert not {"mmseg", "mmengine", "mmcv", "timm"} & set(sys.modules)
for name in ("config", "backbone", "checkpoint"):
    importlib.reload(sys.modules[f"resnest_backbones.detectron2.{name}"])
plugin = importlib.reload(plugin)
for name in [name for name in sys.modules if name.startswith("resnest_backbones")]:
    del sys.modules[name]
import resnest_backbones.detectron2 as plugin
cfg = get_cfg()
plugin.add_resnest_config(cfg)
cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.DEPTH = "cpu", 14
cfg.MODEL.BACKBONE.NAME = "build_resnest_backbone"
print("built", type(build_backbone(cfg)).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "refused: 'build_resnest_backbone' is already registered by resnest.d2.resnest" in done.stdout
    assert "built ResNeSt" in done.stdout, done.stderr


def test_a_lazy_call_builds_the_trunk():
    backbone = instantiate(LazyCall(ResNeSt)(spec="resnest14", norm="BN", freeze_at=2, out_features=["stem", "res4"]))
    assert backbone.output_shape() == {
        "stem": ShapeSpec(channels=64, stride=4),
        "res4": ShapeSpec(channels=1024, stride=16),
    }
    assert backbone.size_divisibility == 0  # any size; an FPN around it asks for 32
    assert not any(p.requires_grad for p in backbone.res2.parameters())
    assert all(p.requires_grad for p in backbone.res3.parameters())
    assert backbone.freeze(3) is backbone
    assert not any(p.requires_grad for p in backbone.res3.parameters())
    assert isinstance(backbone.res3[0].conv2.bn1, FrozenBatchNorm2d)


def test_a_lazy_call_takes_a_spec_of_the_users_own():
    spec = replace(get_variant("resnest14"), radix=4)
    for lazy in (spec, LazyCall(ResNeStSpec)(name="mine", depths=(1, 1, 1, 1), radix=4)):
        backbone = instantiate(LazyCall(ResNeSt)(spec=lazy))
        assert backbone.res2[0].conv2.radix == 4
        assert backbone.spec.depths == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "BatchNorm"}, r"norm must be .*'SyncBN'.* got 'BatchNorm'"),
        ({"freeze_at": 6}, r"freeze_at must be .* 0 .* 5 .*got 6"),
        ({"out_features": ["res6"]}, r"out_features must be .*res5.*got 'res6'"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNeSt(**{"spec": "resnest14", **arguments})


# What README.md and docs/detectron2.md tell a user to write.


@pytest.mark.parametrize("file", ["README.md", "docs/detectron2.md"])
def test_the_lines_for_an_existing_project_make_a_detector(file):
    names: dict = {}
    exec(indented_block("from detectron2 import model_zoo", file), names)
    cfg = names["cfg"]
    cfg.MODEL.DEVICE = "cpu"
    backbone = build_model(cfg).backbone
    assert isinstance(backbone.bottom_up, ResNeSt) and list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert cfg.MODEL.WEIGHTS == "resnest://resnest50"


def test_the_yaml_says_what_the_call_does():
    by_call, by_file = get_cfg(), get_cfg()
    add_resnest_config(by_file)
    for cfg in (by_call, by_file):
        cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    use_resnest(by_call, "resnest50")
    by_file.merge_from_other_cfg(CfgNode.load_cfg(indented_block("MODEL:", "docs/detectron2.md")))
    by_call.MODEL.RESNETS.NORM = "SyncBN"
    assert flat(by_call) == flat(by_file)
