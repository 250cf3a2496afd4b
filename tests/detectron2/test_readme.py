"""What README.md and docs/detectron2.md tell a user of Detectron2 to write."""

import pytest

pytest.importorskip("detectron2")

from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from resnest_backbones.detectron2 import ResNeSt, add_resnest_config, use_resnest
from tests.helpers import flat, indented_block


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
