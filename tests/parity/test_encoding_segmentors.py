"""What PyTorch-Encoding's segmentors computed with seeded weights, recomputed by MMSegmentation with this plugin."""

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

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "reference" / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("encoding_*.json")) or ["encoding_*"]
STAGES = ("res2", "res3", "res4", "res5")
NORM = {"type": "BN", "requires_grad": True}
HEADS = {"deeplabv3": "PaperASPPHead", "fcn": "PaperFCNHead"}


def read(case: str, shared: Path) -> dict:
    return json.loads((shared / "reference" / "golden" / f"{case}.json").read_text())


def parse(case: str) -> list[str]:
    """The head and the backbone of ``encoding_deeplabv3_resnest50_ade20k``."""
    return case.split("_")[1:3]


def classes_of(shapes: dict) -> int:
    return next(shapes[key][0] for key in ("head.block.4.weight", "head.conv5.4.weight") if key in shapes)


def model_config(case: str, shapes: dict) -> dict:
    method, backbone = parse(case)
    shared_keys = {"num_classes": classes_of(shapes), "norm_cfg": NORM}
    auxiliary = {"type": "PaperFCNHead", "in_channels": 1024, "in_index": 2, **shared_keys}
    return {
        "type": "EncoderDecoder",
        "backbone": {"type": "ResNeStBackbone", "name": backbone, "output_stride": 8, "norm_cfg": NORM},
        "decode_head": {"type": HEADS[method], "in_channels": 2048, "in_index": 3, **shared_keys},
        "auxiliary_head": auxiliary if any(key.startswith("auxlayer.") for key in shapes) else None,
        "test_cfg": {"mode": "whole"},
    }


def shipped_configs(case: str) -> list[Path]:
    if "*" in case:  # no goldens, so that the tests are skipped
        return []
    method, backbone = parse(case)
    return sorted((ROOT / "configs" / "mmseg").glob(f"*/{method}_{backbone}-d8_*-paper_*.py"))


def check(config: dict, golden: dict, seeded_weights) -> None:
    """Build the segmentor of a config, load the golden's weights, and compare all outputs through MMSegmentation."""
    init_default_scope("mmseg")
    with torch.device("meta"):
        model = MODELS.build(config).eval()
    state = convert_state_dict(seeded_weights.seeded_state_dict(golden["state_dict"]), "segmentor")
    model.load_state_dict(state, strict=True, assign=True)
    image = seeded_weights.seeded_image(golden["image_shape"])
    metas = [{"img_shape": image.shape[2:]}] * len(image)
    with torch.no_grad():
        features = model.extract_feat(image)
        outputs = dict(zip(STAGES, features, strict=True))
        outputs["main"] = model.encode_decode(image, metas)
        if model.with_auxiliary_head:
            outputs["aux"] = model.auxiliary_head.predict(features, metas, model.test_cfg)
    assert set(golden["outputs"]) == set(outputs)
    seeded_weights.check_golden(outputs, golden["outputs"], rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_the_segmentor_of_the_paper(case, shared, seeded_weights):
    golden = read(case, shared)
    check(model_config(case, golden["state_dict"]), golden, seeded_weights)


@pytest.mark.parametrize(("case", "file"), [(case, file) for case in CASES for file in shipped_configs(case)],
                         ids=lambda value: value if isinstance(value, str) else value.stem)  # fmt: skip
def test_the_segmentor_of_a_shipped_config(case, file, shared, seeded_weights):
    golden = read(case, shared)
    config = Config.fromfile(file).model
    classes = classes_of(golden["state_dict"])
    config.decode_head.num_classes = config.auxiliary_head.num_classes = classes  # its dataset may be another one
    check(config, golden, seeded_weights)
