"""A user's typed program: ``make lint`` checks it with all that mypy can ask for. It is not run."""

from pathlib import Path

import torch
from torch import Tensor, nn

import resnest_backbones as rb


def use_trunk() -> dict[str, Tensor]:
    """Build, load, optimise, run."""
    net: rb.ResNeSt = rb.build("resnest50", output_stride=16, out_features=("res2", "res5"))
    report = rb.load_checkpoint(net, "resnest://resnest50")
    loaded: int = report.loaded
    print(loaded, net.training)
    fast: nn.Module = rb.optimize_for_inference(net, dtype=torch.bfloat16)
    print(fast)
    features: dict[str, Tensor] = net(torch.zeros(1, 3, 64, 64))
    return features


def use_records() -> str:
    """Specs, weights, configs."""
    spec: rb.ResNeStSpec = rb.get_variant("resnest50")
    depths: tuple[int, int, int, int] = spec.depths
    names: list[str] = rb.list_variants()
    file: Path = rb.weights.fetch(rb.weights.get_record(names[0]))
    state: dict[str, Tensor] = rb.convert_state_dict({"conv1.weight": torch.zeros(1)})
    return f"{depths} {file} {len(state)} {rb.model_zoo.get_config_file('faster_rcnn_resnest50_fpn_1x')}"
