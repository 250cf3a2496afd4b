"""What the original implementations computed with seeded weights, recomputed here."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import pytest
import torch

from resnest_backbones import ResNeSt, build, convert_state_dict

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
