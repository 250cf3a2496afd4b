"""The tables of checkpoint keys name what peers really save."""

import re

import pytest
import torch

from documents import key_tables
from tests.documents.pages import table_rows


def rows(table: str) -> dict[str, str]:
    return {old.strip("`"): new.strip("`") for old, new in table_rows(table)}


def stands_for(pattern: str, key: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"(?:weight|bias|running_mean|running_var)"), key) is not None


def not_in(table: dict[str, str], keys: list[str], stages: tuple[str, ...]) -> list[str]:
    """Return the keys that no row stands for, except counters and those of some stages."""
    shown = [key for key in keys if not key.startswith(stages) and not key.endswith("num_batches_tracked")]
    assert len(shown) > 30
    return [key for key in shown if not any(stands_for(pattern, key) for pattern in table)]


def test_every_key_of_timms_network_is_in_the_table():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        keys = list(timm.create_model("resnest14d", num_classes=10).state_dict())
    assert not_in(rows(key_tables.original_keys_table()), keys, ("layer1.", "layer2.", "layer3.")) == []


def test_every_key_of_mmsegmentations_own_network_is_in_the_table():
    backbones = pytest.importorskip("mmseg.models.backbones")
    with torch.device("meta"):
        keys = list(backbones.ResNeSt(depth=50, stem_channels=64).state_dict())
    others = ("layer1.", "layer2.", "layer3.", "layer4.1.", "layer4.2.")
    assert not_in(rows(key_tables.mmseg_keys_table()), keys, others) == []


def test_the_table_of_the_wrapper_takes_a_prefix_away():
    table = rows(key_tables.wrapper_keys_table())
    assert len(table) == 17
    assert all(old == f"backbone.bottom_up.{new}" for old, new in table.items())


def test_new_names_are_the_same_in_every_table():
    original = rows(key_tables.original_keys_table())
    mmseg = rows(key_tables.mmseg_keys_table())
    assert set(mmseg.values()) - set(original.values()) == {"res5.0.conv2_offset.*"}
    assert original["layer4.0.downsample.1.weight"] == mmseg["layer4.0.downsample.1.weight"] == "res5.0.shortcut.weight"
