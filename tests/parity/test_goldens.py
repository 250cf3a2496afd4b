"""What the original implementations computed with seeded weights, recomputed here."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import pytest
import torch

from resnest_backbones import ResNeSt, build, convert_state_dict, load_checkpoint

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "reference" / "golden"
STAGES = ("res2", "res3", "res4", "res5")


def cases(pattern: str) -> list[str]:
    """Names of the goldens there are; one name that leads to a skip where the folder is not there."""
    return sorted(path.stem for path in GOLDEN.glob(pattern)) or [pattern]


def read_golden(shared: Path, name: str) -> dict:
    return json.loads((shared / "reference" / "golden" / f"{name}.json").read_text())


def check(net: ResNeSt, golden: dict, seeded_weights: ModuleType, names: Collection[str]) -> None:
    with torch.no_grad():
        outputs = net(seeded_weights.seeded_image(golden["image_shape"]))
    assert outputs.keys() == {*names}
    seeded_weights.check_golden(outputs, {name: golden["outputs"][name] for name in names}, rtol=1e-9)


def seeded(name: str, golden: dict, seeded_weights: ModuleType, **options: object) -> ResNeSt:
    with torch.device("meta"):
        net = build(name, **options).eval()
    state = convert_state_dict(seeded_weights.seeded_state_dict(golden["state_dict"]))
    net.load_state_dict(state, strict=True, assign=True)
    return net


@pytest.mark.parametrize("case", cases("official_*.json"))
def test_the_official_network(case, shared, seeded_weights):
    golden = read_golden(shared, case)
    name, stride = re.fullmatch(r"official_(\w+?)(?:_stride(\d+))?", case).groups()
    options = {"output_stride": int(stride or 32), "out_features": ("stem", *STAGES, "logits"), "num_classes": 1000}
    check(seeded(name, golden, seeded_weights, **options), golden, seeded_weights, golden["outputs"])


# Slow, since the tests of the whole segmentors and detectors beside this file compare the same features.
@pytest.mark.slow
@pytest.mark.parametrize("case", cases("encoding_*.json"))
def test_the_trunk_of_pytorch_encodings_segmentor(case, shared, seeded_weights, tmp_path):
    golden = read_golden(shared, case)
    file = tmp_path / f"{case}.pth"
    torch.save({"state_dict": seeded_weights.seeded_state_dict(golden["state_dict"])}, file)
    net = build(re.search(r"resnest\d+", case)[0], output_stride=8).double().eval()
    report = load_checkpoint(net, file)
    assert (report.layout, report.loaded) == ("encoding", len(net.state_dict()))
    check(net, golden, seeded_weights, STAGES)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases("d2_*.json"))
def test_the_trunk_of_the_detectron2_wrappers_detector(case, shared, seeded_weights):
    golden = read_golden(shared, case)
    deformable = {"deform_stages": ("res3", "res4", "res5"), "deform_modulated": True, "deform_groups": 2}
    net = seeded("resnest50", golden, seeded_weights, **(deformable if "dcnv2" in case else {}))
    check(net, golden, seeded_weights, STAGES)
