"""A ResNeSt in the place of a ResNet in other people's configs: the network that was meant, or what to write."""

import pytest

pytest.importorskip("detectron2")


import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.projects.deeplab import add_deeplab_config
from torch import nn

from resnest_backbones import build, convert_state_dict
from resnest_backbones.detectron2 import (
    ResNeSt,
    ResNeStCheckpointer,
    add_resnest_config,
    build_resnest_backbone,
    use_resnest,
)
from resnest_backbones.errors import ConfigError
from resnest_backbones.models.blocks import Stage
from resnest_backbones.weights import DETECTOR_PIXELS
from tests.detectron2.helpers import BOX_HEAD, images, parameters_without_gradient, resnest_config, training_losses

C4 = {
    "MODEL.BACKBONE.NAME": "build_resnest_backbone",
    "MODEL.ROI_HEADS.NAME": "ResNeStRes5ROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 8,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 6,
    "MODEL.RPN.CONV_DIMS": [16],
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
}


def zoo_yaml(file: str, *projects) -> CfgNode:
    cfg = get_cfg()
    for add in projects:
        add(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(file))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def trunk_of(model: nn.Module) -> nn.Module:
    return getattr(model.backbone, "bottom_up", model.backbone)


def on_meta(cfg: CfgNode) -> nn.Module:
    with torch.device("meta"):
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)


# C4


def test_a_c4_detector_with_masks_trains_a_step_and_infers():
    model = build_model(resnest_config(C4))
    assert isinstance(model.roi_heads.res5, Stage) and not hasattr(model.backbone, "res5")
    losses = training_losses(model, images())
    assert {"loss_cls", "loss_mask", "loss_rpn_cls"} <= losses.keys()
    assert parameters_without_gradient(model) == []
    with torch.no_grad():
        (found,) = model.eval()([{"image": images(1)[0]["image"], "height": 64, "width": 64}])
    assert found["instances"].has("pred_masks")


def test_published_weights_fill_res5_in_the_head_as_well(tmp_path, fill_randomly):
    official = convert_state_dict(fill_randomly(build("resnest14", num_classes=2)).float().state_dict(), "official")
    torch.save(official, tmp_path / "file.pth")
    model = build_model(resnest_config(C4))
    ResNeStCheckpointer(model).load(str(tmp_path / "file.pth"))
    assert torch.equal(model.backbone.res4[0].conv1.weight, official["layer3.0.conv1.weight"])
    assert torch.equal(model.roi_heads.res5[0].conv2.fc2.bias, official["layer4.0.conv2.fc2.bias"])


def test_the_res5_of_a_resnet_is_refused_on_a_resnest():
    cfg = zoo_yaml("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", add_resnest_config)
    cfg.MODEL.BACKBONE.NAME = "build_resnest_backbone"
    with pytest.raises(ConfigError, match=r"MODEL\.ROI_HEADS\.NAME must be ResNeStRes5ROIHeads .*got Res5ROIHeads"):
        on_meta(cfg)


# The builder to take


@pytest.mark.parametrize(
    ("file", "builder", "message"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "build_resnest_fpn_backbone",
         "must be build_retinanet_resnest_fpn_backbone if RetinaNet uses p3, p4, p5, p6, p7, got"),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "build_resnest_backbone",
         "must be build_retinanet_resnest_fpn_backbone if the heads use p3"),
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "build_resnest_backbone",
         "must be build_resnest_fpn_backbone if the heads use p2, p3, p4, p5, p6 of an FPN"),
        ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", "build_resnest_fpn_backbone",
         "without FPN, as in C4 and DC5 detectors, MODEL.BACKBONE.NAME is build_resnest_backbone"),
        ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", "build_resnest_fpn_backbone",
         "without FPN, as in C4 and DC5 detectors, MODEL.BACKBONE.NAME is build_resnest_backbone"),
    ],
)  # fmt: skip
def test_a_builder_that_does_not_go_with_the_heads_is_answered_with_the_one_to_take(file, builder, message):
    cfg = zoo_yaml(file, add_resnest_config)
    cfg.MODEL.BACKBONE.NAME = builder
    with pytest.raises(ConfigError, match=message):
        on_meta(cfg)


# Keys that others left


def test_the_multi_grid_of_deeplabs_configs_is_the_trunks():
    for adds in ((add_resnest_config, add_deeplab_config), (add_deeplab_config, add_resnest_config)):
        cfg = zoo_yaml("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", *adds)
        use_resnest(cfg, "resnest50")
        trunk = on_meta(cfg).backbone
        assert [block.conv2.conv.dilation[0] for block in trunk.res5] == [2, 4, 8]


def test_the_wrappers_dilation_has_keys():
    keys = {"MODEL.RESNETS.RES5_DILATION": 2, "MODEL.RESNETS.RES5_MULTI_GRID": [1, 1, 1]}
    keys |= {
        "MODEL.RESNETS.AVG_POOL_AT_STRIDE_1": False,
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    }
    rpn = {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.RPN.IN_FEATURES": ["res5"]}
    trunk = on_meta(resnest_config(keys, rpn, {"MODEL.BACKBONE.NAME": "build_resnest_backbone"})).backbone
    assert [block.conv2.conv.dilation[0] for block in trunk.res5] == [2, 2, 2]
    assert isinstance(trunk.res5[0].pool_after, nn.Identity)


def test_a_detector_that_the_wrapper_may_have_trained_with_its_dilation_is_said(tmp_path, caplog):
    dc5 = {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.BACKBONE.NAME": "build_resnest_backbone"}
    dc5 |= {"MODEL.RESNETS.OUT_FEATURES": ["res5"], "MODEL.RPN.IN_FEATURES": ["res5"], "MODEL.RESNETS.RES5_DILATION": 2}
    model = build_model(resnest_config(dc5))
    torch.save({"model": model.state_dict(), "iteration": 1}, tmp_path / "theirs.pth")
    ResNeStCheckpointer(model, str(tmp_path)).save("ours")
    for name in ("ours", "theirs"):
        assert "RES5_MULTI_GRID" not in caplog.text
        ResNeStCheckpointer(model).load(str(tmp_path / f"{name}.pth"))
    assert "theirs.pth: if it was trained with the original Detectron2 wrapper" in caplog.text


def test_a_network_that_nobody_published_is_said_and_gets_no_published_weights(caplog):
    cfg = zoo_yaml("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml", add_resnest_config)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.WEIGHTS = "build_resnest_fpn_backbone", ""
    words = "MODEL.RESNETS.DEPTH 101 with NUM_GROUPS 32, WIDTH_PER_GROUP 8 is not a published ResNeSt"
    assert on_meta(cfg).backbone.bottom_up.spec.name == "custom"
    assert words in caplog.text
    cfg.MODEL.WEIGHTS = "resnest://resnest101"
    with pytest.raises(ConfigError, match=f"{words}, and resnest://resnest101 does not fit it; resnest101 has RADIX 2"):
        on_meta(cfg)


# use_resnest


YAML = {
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml": ("build_resnest_fpn_backbone", "StandardROIHeads"),
    "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml": ("build_resnest_fpn_backbone", "StandardROIHeads"),
    "COCO-Detection/retinanet_R_101_FPN_3x.yaml": ("build_retinanet_resnest_fpn_backbone", None),
    "COCO-Detection/rpn_R_50_C4_1x.yaml": ("build_resnest_backbone", None),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml": ("build_resnest_backbone", "ResNeStRes5ROIHeads"),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml": ("build_resnest_backbone", "StandardROIHeads"),
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml": ("build_resnest_fpn_backbone", "StandardROIHeads"),
}
OTHERS = ["resnest101", "resnest50_fast_4s2x40d"]


@pytest.mark.parametrize(
    ("file", "name"), [*((file, "resnest50") for file in YAML), *((next(iter(YAML)), name) for name in OTHERS)]
)
def test_two_lines_make_a_config_of_the_zoo_a_resnests(file, name):
    cfg = zoo_yaml(file)
    use_resnest(cfg, name)
    builder, heads = YAML[file]
    assert builder == cfg.MODEL.BACKBONE.NAME and heads in (None, cfg.MODEL.ROI_HEADS.NAME)
    assert f"resnest://{name}" == cfg.MODEL.WEIGHTS and cfg.INPUT.FORMAT == "RGB"
    assert tuple(cfg.MODEL.PIXEL_MEAN) == DETECTOR_PIXELS.mean and tuple(cfg.MODEL.PIXEL_STD) == DETECTOR_PIXELS.std
    model = on_meta(cfg)
    assert isinstance(trunk_of(model), ResNeSt) and trunk_of(model).spec.name == name
    assert isinstance(trunk_of(model).stem.conv1_1.norm, FrozenBatchNorm2d)  # which the config has
    if "C4" in file and heads:
        assert len(model.roi_heads.res5) == 3 and trunk_of(model).out_features == ("res4",)


def test_the_head_of_an_unknown_builder_must_be_said_and_a_network_without_weights_is(caplog):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_fcos_resnet_fpn_backbone"
    with pytest.raises(ConfigError, match="head must be one of fpn, retinanet, c4, dc5 .* got None with build_fc"):
        use_resnest(cfg, "resnest50")
    use_resnest(cfg, "resnest152", head="retinanet")
    assert cfg.MODEL.BACKBONE.NAME == "build_retinanet_resnest_fpn_backbone" and cfg.MODEL.WEIGHTS == ""
    assert "resnest152 has no published weights" in caplog.text


@pytest.mark.parametrize(
    "file",
    [
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py",
        "COCO-Detection/retinanet_R_50_FPN_1x.py",
        "COCO-Detection/fcos_R_50_FPN_1x.py",
        "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py",
    ],
)
def test_one_line_makes_a_lazyconfig_of_the_zoo_a_resnests(file):
    cfg = model_zoo.get_config(file)
    norm = (cfg.model.backbone.get("bottom_up") or cfg.model.backbone).stages.norm
    use_resnest(cfg, "resnest50")
    assert cfg.train.init_checkpoint == "resnest://resnest50"
    assert cfg.dataloader.train.mapper.image_format == cfg.dataloader.test.mapper.image_format == "RGB"
    assert cfg.model.get("input_format", "RGB") == "RGB"
    assert tuple(cfg.model.pixel_mean) == DETECTOR_PIXELS.mean and tuple(cfg.model.pixel_std) == DETECTOR_PIXELS.std
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert isinstance(trunk_of(model), ResNeSt)
    assert type(trunk_of(model).res3[0].conv1.norm) is {"FrozenBN": FrozenBatchNorm2d, "SyncBN": nn.SyncBatchNorm}[norm]
    if "C4" in file:
        assert isinstance(model.roi_heads.res5, Stage)


def test_a_lazy_backbone_that_is_no_resnet_is_refused():
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_regnetx_4gf_dds_fpn_1x.py")
    with pytest.raises(ConfigError, match="with out_features from stem, .*, got s1, s2, s3, s4"):
        use_resnest(cfg, "resnest50")


def test_heads_of_box_features_on_the_trunk_itself_are_no_c4():
    model = build_model(resnest_config(C4, BOX_HEAD, {"MODEL.MASK_ON": False}))
    assert not hasattr(model.roi_heads, "res5")


def test_a_project_whose_builder_names_the_resnet_in_its_code_is_given_ours(monkeypatch):
    monkeypatch.setattr("detectron2.modeling.backbone.fpn.build_resnet_backbone", build_resnest_backbone)
    cfg = zoo_yaml("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    name = cfg.MODEL.BACKBONE.NAME
    use_resnest(cfg, "resnest50", head="fpn")
    cfg.MODEL.BACKBONE.NAME = name
    model = on_meta(cfg)
    assert isinstance(trunk_of(model), ResNeSt) and model.backbone.top_block.in_feature == "res5"
