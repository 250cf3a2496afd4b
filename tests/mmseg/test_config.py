"""Changes to MMSegmentation's configs: a custom dataset in its own ones."""

import re
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from resnest_backbones.mmseg import ResNeStBackbone
from resnest_backbones.mmseg.config import describe_output_stride, inner_datasets, use_custom_dataset
from tests.helpers import indented_block
from tests.mmseg.helpers import as_in_a_new_process

MMSEG_CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs"


def test_the_lines_for_an_existing_project_in_the_readme_make_a_segmentor(tmp_path):
    if not MMSEG_CONFIGS.is_dir():
        pytest.skip("this installation of MMSegmentation has no configs")
    text = indented_block("_base_ =")
    base = re.match(r'_base_ = "(.+?)"', text)[1]
    file = tmp_path / "config.py"
    file.write_text(text.replace(base, str(next(MMSEG_CONFIGS.rglob(base)))))
    cfg = Config.fromfile(file)
    init_default_scope(cfg.default_scope)
    assert cfg.model.backbone.init_cfg == {"type": "Pretrained", "checkpoint": "resnest://resnest101"}
    with torch.device("meta"):
        model = MODELS.build(cfg.model).eval()
        assert isinstance(model.backbone, ResNeStBackbone)
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 150, 8, 12)


@pytest.mark.parametrize(
    ("name", "has", "said"),
    [
        (
            "pspnet_r50-d8_4xb4-160k_ade20k-512x512.py",
            32,
            "the config's name says d8: set model.backbone.output_stride=8",
        ),
        ("deeplabv3_r101-d16-mg124_4xb2-80k.py", 8, "the config's name says d16"),
        ("mine.py", 32, "its ASPP has the dilations for output stride 8"),
        ("deeplabv3_r50-d8_4xb4-160k_ade20k-512x512.py", 8, None),
        ("upernet_r50_4xb4-160k_ade20k-512x512.py", 8, None),
    ],
)
def test_an_output_stride_that_is_not_the_configs_is_said(name, has, said, tmp_path):
    head = {"type": "ASPPHead", "dilations": (1, 12, 24, 36)} if "upernet" not in name else {"type": "UPerHead"}
    stride = {} if has == 32 else {"output_stride": has}
    model = {"backbone": {"type": "mmengine.ResNeStBackbone", "name": "resnest50", **stride}, "decode_head": [head]}
    (tmp_path / name).write_text(f"model = {model!r}")
    lines = describe_output_stride(Config.fromfile(tmp_path / name))
    if said is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f"ResNeStBackbone has output_stride={has}, but ") and said in line


@pytest.mark.parametrize(
    "name",
    [
        "pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py",
        "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024.py",
        "unet/unet-s5-d16_fcn_4xb4-ce-1.0-dice-3.0-40k_drive-64x64.py",
        "ocrnet/ocrnet_hr18_4xb4-20k_voc12aug-512x512.py",
    ],
)
def test_any_config_takes_a_custom_dataset(name, custom_data):
    path = MMSEG_CONFIGS / name
    if not path.is_file():
        pytest.skip(f"this MMSegmentation has no {name}")
    cfg = Config.fromfile(path)
    sizes = [step.crop_size for step in cfg.train_pipeline if step.type == "RandomCrop"]
    use_custom_dataset(cfg, custom_data)
    with as_in_a_new_process():
        init_default_scope("mmseg")
        for loader, split in ((cfg.train_dataloader, "training"), (cfg.val_dataloader, "validation")):
            dataset = DATASETS.build(loader.dataset)
            sample = dataset[0]["data_samples"]
            assert f"/images/{split}/" in sample.img_path and sample.reduce_zero_label
            assert set(np.unique(sample.gt_sem_seg.data)) <= {0, 1, 2, 255}
            assert dataset.metainfo["classes"] == ("red", "green", "blue")
        cfg.model.pretrained = None
        cfg.model.backbone.pop("init_cfg", None)
        cfg.model.backbone.pop("pretrained", None)
        with torch.device("meta"):
            model = MODELS.build(cfg.model)
    layers = {name: m.out_channels for name, m in model.named_modules() if name.endswith("conv_seg")}
    assert len(layers) >= 2 and set(layers.values()) == {3}
    (dataset,) = inner_datasets(cfg.train_dataloader.dataset)
    assert [step["crop_size"] for step in dataset.pipeline if step["type"] == "RandomCrop"] == sizes
    assert [evaluator.type for evaluator in cfg.test_evaluator] == ["IoUMetric"]
