"""Short names become configs and models of their framework, with or without the weights that a recipe starts from."""

from pathlib import Path

import pytest
import torch

from resnest_backbones import build, model_zoo
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import RECIPES
from tests.helpers import publishing

DETECTOR, LAZY = "faster_rcnn_resnest50_fpn_1x", "faster_rcnn_resnest50_fpn_1x_lazy"
SEGMENTOR = "fcn_resnest50-d8_4xb4-paper_ade20k-480x480"


def test_every_config_is_listed_once_and_every_recipe_has_one():
    model_zoo.list().clear()  # the list is the caller's own
    names = model_zoo.list()
    assert len(names) == len(set(names)) > len(RECIPES)
    assert RECIPES.keys() <= set(names)
    files = [Path(model_zoo.get_config_file(name)) for name in names]
    assert [file.stem for file in files] == names
    for name, recipe in RECIPES.items():
        assert Path(model_zoo.get_config_file(name)).relative_to(model_zoo.config_root()).parts[0] == recipe.framework
    leaves = {file for file in model_zoo.config_root().rglob("*.*") if file.suffix in (".yaml", ".py")}
    assert {*files} == {file for file in leaves if not {"_base_", "demo", "small"} & {*file.parts}}
    assert [model_zoo.framework_of(name) for name in names] == [
        file.relative_to(model_zoo.config_root()).parts[0] for file in files
    ]


@pytest.mark.parametrize(
    ("framework", "file"),
    [
        ("detectron2", "demo/faster_rcnn_resnest14_fpn_demo.yaml"),
        ("detectron2", "coco_instance_segmentation/mask_cascade_rcnn_resnest50_fpn_1x_lazy.py"),
        ("mmseg", "demo/deeplabv3_resnest14-d8_1xb8-demo_demo-96x96.py"),
    ],
)
def test_a_config_file_serves_as_its_name_does(framework, file):
    pytest.importorskip(framework)
    path = model_zoo.config_root() / framework / file
    assert model_zoo.get_config_file(path) == str(path) and model_zoo.framework_of(path) == framework
    assert model_zoo.get(path, pretrained_backbone=False).training
    with pytest.raises(ConfigError):
        model_zoo.get_config_file(f"{path}.bak")


@pytest.mark.parametrize(
    ("text", "framework"),
    [
        ("from detectron2.config import LazyCall as L\nmodel = L(dict)()", "detectron2"),
        ("from .base import model", "detectron2"),
        ("from mmengine.config import read_base\nwith read_base():\n    from .base import *", "mmseg"),
        ("_base_ = ['base.py']\nfrom os import path", "mmseg"),
        ("model = dict(type='EncoderDecoder')", "mmseg"),
    ],
)
def test_the_framework_of_a_python_config_shows_in_its_text(text, framework, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(text)
    assert model_zoo.framework_of(file) == framework
    file.write_text("model = (")
    with pytest.raises(ConfigError, match=r"config\.py is not a config: "):
        model_zoo.framework_of(file)


@pytest.mark.parametrize("call", [model_zoo.get_config_file, model_zoo.get_config, model_zoo.get])
def test_an_unknown_name_is_answered_with_the_nearest(call):
    for unknown, hint in (
        ("nothing", "`resnest-backbones list --configs` prints the names"),
        ("faster_rcnn_resnest50_fpn_2x", "did you mean faster_rcnn_resnest50_fpn_1x"),
        ("configs/faster_rcnn_resnest50_fpn_lx.yaml", "did you mean faster_rcnn_resnest50_fpn_1x"),
    ):
        message = f"name must be a config file or the name of a config, got {unknown!r}; {hint}"
        with pytest.raises(ConfigError, match=message):
            call(unknown)


def test_a_config_is_of_its_framework_and_loaded_anew_each_time():
    pytest.importorskip("detectron2")
    from detectron2.config import CfgNode
    from omegaconf import DictConfig

    yaml, lazy = model_zoo.get_config(DETECTOR), model_zoo.get_config(LAZY)
    assert isinstance(yaml, CfgNode) and yaml.MODEL.RESNETS.RADIX == 2
    assert isinstance(lazy, DictConfig) and lazy.model.backbone.bottom_up.spec == "resnest50"
    yaml.MODEL.RESNETS.RADIX = 1
    lazy.model.backbone.bottom_up.spec = "resnest101"
    again = model_zoo.get_config(LAZY).model.backbone.bottom_up.spec
    assert model_zoo.get_config(DETECTOR).MODEL.RESNETS.RADIX == 2 and again == "resnest50"


@pytest.fixture
def published_resnest50(tmp_path, monkeypatch):
    """A loopback server of "published" weights, a number of its own for each tensor."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in build("resnest50").state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {key: (torch.rand((), generator=generator) + 0.5).expand(shape) for key, shape in shapes.items()}
    with publishing("resnest50", state, tmp_path, monkeypatch) as server:
        yield server, state


@pytest.mark.parametrize(
    ("framework", "name", "prefix"),
    [
        ("detectron2", DETECTOR, "backbone.bottom_up."),
        ("detectron2", LAZY, "backbone.bottom_up."),
        ("mmseg", SEGMENTOR, "backbone."),
    ],
)
def test_a_model_has_the_weights_of_its_recipe_or_none(framework, name, prefix, published_resnest50, monkeypatch):
    pytest.importorskip(framework)
    server, state = published_resnest50
    key = "res5.0.conv1.weight"
    random = model_zoo.get(name, pretrained_backbone=False)
    assert server.requests == []
    assert random.state_dict()[f"{prefix}{key}"].unique().numel() > 1
    filled = model_zoo.get(name)
    assert filled.training and server.requests
    own = filled.state_dict()
    values = {k.removeprefix(prefix): v.cpu() for k, v in own.items() if k.startswith(prefix)}
    loaded = {k: v for k, v in values.items() if not k.endswith("num_batches_tracked")}
    assert loaded.keys() == {k for k in state if not k.endswith("num_batches_tracked")}
    for k, value in loaded.items():
        torch.testing.assert_close(value, state[k].to(value.dtype), msg=k)
