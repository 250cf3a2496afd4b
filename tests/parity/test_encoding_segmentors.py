"""What PyTorch-Encoding's segmentor computed with seeded weights, recomputed by MMSegmentation with this plugin."""

import json
from pathlib import Path

import pytest

pytest.importorskip("mmseg")

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import resnest_backbones.mmseg  # noqa: F401  (registers)
from resnest_backbones import convert_state_dict

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "mmseg"
NAMES = ("ade20k/deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480",)
NAMES += ("pascal_context_59/deeplabv3_resnest50-d8_4xb4-paper_pascal_context_59-480x480",)


@pytest.mark.parametrize("name", NAMES)
def test_the_segmentor_of_a_shipped_config(name, shared, seeded_weights):
    """All outputs, through MMSegmentation."""
    file = shared / "reference" / "golden" / "encoding_deeplabv3_resnest50_ade20k.json"
    golden = json.loads(file.read_text())
    config = Config.fromfile(CONFIGS / f"{name}.py").model
    classes = golden["state_dict"]["head.block.4.weight"][0]
    config.decode_head.num_classes = config.auxiliary_head.num_classes = classes  # its dataset may be another one
    init_default_scope("mmseg")
    with torch.device("meta"):
        model = MODELS.build(config).eval()
    state = convert_state_dict(seeded_weights.seeded_state_dict(golden["state_dict"]), "segmentor")
    model.load_state_dict(state, strict=True, assign=True)
    image = seeded_weights.seeded_image(golden["image_shape"])
    metas = [{"img_shape": image.shape[2:]}] * len(image)
    with torch.no_grad():
        features = model.extract_feat(image)
        outputs = dict(zip(("res2", "res3", "res4", "res5"), features, strict=True))
        outputs["main"] = model.encode_decode(image, metas)
        outputs["aux"] = model.auxiliary_head.predict(features, metas, model.test_cfg)
    assert set(golden["outputs"]) == set(outputs)
    seeded_weights.check_golden(outputs, golden["outputs"], rtol=1e-9)
