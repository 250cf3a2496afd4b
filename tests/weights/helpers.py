"""A seeded model in a trained model's place, as the servers of MMDetection and MMSegmentation have it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from resnest_backbones import model_zoo
from resnest_backbones.checkpoint import convert_state_dict
from tests.helpers import FileServer, publishing

SEGMENTOR = "fcn_resnest101-d8_4xb4-160k_ade20k-512x512"


@dataclass(frozen=True)
class Trained:
    """What a server has of a recipe: its file, the state of the model, the names of the classes in the file."""

    server: FileServer
    state: dict[str, Tensor]
    classes: tuple[str, ...]


def mmcv_content(state: dict[str, Tensor], classes: tuple[str, ...]) -> dict[str, object]:
    """What MMCV's runner 1.x saves."""
    meta = {"env_info": "sys.platform: linux", "mmcv_version": "1.0.5", "time": "Fri Aug  7 14:54:16 2020", "seed": 0}
    meta |= {"config": "model = dict()", "CLASSES": classes, "PALETTE": [[i, 255 - i, 0] for i in range(len(classes))]}
    return {"meta": {**meta, "epoch": 127, "iter": 160000, "hook_msgs": {}}, "state_dict": OrderedDict(state)}


@contextmanager
def published_segmentor(folder: Path) -> Iterator[Trained]:
    """A server of a seeded FCN in MMSegmentation's own layout."""
    pytest.importorskip("mmseg")
    torch.manual_seed(0)
    state = model_zoo.get(SEGMENTOR, pretrained_backbone=False).state_dict()
    trunk = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    theirs = {f"backbone.{key}": value for key, value in convert_state_dict(trunk, "mmseg").items()}
    theirs |= {key: value for key, value in state.items() if not key.startswith("backbone.")}
    classes = tuple(f"thing {number}" for number in range(150))
    with (
        pytest.MonkeyPatch.context() as patch,
        publishing(SEGMENTOR, mmcv_content(theirs, classes), folder, patch) as server,
    ):
        yield Trained(server, state, classes)
