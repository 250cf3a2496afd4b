"""A ResNeSt in the place of the ResNet of every config of MMSegmentation's: built, trained for a step, predicting.

One config of each method is trained, and all of them where the environment variable ZOO is ``all``: ``make zoo``.
"""

import os
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from resnest_backbones.mmseg import ResNeStBackbone
from resnest_backbones.mmseg.config import describe_output_stride
from resnest_backbones.models.norms import synchronise_on_cpu
from tests.helpers import Tally
from tests.mmseg.test_configs import batch

CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs"
WITH_RESNET = ("ResNet", "ResNetV1c", "ResNetV1d", "ResNeXt", "ResNeSt")


def stride_of(backbone: dict) -> int | None:
    """The output stride of MMSegmentation's ResNet, where ours has it with these dilations, too."""
    settings = tuple(backbone.get("strides", (1, 2, 2, 2))), tuple(backbone.get("dilations", (1, 1, 1, 1)))
    known = {(1, 2, 2, 2): (1, 1, 1, 1), (1, 2, 2, 1): (1, 1, 1, 2), (1, 2, 1, 1): (1, 1, 2, 4)}
    return 32 // max(settings[1]) if known.get(settings[0]) == settings[1] else None


def cannot_be_built(file: Path) -> bool:
    """Whether a config as it is cannot be built either: compiled operators or MMDetection are missing."""
    try:
        with torch.device("meta"):
            MODELS.build(Config.fromfile(file).model)
    except Exception:
        return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_config_with_a_resnet_gets_the_network_that_was_meant(capsys):
    tally, seen = Tally("meant", "trained", "inferred"), {}
    init_default_scope("mmseg")
    for file in sorted(CONFIGS.glob("*/*.py")):
        try:
            cfg = Config.fromfile(file)
        except (OSError, ImportError, ModuleNotFoundError):
            continue
        old, family = cfg.get("model", {}).get("backbone", {}), file.parent.name
        if old.get("type") not in WITH_RESNET or old.get("depth") == 18 or (stride := stride_of(old)) is None:
            tally.others.append(file.stem)
            continue
        backbone = {"type": "ResNeStBackbone", "name": "resnest50", "out_indices": old.get("out_indices", (0, 1, 2, 3))}
        cfg.model.backbone, cfg.model.pretrained = {**backbone, "output_stride": stride}, None
        # K-Net's name says d8 of a ResNet of stride 32.
        assert describe_output_stride(cfg) == [] or family == "knet", file
        key = str(cfg.model)
        if key in seen:  # the same network for another dataset
            for column, is_right in seen[key].items():
                tally.add(family, column, file.stem, is_right)
            continue
        try:
            with torch.device("meta"):
                model = MODELS.build(cfg.model)
        except Exception:
            assert cannot_be_built(file), file
            tally.others.append(file.stem)
            continue
        is_meant = isinstance(model.backbone, ResNeStBackbone) and model.backbone.output_stride == stride
        seen[key] = {"meant": is_meant}
        if not tally.add(family, "meant", file.stem, is_meant) and os.environ.get("ZOO") != "all":
            continue
        cfg.model.backbone.name = "resnest14"
        cfg.model.data_preprocessor.size = (64, 64)
        with tally.expecting(file.stem):
            model = synchronise_on_cpu(MODELS.build(cfg.model)).train()
            loss, _ = model.parse_losses(model(**model.data_preprocessor(batch(2, (64, 64)), True), mode="loss"))
            loss.backward()
            torch.optim.SGD([p for p in model.parameters() if p.grad is not None], 1e-4).step()
            gradient = next(p for name, p in model.backbone.named_parameters() if name.startswith("res2")).grad
            seen[key]["trained"] = bool(loss.isfinite() and gradient.abs().sum() > 0)
            tally.add(family, "trained", file.stem, seen[key]["trained"])
            with torch.no_grad():
                (found,) = model.eval().test_step(batch(2, (64, 64), number=1))
            seen[key]["inferred"] = found.pred_sem_seg.data.shape == (1, 64, 64)
            tally.add(family, "inferred", file.stem, seen[key]["inferred"])
    with capsys.disabled():
        print(f"\n{tally}\n" + "\n".join(tally.failed))
    assert tally.failed == [] and sum(row["configs"] for row in tally.rows.values()) > 200
