"""Renaming checkpoints between the published layouts.

A layout is a way to name the same tensors. All are one-to-one, so a conversion is pure renaming; no tensor changes.

    core        stem.conv1_1.weight  res2.0.conv1.norm.weight  res2.0.shortcut.weight       fc.weight
    detectron2  the same names, behind "backbone.bottom_up." or "backbone." in a detector (the original's wrapper)
    official    conv1.0.weight       layer1.0.bn1.weight       layer1.0.downsample.1.weight fc.weight
    timm        the same as official
    mmseg       stem.0.weight        layer1.0.bn1.weight       layer1.0.downsample.1.weight head.fc.weight
                behind "backbone." in a segmentor; mmpretrain's too
    mmdet       the same, and neck.*, rpn_head.*, roi_head.* beside them: MMDetection's R-CNNs (read only)
    encoding    official, behind "pretrained." (PyTorch-Encoding's segmentors; read only)
    segmentor   the core's names behind "backbone.", and decode_head.*, auxiliary_head.*, neck.* beside them: what
                MMSegmentation saves of a segmentor with this package's backbone

Any of them may stand behind the names of what held the network in a training, such as "model.", "encoder." or
"module._orig_mod.", which are left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from resnest_backbones.choices import TARGETS
from resnest_backbones.errors import name_first

logger = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"

_NORM = rf"(?:weight|bias|running_mean|running_var|{COUNTER})"
_CONV_NORM = rf"(?:weight|norm\.{_NORM})"
_CORE_KEY = re.compile(
    rf"stem\.conv1_[123]\.{_CONV_NORM}"
    rf"|res[2-5]\.\d+\.(?:conv1|conv3|shortcut)\.{_CONV_NORM}"
    rf"|res[2-5]\.\d+\.conv2_offset\.(?:weight|bias)"
    rf"|res[2-5]\.\d+\.conv2\.(?:conv\.weight|bn[01]\.{_NORM}|fc[12]\.(?:weight|bias))"
    rf"|fc\.(?:weight|bias)"
)
_TRUNK_PART = re.compile(r"(?:stem|conv1|bn1|layer\d|res\d)\.")  # where a ResNeSt has no other key
_CORE_BLOCK = re.compile(r"res(\d)\.(\d+)\.(.+)")
_LAYER_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(.+)")
_IN_EVERY_BLOCK = "res2.0.conv2.fc1.weight"  # the attention, which no other network has
# What DataParallel, torch.compile, FSDP and activation checkpointing insert, at the front or before a part.
_INSERTED = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE = re.compile(r"(?:(?<=[._])|^)(?:ema|swa|averaged?|avg|shadow|teacher)(?=[._]|$)", re.I)
_AVERAGED = "n_averaged"  # the counter of torch.optim.swa_utils.AveragedModel


@dataclass(frozen=True)
class _Layout:
    """How one family of frameworks names the trunk."""

    name: str  # as users know it
    marker: str  # a key that every checkpoint of this layout has, behind one of ``prefixes``
    prefixes: tuple[str, ...]  # what may stand before the trunk's keys
    stem: tuple[tuple[str, str], ...] = ()  # (core, here) prefixes of keys outside the blocks
    block: tuple[tuple[str, str], ...] | None = None  # likewise within a block; None where blocks are named as in core
    head: str = ""  # a key beside the trunk's that every checkpoint of this layout has, too

    def fits(self, state_dict: Mapping[str, Any], outer: str, prefix: str) -> bool:
        """Tell whether a state dict with the marker has the head, and behind other names than the layout's a block."""
        block = f"{outer}{prefix}{self.from_core(_IN_EVERY_BLOCK)}"
        return (not self.head or outer + self.head in state_dict) and (not outer or block in state_dict)

    def from_core(self, key: str) -> str:
        if self.block is None or not (match := _CORE_BLOCK.fullmatch(key)):
            return _replace_prefix(key, self.stem)
        return f"layer{int(match[1]) - 1}.{match[2]}.{_replace_prefix(match[3], self.block)}"

    def to_core(self, key: str) -> str:
        if self.block is None or not (match := _LAYER_BLOCK.fullmatch(key)):
            return _replace_prefix(key, self.stem, back=True)
        return f"res{int(match[1]) + 1}.{match[2]}.{_replace_prefix(match[3], self.block, back=True)}"


def _replace_prefix(key: str, pairs: Iterable[tuple[str, str]], *, back: bool = False) -> str:
    for old, new in ((new, old) for old, new in pairs) if back else pairs:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


_BLOCK = (
    ("conv1.norm.", "bn1."),
    ("conv3.norm.", "bn3."),
    ("shortcut.norm.", "downsample.2."),
    ("shortcut.", "downsample.1."),
)
_STEM = [f"stem.conv1_{i}.{part}" for i in (1, 2, 3) for part in ("norm.", "")]
_OFFICIAL_STEM = tuple(zip(_STEM, ("conv1.1.", "conv1.0.", "conv1.4.", "conv1.3.", "bn1.", "conv1.6."), strict=True))
_MMSEG_STEM = tuple(zip(_STEM, ("stem.1.", "stem.0.", "stem.4.", "stem.3.", "stem.7.", "stem.6."), strict=True))
_MMSEG_BLOCK = (*_BLOCK, ("conv2_offset.", "conv2.conv.conv_offset."))

_DETECTRON2 = _Layout("detectron2", "stem.conv1_1.weight", ("", "backbone.bottom_up.", "backbone."))
_OFFICIAL = _Layout("official", "conv1.0.weight", ("",), _OFFICIAL_STEM, _BLOCK)
_MMSEG = _Layout("mmseg", "stem.0.weight", ("", "backbone."), _MMSEG_STEM, _MMSEG_BLOCK)
_MMDET = replace(_MMSEG, name="mmdet", prefixes=("backbone.",), head="rpn_head.rpn_conv.weight")
_ENCODING = _Layout("encoding", "conv1.0.weight", ("pretrained.",), _OFFICIAL_STEM, _BLOCK)
_LAYOUTS = (_DETECTRON2, _OFFICIAL, _MMDET, _MMSEG, _ENCODING)
_MARKERS = ", ".join(
    f"{prefix}{layout.marker} ({layout.name})" for layout in _LAYOUTS for prefix in layout.prefixes if not layout.head
)
_BY_TARGET = {"core": _DETECTRON2, "detectron2": _DETECTRON2, "official": _OFFICIAL, "timm": _OFFICIAL, "mmseg": _MMSEG}

# Names of the classification head at the top level of a checkpoint, per framework: core and official, the Detectron2
# wrapper, mmpretrain.
_CLASSIFIERS = ("fc.", "linear.", "head.fc.")

# MMSegmentation's names of a segmentor's other parts, and PyTorch-Encoding's names of the heads of ``mmseg/heads.py``.
_SEGMENTOR_PARTS = ("decode_head.", "auxiliary_head.", "neck.")
_ENCODING_HEADS = (
    *((f"head.aspp.b{i}.0.", f"decode_head.aspp_modules.{i}.conv.") for i in range(4)),
    *((f"head.aspp.b{i}.1.", f"decode_head.aspp_modules.{i}.bn.") for i in range(4)),
    ("head.aspp.b4.gap.1.", "decode_head.image_pool.1.conv."),
    ("head.aspp.b4.gap.2.", "decode_head.image_pool.1.bn."),
    ("head.aspp.project.0.", "decode_head.project.conv."),
    ("head.aspp.project.1.", "decode_head.project.bn."),
    ("head.block.0.", "decode_head.bottleneck.conv."),
    ("head.block.1.", "decode_head.bottleneck.bn."),
    ("head.block.4.", "decode_head.conv_seg."),
    ("head.conv5.0.", "decode_head.convs.0.conv."),
    ("head.conv5.1.", "decode_head.convs.0.bn."),
    ("head.conv5.4.", "decode_head.conv_seg."),
    ("auxlayer.conv5.0.", "auxiliary_head.convs.0.conv."),
    ("auxlayer.conv5.1.", "auxiliary_head.convs.0.bn."),
    ("auxlayer.conv5.4.", "auxiliary_head.conv_seg."),
)

# MMDetection's names of the parts of an R-CNN, and Detectron2's; @ stands for the stage of a cascade, # for the number
# of a layer. Renaming is all it takes: since MMDetection 2.0 both have background as the last class, the four deltas of
# a class in a row, one logit per anchor, the same order of anchors, and features flattened channel by channel.
_MMDET_PARTS = {
    "neck.lateral_convs.#": "backbone.fpn_lateral#",
    "neck.fpn_convs.#": "backbone.fpn_output#",
    "rpn_head.rpn_conv": "proposal_generator.rpn_head.conv",
    "rpn_head.rpn_cls": "proposal_generator.rpn_head.objectness_logits",
    "rpn_head.rpn_reg": "proposal_generator.rpn_head.anchor_deltas",
    "roi_head.bbox_head.shared_convs.#": "roi_heads.box_head.@conv#",
    "roi_head.bbox_head.shared_fcs.#": "roi_heads.box_head.@fc#",
    "roi_head.bbox_head.fc_cls": "roi_heads.box_predictor.@cls_score",
    "roi_head.bbox_head.fc_reg": "roi_heads.box_predictor.@bbox_pred",
    "roi_head.mask_head.convs.#": "roi_heads.mask_head.@mask_fcn#",
    "roi_head.mask_head.upsample": "roi_heads.mask_head.@deconv",
    "roi_head.mask_head.conv_logits": "roi_heads.mask_head.@predictor",
}
_MMDET_KEY = re.compile(
    r"(?P<part>neck|rpn_head|roi_head\.(?:bbox|mask)_head)\.(?P<stage>\d\.)?(?P<layer>\w+)(?:\.(?P<number>\d))?"
    r"\.(?:conv\.|(?P<norm>bn\.))?(?P<leaf>\w+)"
)


def detect_layout(state_dict: Mapping[str, Any]) -> str:
    """Return the layout of a state dict.

    It is ``detectron2`` (also the core's), ``official``, ``mmseg``, ``mmdet`` (a whole R-CNN) or ``encoding``.

    Raises:
        ValueError: the layout is unknown; the message says what was looked for and the first keys.
    """
    return _unwrap(state_dict).layout.name


def convert_state_dict(state_dict: Mapping[str, Tensor], target: str = "core") -> dict[str, Tensor]:
    """Rename a state dict from whatever published layout it is in to ``target``.

    Args:
        state_dict: of a classification network, a trunk, a detector or a segmentor.
        target: ``core``, ``official``, ``timm``, ``detectron2``, ``mmseg`` or ``segmentor``.

    Returns:
        A new dict with the same tensors. Heads of detectors and segmentors stay, with the names they have, where the
        layout stays (``detectron2`` to ``detectron2``, ``mmseg`` and ``mmdet`` to ``mmseg``); ``detectron2`` keeps the
        pyramid and the heads of MMDetection's R-CNNs under Detectron2's names; ``segmentor`` keeps the heads of
        MMSegmentation, and PyTorch-Encoding's under the names of ``mmseg/heads.py``. Elsewhere they have no place and
        are left out, which is logged. A segmentor has no classifier.

    Raises:
        ValueError: ``target`` is unknown, the layout is unknown, or it has keys that no ResNeSt has; the message names
            the first of them.
    """
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    found = _unwrap(state_dict)
    source = found.layout
    trunk, others = _split_trunk(found)
    if target == "segmentor":
        return _as_segmentor(trunk, others)
    if target == "detectron2" and source is _MMDET:
        return _as_detector(trunk, others)
    layout = _BY_TARGET[target]
    if target != "core" and layout is (_MMSEG if source is _MMDET else source):
        _log_left_out(found.beside, target)
        return found.state
    _log_left_out(others, target)
    head = [("fc.", "head.fc.")] if target == "mmseg" else []
    return {_replace_prefix(layout.from_core(key), head): value for key, value in trunk.items()}


def _as_segmentor(trunk: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name trunk, heads and neck as MMSegmentation does."""
    renamed = {key: _replace_prefix(key, _ENCODING_HEADS) for key in others}
    classifier = [key for key in trunk if key.startswith("fc.")]
    left_out = [key for key, new in renamed.items() if not new.startswith(_SEGMENTOR_PARTS)]
    _log_left_out([*left_out, *classifier], "segmentor")
    return {
        **{f"backbone.{key}": value for key, value in trunk.items() if key not in classifier},
        **{new: others[key] for key, new in renamed.items() if new.startswith(_SEGMENTOR_PARTS)},
    }


def _as_detector(trunk: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name trunk, pyramid and heads of an R-CNN of MMDetection as Detectron2 does."""
    names = _detectron2_names(others)
    _log_left_out([key for key in others if key not in names], "detectron2")
    return {
        **{f"backbone.bottom_up.{key}": value for key, value in trunk.items()},
        **{new: others[key] for key, new in names.items()},
    }


def _detectron2_names(keys: Collection[str]) -> dict[str, str]:
    """Map MMDetection's keys of what stands around a trunk to Detectron2's, where that has a place for them."""
    laterals = sum(bool(re.fullmatch(r"neck\.lateral_convs\.\d\.conv\.weight", key)) for key in keys)
    names = {}
    for key in keys:
        match = _MMDET_KEY.fullmatch(key)
        name = match and _MMDET_PARTS.get(f"{match['part']}.{match['layer']}{'.#' if match['number'] else ''}")
        if match and name:
            first = 6 - laterals if match["part"] == "neck" else 1  # whichever lateral is the last stands on stage 5
            name = name.replace("@", match["stage"] or "").replace("#", str(first + int(match["number"] or 0)))
            names[key] = f"{name}.{'norm.' if match['norm'] else ''}{match['leaf']}"
    return names


def _log_left_out(keys: Collection[str], target: str) -> None:
    if keys:
        logger.info(
            "Left out %d head keys that the layout %s does not have: %s", len(keys), target, summarize_keys(keys)
        )


def split_trunk(state_dict: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """Return the layout, the trunk and classifier under the core's names, and the rest, such as heads, unchanged.

    Raises:
        ValueError: as ``convert_state_dict``.
    """
    found = _unwrap(state_dict)
    return found.layout.name, *_split_trunk(found)


def unwrap(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without what stands before the keys of its network; errors as in ``detect_layout``."""
    found = _unwrap(state_dict)
    return {**found.beside, **found.state}


def split_networks(state_dict: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return what stands before the keys of each ResNeSt in a state dict -> the state dict without the others."""
    state_dict = _without_inserted(state_dict)
    networks = _find_networks(state_dict)
    owners = {key: _owner(key, networks) for key in state_dict}
    return {
        outer.rstrip("."): {key: value for key, value in state_dict.items() if owners[key] in (outer, None)}
        for outer in networks
    }


@dataclass(frozen=True)
class _Found:
    """A network in a state dict."""

    layout: _Layout
    prefix: str  # which of the layout's own prefixes its trunk has
    state: dict[str, Tensor]  # its tensors, without what stood before all of their names
    beside: dict[str, Tensor]  # the other tensors, unchanged, such as heads beside an encoder


def _unwrap(state_dict: Mapping[str, Any]) -> _Found:
    """Find the network in a state dict; of several, the one that is not an average of another."""
    state_dict = _without_inserted(state_dict)
    networks = _find_networks(state_dict)
    if not networks:
        raise ValueError(
            f"not the layout of a known ResNeSt: it has none of {_MARKERS}; first keys: {summarize_keys(state_dict)}"
        )
    outer = min(networks, key=is_average)
    layout, prefix = networks[outer]
    owners = {key: _owner(key, networks) for key in state_dict}
    state = {key.removeprefix(outer): value for key, value in state_dict.items() if owners[key] == outer}
    beside = {key: state_dict[key] for key, owner in owners.items() if owner is None and not key.endswith(_AVERAGED)}
    return _Found(layout, prefix, _with_shortcut_pools(state, layout, prefix), beside)


def is_core_key(key: str) -> bool:
    """Tell whether a tensor of this name is one of a ResNeSt under the core's names."""
    return bool(_CORE_KEY.fullmatch(key))


def is_average(name: str) -> bool:
    """Tell by its name whether a part of a checkpoint is the running average of another part's weights."""
    return bool(_AVERAGE.search(name))


def _without_inserted(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what wrappers of modules insert into keys, unless different keys would become the same."""
    wrong = [key for key in state_dict if not isinstance(key, str)]
    if wrong:
        raise ValueError(f"the keys of a state dict must be strings, got {wrong[0]!r}")
    plain = {_INSERTED.sub("", key): value for key, value in state_dict.items()}
    return plain if len(plain) == len(state_dict) else dict(state_dict)


def _find_networks(state_dict: Mapping[str, Any]) -> dict[str, tuple[_Layout, str]]:
    """Return what stands before the keys of each ResNeSt -> its layout, and which of that's own prefixes it has."""
    found: dict[str, tuple[_Layout, str]] = {}
    for key in state_dict:
        fitting = [
            (outer, layout, prefix)
            for layout in _LAYOUTS
            for prefix in layout.prefixes
            if f".{key}".endswith(f".{prefix}{layout.marker}")
            and layout.fits(state_dict, outer := key.removesuffix(prefix + layout.marker), prefix)
        ]
        if fitting:
            outer, layout, prefix = min(fitting, key=lambda one: len(one[0]))
            found.setdefault(outer, (layout, prefix))
    return found


def _owner(key: str, networks: Collection[str]) -> str | None:
    """Return what stands before the keys of the network that a key belongs to; None where it belongs to none."""
    return max((outer for outer in networks if key.startswith(outer)), key=len, default=None)


def _with_shortcut_pools(state_dict: Mapping[str, Tensor], layout: _Layout, prefix: str) -> dict[str, Tensor]:
    """Undo mmpretrain's indices of a shortcut that has stride 1: it has no average pool there, the others have."""
    if layout.block is None:
        return dict(state_dict)
    first = re.compile(rf"({re.escape(prefix)}layer\d\.0\.downsample\.)0\.weight")
    shifted = [match[1] for key in state_dict if (match := first.fullmatch(key))]
    pairs = [(f"{start}{i}.", f"{start}{i + 1}.") for start in shifted for i in (0, 1)]
    return {_replace_prefix(key, pairs): value for key, value in state_dict.items()}


def _split_trunk(found: _Found) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the trunk (and classifier) under the core's names, and all other keys unchanged."""
    layout, prefix = found.layout, found.prefix
    trunk, others, wrong = {}, dict(found.beside), []
    for key, value in found.state.items():
        classifier = next((name for name in _CLASSIFIERS if key.startswith(name)), None)
        if classifier is not None and key.removeprefix(classifier) in ("weight", "bias"):
            trunk["fc." + key.removeprefix(classifier)] = value
            continue
        core = layout.to_core(key.removeprefix(prefix))
        if key.startswith(prefix) and _CORE_KEY.fullmatch(core):
            trunk[core] = value
        elif key.startswith(prefix) and _TRUNK_PART.match(core):
            wrong.append(key)
        else:
            others[key] = value
    if wrong:
        raise ValueError(
            f"layout {layout.name}, but {len(wrong)} keys do not belong to a ResNeSt: {summarize_keys(wrong)}"
        )
    return trunk, others


def summarize_keys(keys: Iterable[str], most: int = 5) -> str:
    """Join the first few of many keys, for messages."""
    return name_first([*keys], most) or "none"
