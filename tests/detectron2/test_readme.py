"""What README.md tells a user of Detectron2 to write."""

import pytest

pytest.importorskip("detectron2")

from detectron2.modeling import build_model

from resnest_backbones.detectron2 import ResNeSt
from tests.helpers import readme_block


def test_the_lines_for_an_existing_project_make_a_detector(tmp_path, monkeypatch):
    (tmp_path / "resnest.yaml").write_text(readme_block("MODEL:"))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(readme_block("from detectron2 import model_zoo"), names)
    cfg = names["cfg"]
    cfg.MODEL.DEVICE = "cpu"
    backbone = build_model(cfg).backbone
    assert isinstance(backbone.bottom_up, ResNeSt) and list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert cfg.MODEL.WEIGHTS == "resnest://resnest50"
