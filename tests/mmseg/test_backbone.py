"""The backbone of the OpenMMLab frameworks: what it returns, freezes, refuses and loads."""

import math
import re
import subprocess
import sys
from pathlib import Path

import mmengine.registry
import mmseg.registry
import pytest
import torch
from mmseg.models.backbones import ResNeSt as MMSegResNeSt
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnest_backbones import build, convert_state_dict, get_variant
from resnest_backbones.errors import CheckpointError, ConfigError
from resnest_backbones.mmseg import ResNeStBackbone
from tests.helpers import environment

STAGES = ("res2", "res3", "res4", "res5")


def tiny(**arguments) -> ResNeStBackbone:
    return ResNeStBackbone("resnest14", **arguments)


def on_meta(name: str, **arguments) -> ResNeStBackbone:
    with torch.device("meta"):
        return ResNeStBackbone(name, **arguments)


def test_every_openmmlab_registry_finds_it_by_its_plain_name():
    assert mmseg.registry.MODELS.get("ResNeStBackbone") is ResNeStBackbone
    other_framework = mmengine.registry.Registry("model", parent=mmengine.registry.MODELS, scope="some_framework")
    built = other_framework.build({"type": "ResNeStBackbone", "name": "resnest14", "out_indices": (3,)})
    assert isinstance(built, ResNeStBackbone)
    assert mmseg.registry.MODELS.get("ResNeSt") is MMSegResNeSt  # the framework's own keeps its name


@pytest.mark.parametrize(("out_indices", "output_stride"), [((0, 1, 2, 3), 8), ((3,), 16), ((0, 2), 8), ((3, 1), 32)])
def test_the_features_are_those_of_the_core(out_indices, output_stride):
    backbone = tiny(out_indices=out_indices, output_stride=output_stride).eval()
    core = build("resnest14", output_stride=output_stride).eval()
    core.load_state_dict(backbone.state_dict(), strict=3 in out_indices)
    images = torch.randn(2, 3, 45, 64)
    with torch.no_grad():
        features, want = backbone(images), core(images)
    assert isinstance(features, tuple)
    for i, feature in zip(out_indices, features, strict=True):
        torch.testing.assert_close(feature, want[STAGES[i]], rtol=0, atol=0)


def test_stages_beyond_the_last_one_asked_for_are_not_built_and_a_spec_serves_as_its_name():
    assert not hasattr(tiny(out_indices=(0, 1)), "res4")
    assert tiny().spec == ResNeStBackbone(get_variant("resnest14")).spec


def pair(depth: int, fill_randomly, **strides) -> tuple[nn.Module, ResNeStBackbone]:
    """MMSegmentation's network and ours with its weights, in float64."""
    with torch.device("meta"):
        theirs = MMSegResNeSt(
            depth=depth, radix=2, stem_channels={50: 64}.get(depth, 128), avg_down_stride=True, **strides
        )
    fill_randomly(theirs).eval()  # which does not return it
    output_stride = 4 * math.prod(theirs.strides)
    ours = ResNeStBackbone(f"resnest{depth}", output_stride=output_stride, avg_pool_at_stride_1=False).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


@pytest.mark.parametrize("depth", [50, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (101, 200))])
def test_at_output_stride_32_it_equals_mmsegmentations(depth, fill_randomly):
    theirs, ours = pair(depth, fill_randomly)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for got, want in zip(ours(images), theirs(images), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * want.abs().max().item())


@pytest.mark.parametrize(("strides", "dilations"), [((1, 2, 1, 1), (1, 1, 2, 4)), ((1, 2, 2, 1), (1, 1, 1, 2))])
def test_dilated_it_equals_mmsegmentations_without_the_average_pools_of_stride_1(strides, dilations, fill_randomly):
    theirs, ours = pair(50, fill_randomly, strides=strides, dilations=dilations, contract_dilation=True)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.device("meta"):
        original = ResNeStBackbone("resnest50", output_stride=ours.output_stride)
    original = original.to_empty(device="cpu").double().eval()
    original.load_state_dict(ours.state_dict())
    with torch.no_grad():
        for got, kept, want in zip(ours(images), original(images), theirs(images), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * want.abs().max().item())
            assert kept.shape == want.shape
    assert (kept - want).abs().max() > 0.01 * want.abs().max()  # the pools make a difference


@pytest.mark.parametrize("norm_eval", [False, True])
@pytest.mark.parametrize("frozen_stages", [-1, 0, 2, 4])
def test_what_is_frozen_survives_train(frozen_stages, norm_eval):
    backbone = on_meta("resnest14", frozen_stages=frozen_stages, norm_eval=norm_eval)
    frozen = ("stem", *STAGES)[: frozen_stages + 1]
    for mode in (False, True, True):
        assert backbone.train(mode) is backbone
        for name, module in backbone.named_modules():
            if isinstance(module, _BatchNorm):
                still = norm_eval or name.split(".")[0] in frozen
                assert module.training == (mode and not still), name
        for name, parameter in backbone.named_parameters():
            assert parameter.requires_grad == (name.split(".")[0] not in frozen), name


@pytest.mark.parametrize(
    ("norm_cfg", "kind"),
    [
        (None, nn.BatchNorm2d),
        ({"type": "SyncBN", "requires_grad": True}, nn.SyncBatchNorm),
        ({"type": "GN", "num_groups": 8}, nn.GroupNorm),
    ],
)
def test_norms_are_the_registrys(norm_cfg, kind):
    backbone = tiny(norm_cfg=norm_cfg)
    assert isinstance(backbone.res2[0].conv1.norm, kind)
    assert isinstance(backbone.res2[0].conv2.bn0, kind)


def test_other_settings_arrive():
    backbone = tiny(norm_cfg={"type": "BN", "requires_grad": False, "eps": 1e-3})
    assert backbone.stem.conv1_1.norm.eps == 1e-3
    assert all("norm" in name or ".bn" in name for name, p in backbone.named_parameters() if not p.requires_grad)
    assert not backbone.res5[0].conv2.bn1.weight.requires_grad

    backbone = tiny(dcn={"type": "DCNv2", "deform_groups": 2}, stage_with_dcn=(False, False, True, True))
    offsets = [name for name, _ in backbone.named_modules() if name.endswith("conv2_offset")]
    assert offsets == ["res4.0.conv2_offset", "res5.0.conv2_offset"]
    assert backbone.res4[0].conv2_offset.out_channels == 3 * 9 * 2
    plain = tiny(dcn={"type": "DCN", "deform_groups": 1, "fallback_on_stride": False}, stage_with_dcn=[True] * 4)
    assert plain.res2[0].conv2_offset.out_channels == 2 * 9

    assert on_meta("resnest14", with_cp=True).gradient_checkpointing and not on_meta("resnest14").gradient_checkpointing
    backbone = on_meta("resnest50", output_stride=8, multi_grid=(1, 2, 4))
    assert [block.conv2.conv.dilation for block in backbone.res5] == [(4, 4), (8, 8), (16, 16)]
    assert [x.shape[1] for x in tiny(in_channels=5).eval()(torch.randn(1, 5, 32, 32))] == [256, 512, 1024, 2048]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnest51"}, "resnest51"),
        ({"out_indices": (0, 4)}, r"out_indices must be .*0 to 3, got \(0, 4\)"),
        ({"frozen_stages": 5}, "frozen_stages must be -1, 0, 1, 2, 3 or 4, got 5"),
        ({"norm_cfg": "BN"}, "norm_cfg must be a dict with a type, got 'BN'"),
        ({"dcn": {"type": "DCNv3"}}, "dcn must be None or a dict with type DCN or DCNv2"),
        ({"dcn": {"type": "DCN", "groups": 2}}, "dcn may have type, deform_groups"),
        ({"dcn": {"type": "DCN", "deform_groups": 0}, "stage_with_dcn": [1] * 4}, "deform_groups must be a positive"),
        ({"stage_with_dcn": (True,) * 4}, "dcn must be a dict if stage_with_dcn is"),
        ({"compile": "inductr"}, "compile must name one of .*got 'inductr'"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        ResNeStBackbone(**{"name": "resnest14", **arguments})


def test_what_a_config_has_left_of_a_resnet_is_named_with_what_to_write_here():
    left = {"depth": 50, "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "style": "pytorch", "output_strid": 8}
    with pytest.raises(ConfigError) as caught:
        ResNeStBackbone(**left, pretrained="open-mmlab://resnet50_v1c")
    for words in (
        'depth=50 (write name="resnest50")',
        "strides=(1, 2, 1, 1) (write output_stride=8)",
        "dilations=(1, 1, 2, 4) (write output_stride=8)",
        "style='pytorch' (remove it: name sets it)",
        "output_strid=8 (did you mean output_stride?)",
        "pretrained='open-mmlab://resnet50_v1c' (set pretrained=None in the model, and use init_cfg=dict(",
    ):
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match=r"strides=\(1, 2, 2, 2\) \(not available: use output_stride=32, 16 or 8"):
        tiny(strides=(1, 2, 2, 2), dilations=(1, 1, 2, 4))  # FastFCN's, dilated without keeping the resolution
    with pytest.raises(ValueError, match=r"name must be one of list_variants\(\), got ''"):
        ResNeStBackbone()


def file_with(content: object, folder: Path) -> str:
    torch.save(content, folder / "weights.pth")
    return str(folder / "weights.pth")


def pretrained(file: str, **arguments) -> ResNeStBackbone:
    backbone = tiny(init_cfg={"type": "Pretrained", "checkpoint": file, **arguments.pop("init", {})}, **arguments)
    backbone.init_weights()
    return backbone


def assert_holds(backbone: ResNeStBackbone, state: dict) -> None:
    for name, value in backbone.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, state[name]), name


@pytest.fixture(scope="module")
def source() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build("resnest14", num_classes=10).state_dict()


@pytest.mark.parametrize("layout", ["official", "mmseg", "segmentor"])
def test_pretrained_files_of_every_layout(layout, source, tmp_path):
    state = convert_state_dict(source, layout)
    assert_holds(pretrained(file_with({"state_dict": state} if layout == "official" else state, tmp_path)), source)


def test_pretrained_from_whole_segmentors(source, tmp_path):
    trunk = convert_state_dict({k: v for k, v in source.items() if not k.startswith("fc.")}, "mmseg")
    state = {f"backbone.{k}": v for k, v in trunk.items()} | {"decode_head.conv_seg.weight": torch.zeros(1)}
    file = file_with({"state_dict": state}, tmp_path)
    assert_holds(pretrained(file), source)
    assert_holds(pretrained(file, init={"prefix": "backbone."}), source)
    encoding = {f"pretrained.{k}": v for k, v in convert_state_dict(source, "official").items()}
    encoding["head.block.4.bias"] = torch.zeros(3)
    assert_holds(pretrained(file_with({"state_dict": encoding}, tmp_path)), source)


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    with torch.device("meta"):
        state = convert_state_dict(build("resnest26", num_classes=10).state_dict(), "official")
    file = file_with({key: torch.zeros(()).expand(value.shape) for key, value in state.items()}, tmp_path)
    with pytest.raises(CheckpointError, match=rf"{re.escape(file)}: the checkpoint is of a different network: .*res\d"):
        pretrained(file)


def test_a_file_without_a_resnest_and_an_unknown_name_are_refused_by_name(tmp_path):
    file = file_with({"state_dict": {"layer1.weight": torch.zeros(1)}}, tmp_path)
    with pytest.raises(CheckpointError, match=rf"{re.escape(file)}: not the layout of a known ResNeSt"):
        pretrained(file)
    with pytest.raises(ValueError, match=r"no published weights are known for 'resnest://resnest152'"):
        pretrained("resnest://resnest152")


def test_loading_into_a_model_around_it(source):
    model = nn.Sequential()
    model.backbone = tiny()
    state = {f"backbone.{k}": v for k, v in convert_state_dict(source, "mmseg").items() if not k.startswith("head.")}
    before = dict(state)
    assert not any(model.load_state_dict(state, strict=True))
    assert_holds(model.backbone, source)
    assert state == before


@pytest.mark.slow
def test_it_needs_no_mmsegmentation():
    """MMDetection's and MMPretrain's users may not have it."""
    code = (
        "import sys; sys.modules['mmseg'] = None\n"
        "import resnest_backbones.mmseg as plugin\n"
        "from mmengine.registry import HOOKS, MODELS\n"
        "backbone = MODELS.build(dict(type='ResNeStBackbone', name='resnest14'))\n"
        "assert HOOKS.get('ResNeStCheckpointHook') is plugin.ResNeStCheckpointHook\n"
        "assert not hasattr(plugin, 'PaperASPPHead')\n"
        "assert not any(name.startswith('mmseg.') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
