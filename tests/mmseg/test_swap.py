"""A ResNeSt in the place of the ResNet of every config of MMSegmentation's."""

from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from resnest_backbones.mmseg import ResNeStBackbone
from resnest_backbones.mmseg.config import describe_output_stride

CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs"
WITH_RESNET = ("ResNet", "ResNetV1c", "ResNetV1d", "ResNeXt", "ResNeSt")


def stride_of(backbone: dict) -> int | None:
    """The output stride of MMSegmentation's ResNet, where ours has it with these dilations, too."""
    settings = tuple(backbone.get("strides", (1, 2, 2, 2))), tuple(backbone.get("dilations", (1, 1, 1, 1)))
    known = {(1, 2, 2, 2): (1, 1, 1, 1), (1, 2, 2, 1): (1, 1, 1, 2), (1, 2, 1, 1): (1, 1, 2, 4)}
    return 32 // max(settings[1]) if known.get(settings[0]) == settings[1] else None


@pytest.mark.slow
def test_every_config_with_a_resnet_gets_the_network_that_was_meant(capsys):
    done, others, cannot, seen = 0, 0, [], set()
    for file in sorted(CONFIGS.glob("*/*.py")):
        try:
            cfg = Config.fromfile(file)
        except (OSError, ImportError, ModuleNotFoundError):
            continue
        old = cfg.get("model", {}).get("backbone", {})
        if old.get("type") not in WITH_RESNET or old.get("depth") == 18:
            others += 1
            continue
        stride = stride_of(old)
        if stride is None:
            cannot.append(file.stem)
            continue
        backbone = {"type": "ResNeStBackbone", "name": "resnest50", "out_indices": old.get("out_indices", (0, 1, 2, 3))}
        backbone |= {"output_stride": stride}
        cfg.model.backbone = backbone
        cfg.model.pretrained = None
        # K-Net's name says d8 of a ResNet of stride 32.
        assert describe_output_stride(cfg) == [] or file.parent.name == "knet", file
        if (key := str(cfg.model)) in seen:
            done += 1
            continue
        seen.add(key)
        init_default_scope("mmseg")
        try:
            with torch.device("meta"):
                model = MODELS.build(cfg.model)
        except Exception:  # nor can it be built as it was: compiled operators or MMDetection are missing
            with pytest.raises(Exception), torch.device("meta"):  # noqa: B017
                MODELS.build(Config.fromfile(file).model)
            cannot.append(file.stem)
            continue
        assert isinstance(model.backbone, ResNeStBackbone) and model.backbone.output_stride == stride, file
        done += 1
    with capsys.disabled():
        print(f"\n{done} configs got a ResNeSt, {others} have no such ResNet; not these: {', '.join(cannot)}")
    assert done > 200
