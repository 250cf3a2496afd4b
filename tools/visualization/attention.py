"""The weights that split attention gives to its splits, for one image, stage by stage."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from resnest_backbones.models.resnest import ResNeSt
from resnest_backbones.models.split_attention import SplitAttentionConv2d


def find_trunk(module: nn.Module | None) -> ResNeSt | None:
    return None if module is None else next((part for part in module.modules() if isinstance(part, ResNeSt)), None)


@contextlib.contextmanager
def recording(trunk: ResNeSt) -> Iterator[dict[str, list[np.ndarray]]]:
    """Record what the attention of each block gives: stage -> weights (R, C) of its blocks, in order.

    Of a batch, the first image; of several forward passes, the last. The weights of the R splits of a channel sum to
    one; with radix 1 they are gates from 0 to 1.
    """
    weights: dict[str, list[np.ndarray]] = {}
    handles = []

    def keep(place: list[np.ndarray], number: int, part: SplitAttentionConv2d, *hooked: Tensor) -> None:
        place[number] = part.attention_of(hooked[-1].detach().float())[0, :, :, 0, 0].cpu().numpy()

    for stage, blocks in trunk.named_children():
        for part in blocks.modules():
            if isinstance(part, SplitAttentionConv2d):
                place = weights.setdefault(stage, [])
                handles.append(part.fc2.register_forward_hook(functools.partial(keep, place, len(place), part)))
                place.append(np.zeros((part.radix, part.channels)))
    try:
        yield weights
    finally:
        for handle in handles:
            handle.remove()


def draw_attention(weights: dict[str, list[np.ndarray]], file: Path, title: str) -> None:
    """Draw what ``recording`` gave: a row for each block and split, a column for each channel."""
    heights = [sum(len(one) for one in blocks) for blocks in weights.values()]
    figure = Figure(figsize=(11, 1.6 * len(heights) + 0.16 * sum(heights)), layout="constrained")
    figure.suptitle(title)
    every = figure.subplots(len(heights), 2, squeeze=False, width_ratios=(4, 1), height_ratios=[h + 8 for h in heights])
    for (axes, spread), (stage, blocks) in zip(every, weights.items(), strict=True):
        radix = len(blocks[0])
        rows = np.concatenate([one[:, np.argsort(one[0], kind="stable")] for one in blocks])
        drawn = axes.imshow(rows, aspect="auto", cmap="coolwarm", vmin=0, vmax=1, interpolation="nearest")
        middles = np.arange(len(blocks)) * radix + (radix - 1) / 2
        axes.set_yticks(middles, [str(number + 1) for number in range(len(blocks))])
        for number in range(1, len(blocks)):
            axes.axhline(number * radix - 0.5, color="white", linewidth=1)
        axes.set(xlabel="channels, sorted", ylabel="block", title=f"{stage}: weights of {radix} splits per block")
        figure.colorbar(drawn, ax=axes, pad=0.01)
        first = np.concatenate([one[0] for one in blocks])
        spread.hist(first, bins=40, range=(0, 1), color="tab:blue")
        spread.axvline(1 / radix if radix > 1 else 0.5, color="black", linestyle=":", linewidth=1)
        spread.set(xlabel="weight of the first split" if radix > 1 else "gate", ylabel="channels", xlim=(0, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
