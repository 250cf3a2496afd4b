"""What the original implementations computed with seeded weights, recomputed here."""

import json
import re
from pathlib import Path

import pytest
import torch

from resnest_backbones import build, convert_state_dict, list_variants, load_checkpoint

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "reference" / "golden"
STAGES = ("res2", "res3", "res4", "res5")


def cases(pattern: str) -> list[str]:
    """Names of the goldens there are; one name that leads to a skip where the folder is not there."""
    return sorted(path.stem for path in GOLDEN.glob(pattern)) or [pattern]


def read_golden(shared: Path, name: str) -> dict:
    return json.loads((shared / "reference" / "golden" / f"{name}.json").read_text())


@pytest.mark.parametrize("case", cases("official_*.json"))
def test_the_official_network(case, shared, seeded_weights):
    golden = read_golden(shared, case)
    name, stride = re.fullmatch(r"official_(\w+?)(?:_stride(\d+))?", case).groups()
    assert name in list_variants()
    with torch.device("meta"):
        net = build(
            name, output_stride=int(stride or 32), out_features=("stem", *STAGES, "logits"), num_classes=1000
        ).eval()
    state = convert_state_dict(seeded_weights.seeded_state_dict(golden["state_dict"]))
    net.load_state_dict(state, strict=True, assign=True)
    with torch.no_grad():
        outputs = net(seeded_weights.seeded_image(golden["image_shape"]))
    assert set(outputs) == set(golden["outputs"])
    seeded_weights.check_golden(outputs, golden["outputs"], rtol=1e-9)


@pytest.mark.parametrize("case", cases("encoding_*.json"))
def test_the_trunk_of_pytorch_encodings_segmentor(case, shared, seeded_weights, tmp_path):
    golden = read_golden(shared, case)
    name = re.search(r"resnest\d+", case)[0]
    file = tmp_path / f"{case}.pth"
    torch.save({"state_dict": seeded_weights.seeded_state_dict(golden["state_dict"])}, file)
    net = build(name, output_stride=8).double().eval()
    report = load_checkpoint(net, file)
    assert report.layout == "encoding"
    assert report.loaded == len(net.state_dict())
    with torch.no_grad():
        outputs = net(seeded_weights.seeded_image(golden["image_shape"]))
    seeded_weights.check_golden(outputs, {stage: golden["outputs"][stage] for stage in STAGES}, rtol=1e-9)


@pytest.mark.parametrize("case", cases("d2_*.json"))
def test_the_trunk_of_the_detectron2_wrappers_detector(case, shared, seeded_weights):
    golden = read_golden(shared, case)
    deformable = {"deform_stages": ("res3", "res4", "res5"), "deform_modulated": True, "deform_groups": 2}
    with torch.device("meta"):
        net = build("resnest50", **(deformable if "dcnv2" in case else {})).eval()
    state = convert_state_dict(seeded_weights.seeded_state_dict(golden["state_dict"]))
    net.load_state_dict(state, strict=True, assign=True)
    with torch.no_grad():
        outputs = net(seeded_weights.seeded_image(golden["image_shape"]))
    seeded_weights.check_golden(outputs, {stage: golden["outputs"][stage] for stage in STAGES}, rtol=1e-9)
