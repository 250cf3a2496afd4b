"""The tables of checkpoint keys on the page about moving are what conversion does."""

import re

import pytest
import torch
from torch import Tensor

from resnest_backbones import build
from resnest_backbones.checkpoint.layouts import convert_state_dict
from tests.documents.pages import table_rows
from tests.helpers import ROOT

WRAPPER, ORIGINAL, MMSEG = "Detectron2 wrapper", "original and timm", "MMSegmentation, MMDetection, MMPretrain"


def ours(**options) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build("resnest14", num_classes=10, **options).state_dict()


def wrappers() -> dict[str, Tensor]:
    return {f"backbone.bottom_up.{key}": value for key, value in ours().items() if not key.startswith("fc.")}


def timms() -> dict[str, Tensor]:
    with torch.device("meta"):
        return pytest.importorskip("timm").create_model("resnest14d", num_classes=10).state_dict()


def mmsegmentations() -> dict[str, Tensor]:
    with torch.device("meta"):
        return pytest.importorskip("mmseg.models.backbones").ResNeSt(depth=50, stem_channels=64).state_dict()


STATES = {
    "wrapper": (WRAPPER, wrappers),
    "original": (ORIGINAL, lambda: convert_state_dict(ours(), "official")),
    "timm": (ORIGINAL, timms),
    "MMPretrain": (MMSEG, lambda: convert_state_dict(ours(deform_stages=("res5",)), "mmseg")),
    "MMSegmentation": (MMSEG, mmsegmentations),
}


@pytest.mark.parametrize("name", STATES)
def test_the_rows_for_a_stem_a_block_and_a_classifier_name_the_keys_before_and_after(name):
    title, make = STATES[name]
    text = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
    (table,) = re.findall(rf"^\| {re.escape(title)} +\|(?:.*\n\|)+.*\n", text, re.MULTILINE)
    rows = [[cell.strip("`") for cell in row] for row in table_rows(table)]
    state, found, used = make(), [], set()
    names = {id(value): key for key, value in convert_state_dict(state).items()}
    for old, value in state.items():
        new = names[id(value)]
        # Stages and blocks are named alike.
        if new.endswith("num_batches_tracked") or not new.startswith(("stem.", "res5.0.", "fc.")):
            continue
        for row, (before, after) in enumerate(rows):
            match = re.fullmatch(re.escape(before).replace(r"\*", r"(weight|bias|running_mean|running_var)"), old)
            if match:
                found.append(after.replace("*", match[1]) if "*" in after else after)
                used.add(row)
                assert found[-1] == new
                break
        else:
            pytest.fail(f"no row stands for {old}")
    assert len(found) > 30 and (len(used) == len(rows) or name in ("timm", "MMSegmentation"))
