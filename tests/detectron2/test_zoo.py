"""A ResNeSt in the place of the ResNet of every config in Detectron2's zoo: built, trained for a step, predicting.

One config of each family is trained, and all of them where the environment variable ZOO is ``all``: ``make zoo``.
"""

import pytest

pytest.importorskip("detectron2")

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, Keypoints
from torch import nn

from resnest_backbones.detectron2 import ResNeSt, use_resnest
from resnest_backbones.errors import ConfigError
from resnest_backbones.models.norms import synchronise_on_cpu
from tests.detectron2.helpers import images, training_losses
from tests.detectron2.test_swap import on_meta, trunk_of, zoo_yaml
from tests.helpers import Tally

CONFIGS = Path(model_zoo.__file__).parent / "configs"


def configs() -> Iterator[tuple[str, Any]]:
    """The file of each config, and itself with the defaults of its kind."""
    for file in sorted(CONFIGS.rglob("*.*")):
        name = str(file.relative_to(CONFIGS))
        if "common" not in file.parts and file.suffix in (".yaml", ".py"):
            yield name, zoo_yaml(name) if file.suffix == ".yaml" else model_zoo.get_config(name)


def is_swapped(file: str, cfg: Any, network: str) -> bool:
    """Put a ResNeSt into a config; False where it has no ResNet."""
    if file.endswith(".yaml") and not cfg.MODEL.BACKBONE.NAME.startswith("build_re"):
        return False
    try:
        use_resnest(cfg, network)
    except ConfigError:
        assert "regnet" in file or "backbone" not in cfg.model, file
        return False
    return True


def is_meant(cfg: Any, model: nn.Module, network: str) -> bool:
    """Whether it has that network, and the dilations of the config."""
    trunk = trunk_of(model)
    dilations = [1, 2, 2] if hasattr(cfg, "MODEL") and cfg.MODEL.RESNETS.RES5_DILATION == 2 else [1, 1, 1]
    # An RPN alone looks at res4; C4 has res5 in its heads.
    res5 = getattr(getattr(model, "roi_heads", None), "res5", getattr(trunk, "res5", None)) or ()
    found = [block.conv2.conv.dilation[0] for block in res5]
    return isinstance(trunk, ResNeSt) and trunk.spec.name == network and found == dilations[: len(found)]


def batch() -> list[dict]:
    """Images with an object, its mask, a semantic map, joints, and proposals from elsewhere, for whatever asks."""
    found = images()
    for image in found:
        boxes = image["instances"].gt_boxes
        image["instances"].gt_classes = torch.tensor([0])
        joints = torch.cat([10 + 30 * torch.rand(1, 17, 2), torch.full((1, 17, 1), 2.0)], dim=2)
        image["instances"].gt_keypoints = Keypoints(joints)
        logits = torch.ones(1)
        image["proposals"] = Instances((64, 64), proposal_boxes=Boxes(boxes.tensor), objectness_logits=logits)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_config_with_a_resnet_gets_the_network_that_was_meant(capsys):
    tally = Tally("meant", "trained", "inferred")
    for file, cfg in configs():
        if not is_swapped(file, cfg, "resnest50"):
            tally.others.append(file)
            continue
        with torch.device("meta"):
            model = on_meta(cfg) if file.endswith(".yaml") else instantiate(cfg.model)
        heads = getattr(model, "roi_heads", None)
        family = f"{type(model).__name__}, {type(heads).__name__}" if heads is not None else type(model).__name__
        is_first = tally.add(family, "meant", file, is_meant(cfg, model, "resnest50"))
        if not is_first and os.environ.get("ZOO") != "all":
            continue
        cfg = zoo_yaml(file) if file.endswith(".yaml") else model_zoo.get_config(file)
        is_swapped(file, cfg, "resnest14")
        with tally.expecting(file):
            model = synchronise_on_cpu(build_model(cfg) if file.endswith(".yaml") else instantiate(cfg.model))
            training_losses(model, batch())
            torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4).step()
            tally.add(family, "trained", file, bool(trunk_of(model).res3[0].conv1.weight.grad.abs().sum() > 0))
            with torch.no_grad():
                found = model.eval()(batch())
            tally.add(family, "inferred", file, len(found) == 2)
    with capsys.disabled():
        print(f"\n{tally}\n" + "\n".join(tally.failed))
    assert tally.failed == [] and sum(row["configs"] for row in tally.rows.values()) > 90
