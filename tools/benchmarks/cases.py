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
    """What is measured.

    Attributes:
        network: a ResNeSt.
        height: of the images, in pixels.
        width: of the images, in pixels.
        batch: number of images.
        dtype: a key of ``DTYPES``; other than float32, peers run as they are and under autocast.
        what: "inference", "training", "detector inference" or "detector training".
        compiled: whether compiled contenders take part, too.
    """

    network: str
    height: int
    width: int
    batch: int
    dtype: str
    what: str = "inference"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.what}, {self.network}, {self.batch} x 3 x {self.height} x {self.width}, {self.dtype}"

    @property
    def trains(self) -> bool:
        """Whether a run is a training step, forward and backward."""
        return self.what.endswith("training")


@dataclass(frozen=True)
class Contender:
    """Something that is run once per round.

    Attributes:
        run: does what the case says, on inputs that it holds.
        forward: the forward pass of a training step, for counting the tensors kept for backward; None where they cannot
            be seen.
    """

    run: Callable[[], Any]
    forward: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Result:
    """The results of a case, by the names of the contenders.

    Attributes:
        case: what was measured.
        milliseconds: medians over the rounds, per batch.
        kept: mebibytes kept for backward, parameters included.
        peak: mebibytes that a run allocates at most beyond those it begins with; on GPUs.
        profile: milliseconds of a run by kinds of operators; empty where that was not asked for.
        gflops_per_second: best rate of the convolution that the limit is computed from.
        gigabytes_per_second: best rate at which a large tensor is copied, reading and writing counted.
    """

    case: Case
    milliseconds: Mapping[str, float]
    gflops_per_second: float
    gigabytes_per_second: float
    kept: Mapping[str, float]
    peak: Mapping[str, float]
    profile: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
