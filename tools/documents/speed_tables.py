"""The tables of speed and memory, made from the records of ``tools/benchmark.py`` in ``docs/benchmark``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from checkout import BENCHMARKS
from markdown_table import markdown_table
from resnest_backbones.model_zoo import RECIPES
from resnest_backbones.models.variants import VARIANTS
from resnest_backbones.weights import WEIGHTS

_PEERS = ("original", "timm", "mmseg")
_CONTENDERS = (*_PEERS, "ResNet-50-D", "ResNet-50", "limit")
_ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def _records() -> Iterator[dict[str, Any]]:
    for file in sorted(BENCHMARKS.glob("*/benchmark.json")):
        yield json.loads(file.read_text(encoding="utf-8"))


def _results(*, compared: bool) -> Iterator[dict[str, Any]]:
    """Yield the results with a peer, or those of our networks alone."""
    for record in _records():
        for result in record["results"]:
            if any(name in result["milliseconds"] for name in _PEERS) == compared:
                yield result


def _input(case: Mapping[str, Any]) -> str:
    return f"{case['batch']} x {case['height']} x {case['width']}, {case['dtype']}"


def _case(case: Mapping[str, Any]) -> str:
    return f"{case['what']}, {case['network']}, {_input(case)}"


def _times(result: Mapping[str, Any], *names: str, compiled: bool = False) -> dict[str, float]:
    """Return the milliseconds of the contenders whose names begin so, eager or compiled."""
    times = result["milliseconds"].items()
    return {key: time for key, time in times if key.startswith(names) and key.endswith("compiled") == compiled}


def performance_table() -> str:
    """Return inference and training of ResNeSt-50, against the fastest peer, ResNet-50-D and the fastest engine."""
    rows = []
    for folder, title in (("inference", "inference"), ("training", "training step")):
        record = json.loads((BENCHMARKS / folder / "benchmark.json").read_text(encoding="utf-8"))
        result = record["results"][0]
        ours = min(_times(result, "ours").values())
        # Compiled or not: our optimized network may be faster without the compiler.
        ours_compiled = min([ours, *_times(result, "ours", compiled=True).values()])
        for others, names in (("fastest other ResNeSt", _PEERS), ("ResNet-50-D", ("ResNet-50-D",))):
            other = min(_times(result, *names).values())
            compiled = min(_times(result, *names, compiled=True).values())
            what = f"{title}, {_input(result['case'])}"
            ratios = (f"{other / ours:.2f}", f"{compiled / ours_compiled:.2f}")
            rows.append((what, others, f"{ours:.0f}", f"{other:.0f}", *ratios))
    result = _engine_results()[-1]
    ours = min(_times(result, "ours").values())
    for kind, suffix in (("float32", ""), ("int8", ", int8")):
        times = {title: result["milliseconds"][name + suffix] for name, title in _ENGINES.items()}
        fastest = min(times, key=times.__getitem__)
        what = (f"inference, {_input(result['case'])}", f"faster engine in {kind}: {fastest}")
        rows.append((*what, f"{ours:.0f}", f"{times[fastest]:.0f}", f"{times[fastest] / ours:.2f}", ""))
    head = ("ResNeSt-50, res2 to res5", "compared with", "ours (ms)", "theirs (ms)", "speed-up", "speed-up, compiled")
    return markdown_table(head, rows, "llr")


def _engine_results() -> list[dict[str, Any]]:
    return [result for result in _results(compared=True) if _ENGINES.keys() <= result["milliseconds"].keys()]


def engines_table() -> str:
    """Return ours beside the engines that run the exported file, in float32 and in int8."""
    rows = []
    for result in _engine_results():
        times = result["milliseconds"]
        ours = min(_times(result, "ours").values())
        columns = [times[name + suffix] for suffix in ("", ", int8") for name in _ENGINES]
        rows.append((_case(result["case"]), *(f"{value:.0f}" for value in (ours, *columns))))
    head = [f"{title}, {kind}" for kind in ("float32", "int8") for title in _ENGINES.values()]
    return markdown_table(("ms", "ours, float32", *head), rows, "lr")


def speed_table() -> str:
    """Return the milliseconds of all compared cases, ours and the peers', and what is kept for backward."""
    rows = []
    for result in _results(compared=True):
        times, kept = result["milliseconds"], result["kept"]
        ours = next(iter(times))
        cells = []
        for name in (ours, *_CONTENDERS):
            both = [times[key] for key in (name, f"{name}, channels_last") if key in times]
            cells.append(" / ".join(f"{value:.0f}" for value in both))
        memory = f"{kept[ours]:.0f} / {kept['original']:.0f}" if "original" in kept else ""
        rows.append((_case(result["case"]), *cells, memory))
    head = ("ms; as shipped / channels_last", "ours", *_CONTENDERS, "kept for backward, ours / original (MiB)")
    return markdown_table(head, rows, "lr")


def ratios_table() -> str:
    """Return the speed-ups over each kind of peer in all compared cases, and the distance to the limit."""
    head = (
        "speed-up of ours over", "peers as shipped", "the fastest peer in its best format and type, eager",
        "the same, both compiled", "ResNet-50(-D), eager", "our time / the limit",
    )  # fmt: skip
    rows = [(_case(result["case"]), *_ratios(result)) for result in _results(compared=True)]
    return markdown_table(head, rows, "lr")


def _ratios(result: Mapping[str, Any]) -> list[str]:
    times = result["milliseconds"]
    ours = min(_times(result, "ours").values())
    ours_compiled = min([ours, *_times(result, "ours", compiled=True).values()])
    shipped = sorted(times[name] / ours for name in _PEERS if name in times)
    eager = min(_times(result, *_PEERS).values())
    compiled = _times(result, *_PEERS, compiled=True).values()
    resnets = _times(result, "ResNet").values()
    return [
        " to ".join(dict.fromkeys([f"{shipped[0]:.2f}", f"{shipped[-1]:.2f}"])),
        f"{eager / ours:.2f}",
        f"{min(compiled) / ours_compiled:.2f}" if compiled else "",
        f"{min(resnets) / ours:.2f}" if resnets else "",
        f"{ours / times['limit']:.2f}" if "limit" in times else "",
    ]


def circumstances_table() -> str:
    """Return how the values in ``docs/benchmark`` were measured."""
    rows = []
    for about in _records():
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        facts = (about["machine"], str(about["threads"]), str(about["rounds"]), about["date"], versions)
        rows.append((f"`{about['command']}`", *facts))
    return markdown_table(("command", "machine", "threads", "rounds", "date", "versions"), rows, "llrrl")


def memory_table() -> str:
    """Return what one training step of the trunk keeps for backward, in each case with peers."""
    rows = []
    for result in _results(compared=True):
        what = f"{result['case']['network']}, {_input(result['case'])}"
        for name, value in result["kept"].items():
            if not name.endswith("channels_last"):
                rows.append((f"{what}: {name}", f"{value:.0f}"))
    return markdown_table(("case, network", "kept for backward, parameters included (MiB)"), rows, "lr")


def choosing_table() -> str:
    """Return each network's cost and accuracy: its own record, those of benchmarks, and published metrics."""
    head = (
        "network", "parameters (M)", "multiply-adds (G, 224 x 224)", "inference, 512 x 512 (ms)",
        "kept for training, 2 x 512 x 512 (MiB)", "ImageNet top-1 (%)", "Faster R-CNN, COCO box AP (%)",
        "Cascade Mask R-CNN, COCO box / mask AP (%)", "DeepLabV3, ADE20K mIoU, several scales (%)",
    )  # fmt: skip
    times: dict[str, float] = {}
    kept: dict[str, float] = {}
    for result in _results(compared=False):
        network = result["case"]["network"]
        if result["case"]["what"] == "inference":
            times[network] = next(iter(result["milliseconds"].values()))
        else:
            kept[network] = next(iter(result["kept"].values()))
    rows = [
        (
            f"`{name}`",
            f"{(spec.params or 0) / 1e6:.1f}",
            f"{(spec.multiply_adds or 0) / 1e9:.1f}",
            f"{times[name]:.0f}" if name in times else "",
            f"{kept[name]:.0f}" if name in kept else "",
            f"{WEIGHTS[name].top1:.2f}" if name in WEIGHTS else "",
            _published(f"faster_rcnn_{name}_fpn_1x", "box_ap"),
            _published(f"mask_cascade_rcnn_{name}_fpn_1x", "box_ap", "mask_ap"),
            _published(f"deeplabv3_{name}-d8_4xb4-paper_ade20k-480x480", "miou_multi_scale"),
        )
        for name, spec in VARIANTS.items()
    ]
    return markdown_table(head, rows, "lr")


def _published(recipe: str, *metrics: str) -> str:
    published = RECIPES[recipe].metrics if recipe in RECIPES else {}
    return " / ".join(f"{published[metric]:.2f}" for metric in metrics if metric in published)
