"""What README.md tells a user of Detectron2 to write."""

import re
import textwrap

import pytest

pytest.importorskip("detectron2")

from detectron2.modeling import build_model

from resnest_backbones.detectron2 import ResNeSt
from tests.helpers import ROOT


def block(beginning: str) -> str:
    """The indented block of README.md that begins so."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(rf"^    {re.escape(beginning)}.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    return textwrap.dedent(match[0])


def test_the_lines_for_an_existing_project_make_a_detector(tmp_path, monkeypatch):
    (tmp_path / "resnest.yaml").write_text(block("MODEL:"))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block("from detectron2 import model_zoo"), names)
    cfg = names["cfg"]
    cfg.MODEL.DEVICE = "cpu"
    backbone = build_model(cfg).backbone
    assert isinstance(backbone.bottom_up, ResNeSt) and list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert cfg.MODEL.WEIGHTS == "resnest://resnest50"
