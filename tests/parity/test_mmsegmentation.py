"""Live parity with MMSegmentation's own ResNeSt segmentors: its config, its model, and one file for both."""

from pathlib import Path

import pytest

pytest.importorskip("mmseg")

import mmseg
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

from resnest_backbones import model_zoo
from resnest_backbones.mmseg import load_segmentor

METHODS = ("fcn", "pspnet", "deeplabv3", "deeplabv3plus")
DATA = {"ade20k": "4xb4-160k_ade20k-512x512", "cityscapes": "4xb2-80k_cityscapes-512x1024"}
# With fewer blocks than the published files have in the fast one.
CASES = [pytest.param("fcn", "cityscapes", 50)]
CASES += [pytest.param(method, dataset, 101, marks=pytest.mark.slow) for method in METHODS for dataset in DATA]


def theirs(method: str, dataset: str) -> Config:
    folder = Path(mmseg.__file__).parent / ".mim" / "configs" / "resnest"
    if not folder.is_dir():
        pytest.skip(f"this MMSegmentation came without its configs in {folder}")
    # Up to the crop, because one of its files has no hyphen before it.
    (file,) = folder.glob(f"resnest_s101-d8_{method}_{DATA[dataset].rpartition('-')[0]}*.py")
    return Config.fromfile(file)


def on_meta(cfg: Config) -> nn.Module:
    init_default_scope("mmseg")
    with torch.device("meta"):
        return MODELS.build({**cfg.model, "data_preprocessor": None})


def outputs(model: nn.Module) -> list[Tensor]:
    """Logits of the decode head and of the auxiliary head."""
    images = torch.randn(1, 3, 65, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = model.double().eval().extract_feat(images)
        return [model.decode_head(features), model.auxiliary_head(features)]


@pytest.mark.parametrize(("method", "dataset", "depth"), CASES)
def test_a_file_of_mmsegmentation_gives_its_outputs(method, dataset, depth, fill_randomly, tmp_path):
    cfg, own = theirs(method, dataset), model_zoo.get_config(f"{method}_resnest101-d8_{DATA[dataset]}")
    cfg.model.backbone.update(depth=depth, stem_channels={50: 64, 101: 128}[depth])
    own.model.backbone.name = f"resnest{depth}"
    original = fill_randomly(on_meta(cfg)).float()
    classes = original.decode_head.num_classes
    file = str(tmp_path / "published.pth")
    torch.save({"meta": {"CLASSES": [str(i) for i in range(classes)]}, "state_dict": original.state_dict()}, file)

    ours = on_meta(own).to_empty(device="cpu").double()
    load_segmentor(ours, file)
    wanted, found = outputs(original), outputs(ours)
    for want, got in zip(wanted, found, strict=True):
        assert want.shape[1] == classes
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * want.abs().max().item())
