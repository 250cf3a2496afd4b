"""What is measured, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WHAT = ("inference", "training", "detector inference", "detector training")
LIMIT = "limit"


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        network: a ResNeSt.
        height: of the images, in pixels.
        width: of the images, in pixels.
        batch: images at once.
        dtype: a key of ``DTYPES``; other than float32, peers run as they are and under autocast.
        what: one of ``WHAT``.
        compiled: compiled contenders take part beside the others.
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
        forward: of a training step the forward pass alone, whose tensors kept for backward are counted; None where
            that cannot be seen.
    """

    run: Callable[[], Any]
    forward: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Result:
    """What came out of a case, by the names of the contenders.

    Attributes:
        case: what was measured.
        milliseconds: medians over the rounds, per batch.
        kept: mebibytes kept for backward, parameters included.
        peak: mebibytes that a run takes at most beyond what it began with; on GPUs.
        profile: where a run's milliseconds go, by kinds of operators; empty where that was not asked for.
        gflops_per_second: best rate of the convolution that the limit is computed of.
        gigabytes_per_second: best rate at which a large tensor is copied, reading and writing counted.
    """

    case: Case
    milliseconds: Mapping[str, float]
    gflops_per_second: float
    gigabytes_per_second: float
    kept: Mapping[str, float]
    peak: Mapping[str, float]
    profile: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
