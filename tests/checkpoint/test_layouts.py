"""Renaming between the published layouts, both directions."""

import json
import logging
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from resnest_backbones import build, convert_state_dict, list_variants
from resnest_backbones.checkpoint.layouts import TARGETS, detect_layout

LOGGER = "resnest_backbones.checkpoint.layouts"
WITH_CLASSIFIER = [target for target in TARGETS if target != "segmentor"]


@cache
def core_state(name: str = "resnest50", **arguments) -> dict[str, Tensor]:
    """Names and shapes of a network with its head; no numbers."""
    with torch.device("meta"):
        return build(name, num_classes=10, **arguments).state_dict()


def same_tensors(got: dict, want: dict) -> bool:
    return got.keys() == want.keys() and all(got[key] is want[key] for key in want)


def without_classifier(state: dict) -> dict:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


DEFORMABLE = {"deform_stages": ("res3", "res5"), "deform_modulated": True}


DEEP = ("resnest101", "resnest152", "resnest200", "resnest269")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(pytest.param(name, {}, marks=pytest.mark.slow if name in DEEP else ()) for name in list_variants()),
        ("resnest50", DEFORMABLE),
    ],
)
def test_every_layout_of_every_variant_goes_round(name, options):
    core = core_state(name, **options)
    assert any("conv2_offset" in key for key in core) == bool(options)
    for target in WITH_CLASSIFIER:
        there = convert_state_dict(core, target)
        assert len(there) == len(core)
        for other in WITH_CLASSIFIER if name == "resnest50" else ["core"]:  # others differ in their number of blocks
            assert same_tensors(convert_state_dict(convert_state_dict(there, other)), core), (target, other)


KEYS = [
    ("stem.conv1_1.weight", "conv1.0.weight", "stem.0.weight"),
    ("stem.conv1_1.norm.running_var", "conv1.1.running_var", "stem.1.running_var"),
    ("stem.conv1_2.weight", "conv1.3.weight", "stem.3.weight"),
    ("stem.conv1_2.norm.bias", "conv1.4.bias", "stem.4.bias"),
    ("stem.conv1_3.weight", "conv1.6.weight", "stem.6.weight"),
    ("stem.conv1_3.norm.weight", "bn1.weight", "stem.7.weight"),
    ("res2.0.conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv1.weight"),
    ("res2.0.conv1.norm.running_mean", "layer1.0.bn1.running_mean", "layer1.0.bn1.running_mean"),
    ("res3.1.conv2.conv.weight", "layer2.1.conv2.conv.weight", "layer2.1.conv2.conv.weight"),
    ("res3.1.conv2.bn0.weight", "layer2.1.conv2.bn0.weight", "layer2.1.conv2.bn0.weight"),
    ("res3.1.conv2.bn1.weight", "layer2.1.conv2.bn1.weight", "layer2.1.conv2.bn1.weight"),
    ("res4.5.conv2.fc1.bias", "layer3.5.conv2.fc1.bias", "layer3.5.conv2.fc1.bias"),
    ("res5.2.conv3.norm.weight", "layer4.2.bn3.weight", "layer4.2.bn3.weight"),
    ("res5.0.shortcut.weight", "layer4.0.downsample.1.weight", "layer4.0.downsample.1.weight"),
    ("res5.0.shortcut.norm.bias", "layer4.0.downsample.2.bias", "layer4.0.downsample.2.bias"),
    ("res4.1.conv2_offset.bias", "layer3.1.conv2_offset.bias", "layer3.1.conv2.conv.conv_offset.bias"),
    ("fc.weight", "fc.weight", "head.fc.weight"),
]


def test_a_key_is_named_as_each_layout_names_it():
    state = core_state(deform_stages=("res4",))
    before = dict(state)
    for target in WITH_CLASSIFIER:
        converted = convert_state_dict({f"module.{key}": value for key, value in state.items()}, target)
        for core, official, mmseg in KEYS:
            name = {"official": official, "timm": official, "mmseg": mmseg}.get(target, core)
            assert converted[name] is state[core], (target, core)
    convert_state_dict(state, "core").clear()
    assert same_tensors(state, before), "the caller's dict is left alone"


@pytest.mark.parametrize(
    ("target", "layout"), [("core", "detectron2"), ("official", "official"), ("timm", "official"), ("mmseg", "mmseg")]
)
def test_a_layout_is_recognised_also_when_saved_in_parallel(target, layout):
    core = core_state()
    for prefix in ("", "module."):
        state = {prefix + key: value for key, value in convert_state_dict(core, target).items()}
        assert detect_layout(state) == layout
        assert same_tensors(convert_state_dict(state), core)
        assert same_tensors(convert_state_dict(state, target), convert_state_dict(core, target))


@pytest.mark.parametrize("peer", ["resnest14d", "resnest50d_4s2x40d", "resnest101e"])
def test_timms_own_state_dict_is_recognised(peer):
    timm = pytest.importorskip("timm")
    names = {"resnest14d": "resnest14", "resnest101e": "resnest101", "resnest50d_4s2x40d": "resnest50_fast_4s2x40d"}
    with torch.device("meta"):
        state = timm.create_model(peer, num_classes=10).state_dict()
    core = core_state(names[peer])
    assert {key: value.shape for key, value in convert_state_dict(state).items()} == {
        key: value.shape for key, value in core.items()
    }
    assert set(convert_state_dict(core, "timm")) == set(state)


def test_the_wrappers_bare_backbone_is_recognised_with_its_name_of_the_head():
    core = core_state()
    state = {key.replace("fc.", "linear.") if key.startswith("fc.") else key: value for key, value in core.items()}
    assert detect_layout(state) == "detectron2"
    assert same_tensors(convert_state_dict(state), core)


def golden_keys(shared: Path, pattern: str) -> list[tuple[str, dict[str, Tensor]]]:
    files = sorted((shared / "reference" / "golden").glob(pattern))
    shapes = [(file.stem, json.loads(file.read_text())["state_dict"]) for file in files]
    return [(case, {key: torch.empty(s, device="meta") for key, s in state.items()}) for case, state in shapes]


def test_whole_detectors_are_recognised_and_their_heads_logged(shared, caplog):
    cases = golden_keys(shared, "d2_*.json")
    assert {"d2_faster_rcnn_s50", "d2_faster_rcnn_s50_dcnv2"} <= {case for case, _ in cases}
    for case, state in cases:
        assert detect_layout(state) == "detectron2"
        deformable = ("res3", "res4", "res5") if "dcnv2" in case else ()
        caplog.clear()
        with caplog.at_level(logging.INFO, LOGGER):
            converted = convert_state_dict(state)
        assert converted.keys() == without_classifier(core_state(deform_stages=deformable)).keys(), case
        left_out = len(state) - len(converted)
        assert f"Left out {left_out} head keys that the layout core does not have: backbone.fpn_lateral2" in caplog.text
        assert same_tensors(convert_state_dict(state, "detectron2"), state), "heads stay where the layout stays"


def test_a_detector_without_a_pyramid_is_recognised():
    trunk = without_classifier(core_state())
    heads = {"proposal_generator.rpn_head.conv.weight": torch.empty(1), "backbone.fpn_output2.weight": torch.empty(1)}
    state = {**{f"backbone.{key}": value for key, value in trunk.items()}, **heads}
    assert same_tensors(convert_state_dict(state), trunk)


def test_pytorch_encodings_segmentors_are_recognised(shared):
    cases = golden_keys(shared, "encoding_*.json")
    assert cases
    for _, state in cases:
        assert detect_layout(state) == "encoding"
        converted = convert_state_dict(state)
        assert converted.keys() == without_classifier(core_state()).keys()
        assert all(converted[key].shape == value.shape for key, value in without_classifier(core_state()).items())
        assert convert_state_dict(state, "official").keys() == convert_state_dict(converted, "official").keys()


def test_an_mmseg_segmentor_is_recognised(caplog):
    trunk = without_classifier(core_state())
    state = {f"backbone.{key}": value for key, value in convert_state_dict(trunk, "mmseg").items()}
    state["decode_head.conv_seg.weight"] = state["auxiliary_head.conv_seg.weight"] = torch.empty(150)
    assert detect_layout(state) == "mmseg"
    with caplog.at_level(logging.INFO, LOGGER):
        assert same_tensors(convert_state_dict(state), trunk)
    assert "Left out 2 head keys that the layout core does not have: decode_head.conv_seg.weight" in caplog.text
    assert same_tensors(convert_state_dict(state, "mmseg"), state), "heads stay where the layout stays"


MMDET_KEYS = [
    ("neck.lateral_convs.0.conv.weight", "backbone.fpn_lateral2.weight"),
    ("neck.lateral_convs.3.bn.running_mean", "backbone.fpn_lateral5.norm.running_mean"),
    ("neck.fpn_convs.2.conv.bias", "backbone.fpn_output4.bias"),
    ("rpn_head.rpn_conv.weight", "proposal_generator.rpn_head.conv.weight"),
    ("rpn_head.rpn_cls.bias", "proposal_generator.rpn_head.objectness_logits.bias"),
    ("rpn_head.rpn_reg.weight", "proposal_generator.rpn_head.anchor_deltas.weight"),
    ("roi_head.bbox_head.shared_convs.3.conv.weight", "roi_heads.box_head.conv4.weight"),
    ("roi_head.bbox_head.2.shared_convs.0.bn.running_var", "roi_heads.box_head.2.conv1.norm.running_var"),
    ("roi_head.bbox_head.shared_fcs.1.bias", "roi_heads.box_head.fc2.bias"),
    ("roi_head.bbox_head.fc_cls.weight", "roi_heads.box_predictor.cls_score.weight"),
    ("roi_head.bbox_head.1.fc_reg.bias", "roi_heads.box_predictor.1.bbox_pred.bias"),
    ("roi_head.mask_head.convs.0.bn.weight", "roi_heads.mask_head.mask_fcn1.norm.weight"),
    ("roi_head.mask_head.0.convs.3.conv.weight", "roi_heads.mask_head.0.mask_fcn4.weight"),
    ("roi_head.mask_head.upsample.weight", "roi_heads.mask_head.deconv.weight"),
    ("roi_head.mask_head.2.conv_logits.weight", "roi_heads.mask_head.2.predictor.weight"),
]


def mmdet_state(names: list[str], laterals: int = 4) -> dict[str, Tensor]:
    trunk = convert_state_dict(without_classifier(core_state()), "mmseg")
    names = [*names, "rpn_head.rpn_conv.weight", *(f"neck.lateral_convs.{i}.conv.weight" for i in range(laterals))]
    return {**{f"backbone.{key}": value for key, value in trunk.items()}, **{name: torch.empty(1) for name in names}}


def test_the_heads_of_mmdetection_are_named_as_detectron2_names_them(caplog):
    state = mmdet_state([*dict(MMDET_KEYS), "roi_head.mask_iou_head.fc_mask_iou.weight", "rpn_head.rpn_conv.1.weight"])
    trunk = without_classifier(core_state())
    for saved in (state, {f"module.{key}": value for key, value in state.items()}):
        caplog.clear()
        with caplog.at_level(logging.INFO, LOGGER):
            converted = convert_state_dict(saved, "detectron2")
        assert detect_layout(saved) == "mmdet"
        assert all(converted[name] is state[key] for key, name in MMDET_KEYS)
        assert all(converted[f"backbone.bottom_up.{key}"] is trunk[key] for key in trunk)
        left = "roi_head.mask_iou_head.fc_mask_iou.weight, rpn_head.rpn_conv.1.weight"
        assert f"Left out 2 head keys that the layout detectron2 does not have: {left}" in caplog.text
        assert same_tensors(convert_state_dict(converted, "detectron2"), converted)
    assert same_tensors(convert_state_dict(state), trunk)
    assert same_tensors(convert_state_dict(state, "mmseg"), state), "the trunk's layout stays"


def test_a_pyramid_of_mmdetection_ends_with_the_trunk():
    names = convert_state_dict(mmdet_state(["neck.fpn_convs.0.conv.weight"], laterals=3), "detectron2").keys()
    pyramid = {name for name in names if name.startswith("backbone.fpn_")}
    assert pyramid == {f"backbone.fpn_{name}.weight" for name in ("lateral3", "lateral4", "lateral5", "output3")}


def test_every_key_of_mmdetections_published_detectors_has_a_place_in_detectron2(shared, caplog):
    cases = golden_keys(shared, "mmdet_*.json")
    assert {"mmdet_faster_rcnn_s50", "mmdet_mask_rcnn_s50", "mmdet_cascade_rcnn_s50"} <= {case for case, _ in cases}
    for _, state in cases:
        with caplog.at_level(logging.INFO, LOGGER):
            assert len(convert_state_dict(state, "detectron2")) == len(state)
    assert caplog.text == ""


def test_mmpretrains_first_shortcut_has_no_pool():
    core = core_state()
    in_mmseg = convert_state_dict(core, "mmseg")
    for prefix in ("backbone.", ""):

        def name(key: str, prefix: str = prefix) -> str:
            key = re.sub(r"^layer1\.0\.downsample\.(\d)", lambda m: f"layer1.0.downsample.{int(m[1]) - 1}", key)
            return key if key.startswith("head.") else prefix + key

        state = {name(key): value for key, value in in_mmseg.items()}
        assert f"{prefix}layer1.0.downsample.0.weight" in state
        assert f"{prefix}layer2.0.downsample.1.weight" in state
        assert same_tensors(convert_state_dict(state), core)
        for_mmseg = {key.removeprefix(prefix): value for key, value in convert_state_dict(state, "mmseg").items()}
        assert same_tensors(for_mmseg, in_mmseg), "mmseg has that pool, and counts it"


def state_of_resnet50() -> dict[str, Tensor]:
    from torchvision.models import resnet50

    with torch.device("meta"):
        return resnet50().state_dict()


def state_of_resnet50d() -> dict[str, Tensor]:
    """Its stem looks official."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        return timm.create_model("resnet50d").state_dict()


UNKNOWN = r"not the layout of a known ResNeSt.* conv1\.0\.weight \(official\).*; first keys: "


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (state_of_resnet50, UNKNOWN + r"conv1\.weight, bn1\.weight"),
        (lambda: {"cls_token": torch.empty(1), "blocks.0.attn.qkv.weight": torch.empty(1)}, UNKNOWN + "cls_token, blo"),
        (dict, UNKNOWN + "none"),
        (state_of_resnet50d, r"layout official, but \d+ keys do not belong to a ResNeSt: layer1\.0\.conv2\.weight"),
        (lambda: {"conv1.0.weight": 0, "layer1.0.se.weight": 0}, r"1 keys do not .*: layer1\.0\.se\.weight$"),
        (lambda: {"conv1.0.weight": 0, 3: 0}, "the keys of a state dict must be strings, got 3"),
    ],
)
def test_what_is_not_a_resnest_is_refused_with_its_first_keys(state, message):
    with pytest.raises(ValueError, match=message):
        convert_state_dict(state())
    with pytest.raises(ValueError, match=r"target must be one of core, official, timm, .*segmentor, got 'mmdet'"):
        convert_state_dict(state(), "mmdet")


@pytest.mark.parametrize("target", WITH_CLASSIFIER)
def test_a_trunk_becomes_a_segmentors_backbone(target, caplog):
    core = core_state(deform_stages=("res4",))
    with caplog.at_level(logging.INFO, LOGGER):
        segmentor = convert_state_dict(convert_state_dict(core, target), "segmentor")
    trunk = without_classifier(core)
    assert same_tensors(segmentor, {f"backbone.{key}": value for key, value in trunk.items()})
    assert "Left out 2 head keys that the layout segmentor does not have" in caplog.text
    assert same_tensors(convert_state_dict(segmentor), trunk)
    assert same_tensors(convert_state_dict(segmentor, "segmentor"), segmentor)


def test_a_segmentor_keeps_its_heads_and_neck_and_a_detectors_are_left_out():
    trunk = without_classifier(core_state())
    expected = {f"backbone.{key}": value for key, value in trunk.items()}
    heads = dict.fromkeys(("decode_head.conv_seg.weight", "auxiliary_head.convs.0.bn.bias", "neck.fpn.weight"), 1)
    state = {f"backbone.{key}": value for key, value in convert_state_dict(trunk, "mmseg").items()} | heads
    assert same_tensors(convert_state_dict(state, "segmentor"), expected | heads)
    detector = {f"backbone.bottom_up.{key}": value for key, value in trunk.items()} | {"roi_heads.x.weight": 1}
    assert same_tensors(convert_state_dict(detector, "segmentor"), expected)
