import pytest

pytest.importorskip("detectron2")


import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm, ShapeSpec
from detectron2.layers.batch_norm import LayerNorm
from detectron2.modeling import FPN, build_backbone
from torch import nn
from torchvision.ops import DeformConv2d, DropBlock2d, StochasticDepth

from resnest_backbones import SplitAttentionConv2d, build, get_variant
from resnest_backbones.detectron2 import ResNeSt, build_resnest_backbone
from tests.detectron2 import helpers
from tests.detectron2.helpers import FPN_DETECTOR, PANOPTIC_FPN, PROPOSAL_NETWORK, RETINANET, SINGLE_STAGE_DETECTOR

STAGES = ["stem", "res2", "res3", "res4", "res5"]
NORMS = {
    "BN": nn.BatchNorm2d,
    "FrozenBN": FrozenBatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "naiveSyncBN_N": NaiveSyncBatchNorm,
    "GN": nn.GroupNorm,
    "LN": LayerNorm,
    "": nn.Identity,
}


def trunk(**keys) -> ResNeSt:
    """A trunk from MODEL.RESNETS keys; FREEZE_AT is the other one."""
    freeze_at = keys.pop("FREEZE_AT", 0)
    parts = {f"MODEL.RESNETS.{key}": value for key, value in keys.items()}
    cfg = helpers.resnest_config(
        {"MODEL.BACKBONE.NAME": "build_resnest_backbone", "MODEL.RESNETS.OUT_FEATURES": STAGES[1:]}, parts
    )
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    torch.manual_seed(0)
    return build_backbone(cfg)


def norms_of(module: nn.Module) -> list[nn.Module]:
    return [m for name, m in module.named_modules() if name.rpartition(".")[2] in ("norm", "bn0", "bn1")]


@pytest.mark.parametrize(
    ("norm", "freeze_at"), [*(("BN", number) for number in (-1, 0, 1, 5)), *((norm, 2) for norm in NORMS)]
)
def test_frozen_stages_stay_frozen_and_the_others_learn(norm, freeze_at):
    net = trunk(NORM=norm, FREEZE_AT=freeze_at).train()
    frozen, learning = STAGES[: max(freeze_at, 0)], STAGES[max(freeze_at, 0) :]
    features = net(torch.randn(2, 3, 64, 64))
    shapes = {"res2": (2, 256, 16, 16), "res3": (2, 512, 8, 8), "res4": (2, 1024, 4, 4), "res5": (2, 2048, 2, 2)}
    assert {name: tuple(f.shape) for name, f in features.items()} == shapes
    if learning:
        sum(f.square().mean() for f in features.values()).backward()
    is_batch_norm = norm in ("BN", "SyncBN", "naiveSyncBN_N", "FrozenBN")
    for stage in frozen:
        module = net.get_submodule(stage)
        assert not any(p.requires_grad for p in module.parameters()), stage
        assert {type(m) for m in norms_of(module)} == {FrozenBatchNorm2d if is_batch_norm else NORMS[norm]}, stage
    for stage in learning:
        module = net.get_submodule(stage)
        assert all(p.requires_grad and p.grad is not None for p in module.parameters()), stage
        assert {type(m) for m in norms_of(module)} == {NORMS[norm]}, stage


def test_freezing_keeps_what_the_network_computes():
    net = trunk().eval()
    for norm in norms_of(net):
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = net(image)["res5"]
        after = net.freeze(5)(image)["res5"]
    torch.testing.assert_close(after, before)


def test_group_norm_works_on_a_single_image_and_takes_the_widths_of_the_fast_networks():
    net = trunk(NORM="GN", NUM_GROUPS=2, BOTTLENECK_WIDTH=40)
    assert net.res2[0].conv1.norm.num_groups == 16  # 80 channels
    assert net.stem.conv1_1.norm.num_groups == 32
    # The pooled vector of the attention has one value per channel: 32 groups of it would leave nothing to normalise.
    net(torch.randn(1, 3, 64, 64))["res5"].mean().backward()
    for name, module in net.named_modules():
        if isinstance(module, SplitAttentionConv2d):
            assert module.fc1.weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("features", [["stem"], ["res4"], ["stem", "res3"], STAGES], ids="+".join)
def test_only_the_stages_that_are_needed_are_built(features):
    net = trunk(OUT_FEATURES=features)
    channels = dict(zip(STAGES, (64, 256, 512, 1024, 2048), strict=True))
    strides = dict(zip(STAGES, (4, 4, 8, 16, 32), strict=True))
    assert net.output_shape() == {name: ShapeSpec(channels=channels[name], stride=strides[name]) for name in features}
    outputs = net(torch.zeros(2, 3, 64, 64))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        name: (2, channels[name], 64 // strides[name], 64 // strides[name]) for name in features
    }
    last = max(STAGES.index(name) for name in features)
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == set(STAGES[: last + 1])


@pytest.mark.parametrize("spelling", ["BOTTLENECK_WIDTH", "WIDTH_PER_GROUP"])
@pytest.mark.parametrize("name", ["resnest26", "resnest50_fast_1s4x24d", "resnest50_fast_4s2x40d"])
def test_the_keys_of_a_published_network_build_it_whichever_way_its_width_is_spelled(name, spelling):
    spec = get_variant(name)
    depth = int(name.removeprefix("resnest").partition("_")[0])
    keys = {"DEPTH": depth, "RADIX": spec.radix, "NUM_GROUPS": spec.cardinality, "AVD_FIRST": spec.avd_first}
    keys |= {spelling: spec.bottleneck_width, "OUT_FEATURES": STAGES}
    with torch.device("meta"):
        cfg = helpers.resnest_config({f"MODEL.RESNETS.{key}": value for key, value in keys.items()})
        net, core = build_resnest_backbone(cfg, ShapeSpec(channels=3)), build(name)
    shapes, expected = ({name: v.shape for name, v in each.state_dict().items()} for each in (net, core))
    assert shapes == expected
    assert sum(p.numel() for p in net.parameters()) == spec.params - 2_049_000
    block = net.res3[0]
    kinds = type(block.pool_before), type(block.pool_after)
    assert kinds == ((nn.AvgPool2d, nn.Identity) if spec.avd_first else (nn.Identity, nn.AvgPool2d))


@pytest.mark.parametrize(("dilations", "strides"), [((1, 1), (16, 32)), ((1, 2), (16, 16)), ((2, 4), (8, 8))])
def test_dilation_keeps_the_resolution(dilations, strides):
    net = trunk(RES4_DILATION=dilations[0], RES5_DILATION=dilations[1])
    shapes = net.output_shape()
    assert (shapes["res4"].stride, shapes["res5"].stride) == strides
    features = net(torch.zeros(2, 3, 64, 64))
    assert tuple(64 // features[name].shape[-1] for name in ("res4", "res5")) == strides


@pytest.mark.parametrize("kept", [True, False])
def test_average_pools_of_stride_1_are_as_the_config_says(kept):
    net = trunk(RES4_DILATION=2, RES5_DILATION=4, AVG_POOL_AT_STRIDE_1=kept)
    pools = [m.stride for m in net.modules() if type(m) is nn.AvgPool2d]
    assert pools == ([2, 1, 1] if kept else [2])
    lazy = ResNeSt("resnest14", output_stride=8, avg_pool_at_stride_1=kept)
    assert pools == [m.stride for m in lazy.modules() if type(m) is nn.AvgPool2d]


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution_is_where_the_config_says(modulated):
    net = trunk(DEFORM_ON_PER_STAGE=[False, False, True, True], DEFORM_MODULATED=modulated, DEFORM_NUM_GROUPS=2)
    deformable = {name.split(".")[0] for name, m in net.named_modules() if isinstance(m, DeformConv2d)}
    assert deformable == {"res4", "res5"}
    assert net.res4[0].conv2_offset.out_channels == (3 if modulated else 2) * 9 * 2
    net(torch.randn(2, 3, 64, 64))["res5"].mean().backward()
    assert helpers.parameters_without_gradient(net) == []


def test_drop_path_grows_to_the_rate_of_the_config():
    net = trunk(DEPTH=26, DROP_PATH_RATE=0.3)
    rates = [m.p for m in net.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.3 * i / 7 for i in range(1, 8)])  # the first of eight blocks never drops
    assert not [m for m in trunk().modules() if isinstance(m, StochasticDepth)]


def test_drop_block_has_the_rate_of_the_config():
    assert [m.p for m in trunk(DROP_BLOCK_RATE=0.1, DEPTH=14).modules() if isinstance(m, DropBlock2d)] == [0.1] * 4


def test_gradient_checkpointing_recomputes_where_the_config_says():
    for checkpointing in (False, True):
        net, calls = trunk(GRADIENT_CHECKPOINTING=checkpointing, OUT_FEATURES=["res2"]).train(), []
        net.res2[0].conv1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        net(torch.randn(2, 3, 64, 64))["res2"].square().mean().backward()
        assert len(calls) == 1 + checkpointing


def test_the_number_of_input_channels_follows_the_pixel_mean():
    cfg = helpers.resnest_config({"MODEL.PIXEL_MEAN": [0.0] * 4, "MODEL.PIXEL_STD": [1.0] * 4})
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_resnest_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res2"]])
    assert build_backbone(cfg)(torch.zeros(2, 4, 32, 32))["res2"].shape == (2, 256, 8, 8)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"DEPTH": 34}, r"MODEL\.RESNETS\.DEPTH must be one of 14, 26, 50, 101, 152, 200, 269, got 34"),
        ({"WIDTH_PER_GROUP": 30, "BOTTLENECK_WIDTH": 40}, r"BOTTLENECK_WIDTH.*integer.*got 30 x 40"),
        ({"NORM": "BatchNorm"}, r"MODEL\.RESNETS\.NORM must be .*'SyncBN'.*got 'BatchNorm'"),
        ({"OUT_FEATURES": ["res2", "res6"]}, r"MODEL\.RESNETS\.OUT_FEATURES must be .*stem.*res5.*got 'res6'"),
        ({"FREEZE_AT": 7}, r"MODEL\.BACKBONE\.FREEZE_AT must be .*0 .*5 .*got 7"),
        ({"RES2_OUT_CHANNELS": 64}, r"MODEL\.RESNETS\.RES2_OUT_CHANNELS must be 256, got 64"),
        ({"RES4_DILATION": 2}, r"MODEL\.RESNETS\.RES4_DILATION and RES5_DILATION must be .*got 2 and 1"),
        ({"COMPILE": True, "COMPILE_BACKEND": "inductr"}, r"MODEL\.RESNETS\.COMPILE.* must name .*got 'inductr'"),
        ({"RADIX": 1, "AVD": False}, r"MODEL\.RESNETS\.AVD must be True.*got False"),
        ({"RADIX": 1, "AVG_DOWN": False}, r"MODEL\.RESNETS\.AVG_DOWN must be True.*got False"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_value_names_its_key(keys, message):
    with pytest.raises(ValueError, match=message):
        trunk(**keys)


def test_a_config_without_the_keys_says_what_to_call():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.DEVICE = "build_resnest_backbone", "cpu"
    with pytest.raises(ValueError, match=r"RADIX is missing: call .*add_resnest_config"):
        build_backbone(cfg)


@pytest.mark.parametrize(("last", "levels"), [(3, ["p2", "p3", "p4"]), (4, ["p2", "p3", "p4", "p5"])])
def test_a_pyramid_ends_with_the_last_stage_it_is_given(last, levels):
    keys = {"MODEL.BACKBONE.NAME": "build_resnest_fpn_backbone", "MODEL.FPN.OUT_CHANNELS": 8}
    keys |= {"MODEL.RESNETS.OUT_FEATURES": STAGES[: last + 1], "MODEL.FPN.IN_FEATURES": STAGES[1:last]}
    net = build_backbone(helpers.resnest_config(keys)).eval()
    # Unused stages are not built: DistributedDataParallel would miss their gradients.
    assert [name for name, _ in net.bottom_up.named_children()] == STAGES[:last]
    features = net(torch.zeros(1, 3, 64, 64))
    assert list(features) == levels == list(net.output_shape())
    assert [64 // f.shape[-1] for f in features.values()] == [s.stride for s in net.output_shape().values()]


def test_a_retinanet_without_res5_is_refused():
    keys = {"MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"], "MODEL.FPN.IN_FEATURES": ["res3", "res4"]}
    with pytest.raises(ValueError, match=r"MODEL\.RESNETS\.OUT_FEATURES must include res5, got \['res3', 'res4'\]"):
        build_backbone(helpers.resnest_config(RETINANET, keys))


DETECTORS = {
    "fpn": [FPN_DETECTOR],
    "fpn with a mask head and the stem as a feature": [
        {**PANOPTIC_FPN, "MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.RESNETS.OUT_FEATURES": STAGES}
    ],
    "fpn from res3": [
        FPN_DETECTOR,
        {
            "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
            "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
            "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6"],
            "MODEL.ANCHOR_GENERATOR.SIZES": [[64], [128], [256], [512]],
            "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
        },
    ],
    "panoptic": [PANOPTIC_FPN],
    "retinanet": [RETINANET],
    "rpn alone on the stem": [
        PROPOSAL_NETWORK,
        {"MODEL.RESNETS.OUT_FEATURES": ["stem"], "MODEL.RPN.IN_FEATURES": ["stem"]},
    ],
    "single stage": [SINGLE_STAGE_DETECTOR],
    "deformable, drop path, checkpointing": [
        FPN_DETECTOR,
        {
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True],
            "MODEL.RESNETS.DEFORM_MODULATED": True,
            "MODEL.RESNETS.DROP_PATH_RATE": 0.2,
            "MODEL.RESNETS.GRADIENT_CHECKPOINTING": True,
        },
    ],
}


@pytest.mark.parametrize(("name", "freeze_at"), [("fpn", 0), *((name, 2) for name in DETECTORS)])
def test_a_training_step_reaches_every_parameter_and_inference_works(name, freeze_at):
    model = helpers.detector(*DETECTORS[name], {"MODEL.BACKBONE.FREEZE_AT": freeze_at})
    batch = helpers.images()
    helpers.training_losses(model, batch)
    assert helpers.parameters_without_gradient(model) == []
    trunk_in_it = model.backbone.bottom_up if isinstance(model.backbone, FPN) else model.backbone
    assert isinstance(trunk_in_it, ResNeSt)
    assert all(not p.requires_grad for p in trunk_in_it.stem.parameters()) == (freeze_at > 0)
    model.eval()
    with torch.no_grad():
        results = model([{"image": batch[0]["image"], "height": 64, "width": 64}])
    boxes = results[0]["proposals"].proposal_boxes if "proposals" in results[0] else results[0]["instances"].pred_boxes
    assert torch.isfinite(boxes.tensor).all()
    if name == "panoptic":
        assert results[0]["sem_seg"].shape == (3, 64, 64)
        assert results[0]["panoptic_seg"][0].shape == (64, 64)
