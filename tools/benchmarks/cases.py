"""What is measured, and the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LIMIT = "limit"


@dataclass(frozen=True)
class Case:
    """What is measured."""

    network: str  # a ResNeSt
    height: int  # of the images, in pixels
    width: int
    batch: int  # number of images
    dtype: str  # a key of DTYPES; other than float32, peers run as they are and under autocast
    what: str = "inference"  # or "training", "detector inference", "detector training"
    compiled: bool = False  # whether compiled contenders take part, too

    def __str__(self) -> str:
        return f"{self.what}, {self.network}, {self.batch} x 3 x {self.height} x {self.width}, {self.dtype}"

    @property
    def trains(self) -> bool:
        """Whether a run is a training step, forward and backward."""
        return self.what.endswith("training")


@dataclass(frozen=True)
class Contender:
    """Something that is run once per round."""

    run: Callable[[], Any]
    forward: Callable[[], Any] | None = None  # of a training step, where the tensors kept for backward can be seen


@dataclass(frozen=True)
class Result:
    """The results of a case, by the names of the contenders."""

    case: Case
    milliseconds: Mapping[str, float]  # medians over the rounds, per batch
    gflops_per_second: float  # best rate of the convolution that the limit is computed from
    matmul_gflops_per_second: float  # best rate of a large matrix product: what the machine can do at most
    gigabytes_per_second: float  # best rate of copying a large tensor, reading and writing counted
    kept: Mapping[str, float]  # mebibytes kept for backward, parameters included
    peak: Mapping[str, float]  # mebibytes that a run allocates at most beyond those it begins with; on GPUs
    profile: Mapping[str, str] = field(default_factory=dict)  # tables of PyTorch's profiler
