"""The tables of speed and memory, made from the records of ``tools/benchmark.py`` in ``docs/benchmark``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from checkout import BENCHMARKS
from documents.markdown import head, row
from resnest_backbones.model_zoo import RECIPES
from resnest_backbones.models.variants import VARIANTS
from resnest_backbones.weights import WEIGHTS

_PEERS = ("original", "timm", "mmseg")
_CONTENDERS = (*_PEERS, "ResNet-50-D", "ResNet-50", "limit")


def _records() -> Iterator[dict[str, Any]]:
    for file in sorted(BENCHMARKS.glob("*/benchmark.json")):
        yield json.loads(file.read_text(encoding="utf-8"))


def _results(*, compared: bool) -> Iterator[dict[str, Any]]:
    """Of all records, those with a peer, or those of our networks alone."""
    for record in _records():
        for result in record["results"]:
            if any(name in result["milliseconds"] for name in _PEERS) == compared:
                yield result


def _case(case: Mapping[str, Any]) -> str:
    return f"{case['what']}, {case['network']}, {case['batch']} x {case['height']} x {case['width']}, {case['dtype']}"


def speed_table() -> str:
    """Milliseconds of the cases in ``docs/benchmark``, ours and the peers'; and what is kept for backward."""
    rows = head("ms; as shipped / channels_last", "ours", *_CONTENDERS, "kept for backward, ours / original (MiB)")
    for result in _results(compared=True):
        times, kept = result["milliseconds"], result["kept"]
        ours = next(iter(times))
        cells = []
        for name in (ours, *_CONTENDERS):
            both = [times[key] for key in (name, f"{name}, channels_last") if key in times]
            cells.append(" / ".join(f"{value:.0f}" for value in both))
        memory = f"{kept[ours]:.0f} / {kept['original']:.0f}" if "original" in kept else ""
        rows.append(row(_case(result["case"]), *cells, memory))
    return "\n".join(rows) + "\n"


def ratios_table() -> str:
    """How many times faster ours is than each kind of peer in the cases in ``docs/benchmark``, and how near the limit.

    Below 1 a peer is faster.
    """
    rows = head(
        "how many times as fast, ours to", "peers as shipped", "the fastest peer in its best format and type, eager",
        "the same of compiled ones", "ResNet-50(-D), eager", "time, to the limit's",
    )  # fmt: skip
    for result in _results(compared=True):
        rows.append(row(_case(result["case"]), *_ratios(result["milliseconds"])))
    return "\n".join(rows) + "\n"


def _ratios(times: Mapping[str, float]) -> list[str]:
    ours = min(time for name, time in times.items() if name.startswith("ours") and not name.endswith("compiled"))
    ours_compiled = [time for name, time in times.items() if name.startswith("ours") and name.endswith("compiled")]
    peers = {name: time for name, time in times.items() if name.startswith(_PEERS)}
    compiled = [time for name, time in peers.items() if name.endswith("compiled")]
    eager = [time for name, time in peers.items() if not name.endswith("compiled")]
    resnets = [time for name, time in times.items() if name.startswith("ResNet") and not name.endswith("compiled")]
    shipped = sorted(times[name] / ours for name in _PEERS if name in times)
    cells = [" to ".join(dict.fromkeys([f"{shipped[0]:.2f}", f"{shipped[-1]:.2f}"])), f"{min(eager) / ours:.2f}"]
    cells.append(f"{min(compiled) / min(ours_compiled + [ours]):.2f}" if compiled else "")
    cells.append(f"{min(resnets) / ours:.2f}" if resnets else "")
    cells.append(f"{ours / times['limit']:.2f}" if "limit" in times else "")
    return cells


def speed_circumstances_table() -> str:
    """How the figures in ``docs/benchmark`` were taken."""
    rows = [
        row("command", "machine", "threads", "rounds", "date", "versions"),
        row("---", "---", "---:", "---:", "---", "---"),
    ]
    for about in _records():
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        facts = (about["machine"], str(about["threads"]), str(about["rounds"]), about["date"], versions)
        rows.append(row(f"`{about['command']}`", *facts))
    return "\n".join(rows) + "\n"


def memory_table() -> str:
    """What one training step of the trunk keeps for backward, in each case of ``docs/benchmark`` with peers."""
    rows = head("case, network", "kept for backward, parameters included (MiB)")
    for result in _results(compared=True):
        case = result["case"]
        what = f"{case['network']}, {case['batch']} x {case['height']} x {case['width']}, {case['dtype']}"
        kept = {name: value for name, value in result["kept"].items() if not name.endswith("channels_last")}
        rows.extend(row(f"{what}: {name}", f"{value:.0f}") for name, value in kept.items())
    return "\n".join(rows) + "\n"


def choosing_table() -> str:
    """Which network, what cost, what accuracy: the networks' own records, those of benchmarks and published figures."""
    rows = head(
        "network", "parameters (M)", "multiply-adds (G, 224 x 224)", "inference, 512 x 512 (ms)",
        "kept for training, 2 x 512 x 512 (MiB)", "ImageNet top-1 (%)", "Faster R-CNN, COCO box AP (%)",
        "Cascade Mask R-CNN, COCO box / mask AP (%)", "DeepLabV3, ADE20K mIoU, several scales (%)",
    )  # fmt: skip
    times: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for result in _results(compared=False):
        (times if result["case"]["what"] == "inference" else kept)[result["case"]["network"]] = result
    for name, spec in VARIANTS.items():
        top1 = f"{WEIGHTS[name].top1:.2f}" if name in WEIGHTS else ""
        time = f"{next(iter(times[name]['milliseconds'].values())):.0f}" if name in times else ""
        memory = f"{next(iter(kept[name]['kept'].values())):.0f}" if name in kept else ""
        costs = (f"{(spec.params or 0) / 1e6:.1f}", f"{(spec.multiply_adds or 0) / 1e9:.1f}", time, memory)
        figures = (
            _figure(f"faster_rcnn_{name}_fpn_1x", "box_ap"),
            _figure(f"mask_cascade_rcnn_{name}_fpn_1x", "box_ap", "mask_ap"),
            _figure(f"deeplabv3_{name}-d8_4xb4-paper_ade20k-480x480", "miou_multi_scale"),
        )
        rows.append(row(f"`{name}`", *costs, top1, *figures))
    return "\n".join(rows) + "\n"


def _figure(recipe: str, *metrics: str) -> str:
    if recipe not in RECIPES:
        return ""
    values = [RECIPES[recipe].figures.get(metric) for metric in metrics]
    return " / ".join(f"{value:.2f}" for value in values if value is not None)
