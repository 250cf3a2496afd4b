"""Trained models by name: a seeded file as their servers have it, and all that takes ``resnest://NAME``."""

import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import demo
import reproduce
import resnest_backbones as rb
from resnest_backbones import model_zoo
from resnest_backbones.errors import ConfigError
from tests.helpers import odd_image
from tests.weights.helpers import SEGMENTOR, Trained, published_segmentor


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory) -> Iterator[Trained]:
    with published_segmentor(tmp_path_factory.mktemp("published")) as trained:
        yield trained


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [key for key, value in wanted.items() if not torch.equal(found[key].cpu(), value)] == []


@pytest.mark.slow
def test_a_name_gives_a_trained_segmentor_wherever_weights_are_named(segmentor, tmp_path):
    from mmengine.registry import MODELS
    from mmengine.runner import CheckpointLoader

    model = model_zoo.get(SEGMENTOR, trained=True)
    assert model.training
    assert_equal(model.state_dict(), segmentor.state)
    assert CheckpointLoader.load_checkpoint(f"resnest://{SEGMENTOR}")["meta"]["CLASSES"] == segmentor.classes
    net = rb.build("resnest101", output_stride=8)
    report = rb.load_checkpoint(net, f"resnest://{SEGMENTOR}")
    trunk = {f"backbone.{key}": value for key, value in net.state_dict().items()}
    assert_equal(trunk, {key: value for key, value in segmentor.state.items() if key in trunk})
    assert report.layout == "mmseg" and any(key.startswith("decode_head.") for key in report.unused)
    start = {"type": "Pretrained", "checkpoint": f"resnest://{SEGMENTOR}"}
    backbone = MODELS.build({"type": "ResNeStBackbone", "name": "resnest101", "init_cfg": start})
    backbone.init_weights()
    assert torch.equal(backbone.state_dict()["res5.2.conv3.weight"], segmentor.state["backbone.res5.2.conv3.weight"])
    assert len(segmentor.server.requests) == 1, "all of them share a cache"


def test_a_photo_needs_the_name_of_a_recipe_only(segmentor, tmp_path):
    photo, width, height = odd_image("plain", tmp_path)
    out, small = tmp_path / "out", "test_dataloader.dataset.pipeline.1.scale=(96,64)"
    demo.run(["--model", SEGMENTOR, str(photo), "--output-dir", str(out), "--opts", small])
    found = json.loads((out / "predictions.json").read_text())
    assert found["classes"] == list(segmentor.classes) and found["task"] == "segmentation"
    assert (found["model"], found["checkpoint"]) == (SEGMENTOR, f"resnest://{SEGMENTOR}")
    (image,) = found["images"]
    assert (image["height"], image["width"]) == (height, width) and image["shares"].keys() <= set(segmentor.classes)
    assert (out / "drawn" / "plain.png").is_file() and (out / image["label_map"]).is_file()


def test_a_name_without_a_file_that_can_be_fetched_is_explained(tmp_path):
    name = "deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480"
    photo, _, _ = odd_image("plain", tmp_path)
    for call in (
        lambda: demo.run(["--model", name, str(photo), "--output-dir", str(tmp_path / "out")]),
        lambda: reproduce.main(["run", name, "--published", "--output-dir", str(tmp_path / "out")]),
    ):
        with pytest.raises(
            SystemExit, match="error: the published file of .* cannot be downloaded, because https://s3"
        ):
            call()
    with pytest.raises(ConfigError, match=r"pass its path"):
        model_zoo.get(name, trained=True)
