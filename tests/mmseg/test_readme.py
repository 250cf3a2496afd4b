"""What README.md tells a user of MMSegmentation to write."""

import re
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from resnest_backbones.mmseg import ResNeStBackbone
from tests.helpers import ROOT, readme_block

OWN_CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs"


def test_the_lines_for_an_existing_project_make_a_segmentor(tmp_path):
    if not OWN_CONFIGS.is_dir():
        pytest.skip("this installation of MMSegmentation has no configs")
    text = readme_block("_base_ =")
    base = re.match(r'_base_ = "(.+?)"', text)[1]
    file = tmp_path / "config.py"
    file.write_text(text.replace(base, str(next(OWN_CONFIGS.rglob(base)))))
    cfg = Config.fromfile(file)
    init_default_scope(cfg.default_scope)
    assert cfg.model.backbone.init_cfg == {"type": "Pretrained", "checkpoint": "resnest://resnest101"}
    with torch.device("meta"):
        model = MODELS.build(cfg.model).eval()
        assert isinstance(model.backbone, ResNeStBackbone)
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 150, 8, 12)


def test_the_configs_of_the_command_lines_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"configs/mmseg/\S+\.py", text)
    assert named
    for config in named:
        assert (ROOT / config).is_file(), config
