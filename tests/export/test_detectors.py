"""An exported detector finds what the detector finds, in images of other sizes, and its file says how to use it."""

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.structures import Boxes, ImageList
from torch import nn

from resnest_backbones import model_zoo
from resnest_backbones.errors import ExportError
from resnest_backbones.export import save
from resnest_backbones.export.detector_program import _pad_image
from resnest_backbones.export.detectors import export_detector
from resnest_backbones.export.formats import all_nodes
from resnest_backbones.export.models import build_model
from resnest_backbones.export.parity import check_parity, match_detections
from tests.acceleration.test_inference import trained
from tests.detectron2.helpers import FPN_DETECTOR, MMDET_CASCADE, PANOPTIC_FPN, RETINANET, detector
from tests.export.helpers import assert_parity, drawn, saved
from tests.helpers import TINY_DETECTOR

MASKS = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 7,
}
CASCADE = {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True}
DEFORMABLE = {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, True, True], "MODEL.RESNETS.DEFORM_MODULATED": True}
SURE = {
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 40,
}
KINDS = {
    "faster": [FPN_DETECTOR],
    "mask": [FPN_DETECTOR, MASKS],
    "cascade": [FPN_DETECTOR, CASCADE],
    "cascade-mask-deformable": [MMDET_CASCADE, MASKS, DEFORMABLE],
    "retinanet": [RETINANET],
    "retinanet-deformable": [RETINANET, DEFORMABLE],
}
OUTPUTS = ("boxes", "classes", "scores", "image_size")


def random_detector(kind: str) -> nn.Module:
    """Random weights whose scores lie apart, since which of two equal scores comes first is decided by rounding."""
    model = trained(detector(*KINDS[kind], SURE))
    for name, module in model.named_modules():
        last = name.rpartition(".")[2] in ("cls_score", "bbox_pred", "objectness_logits", "anchor_deltas", "predictor")
        if last and isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.05)
        if name.endswith("conv2_offset"):
            nn.init.normal_(module.weight, std=0.05)
    return model


def images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    return drawn(*((3, *size) for size in sizes), seed=1)


def check(kind: str, format_name: str, folder) -> None:
    program = format_name in ("pt2", "aoti")
    exportable = export_detector(random_detector(kind), (160, 192) if program else (96, 128))
    sizes = ((160, 192), (301, 475), (129, 140)) if program else ((96, 128), (64, 64), (101, 75))
    loaded = assert_parity(exportable, saved(exportable, format_name, folder), images(*sizes), 1e-4)
    found = loaded.run(images(sizes[-1])[0])
    assert len(found[0]) > 5 and tuple(found[-1].tolist()) == sizes[-1]
    names = [*OUTPUTS[:2], "masks", *OUTPUTS[2:]] if "mask" in kind else list(OUTPUTS)
    assert loaded.metadata["outputs"] == names and loaded.metadata["dynamic"] == ["height", "width"]


@pytest.mark.parametrize("kind", ["cascade-mask-deformable", pytest.param("retinanet", marks=pytest.mark.slow)])
def test_onnx_of_a_detector_has_standard_operators_and_equals_pytorch(kind, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    try:
        check(kind, "onnx", tmp_path)
    except ExportError as error:
        if "cannot run" not in str(error):
            raise
        pytest.skip(f"that of Python 3.10 is too old: {error}")
    finally:
        model = onnx.load(tmp_path / "model.onnx")
        assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
        assert any(node.op_type == "NonMaxSuppression" for node in all_nodes(model.graph))


def test_torchscript_of_a_detector_equals_pytorch(tmp_path):
    check("cascade-mask-deformable", "torchscript", tmp_path)


@pytest.mark.slow
def test_a_program_of_torch_export_equals_the_detector(tmp_path):
    """At the size it was traced with, since an open size takes several times as long: the slow tests have it."""
    exportable = export_detector(random_detector("faster"), (96, 128), fixed=True)
    assert_parity(exportable, saved(exportable, "pt2", tmp_path), images((96, 128)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "format_name"),
    [
        *((kind, "aoti") for kind in ("faster", "retinanet")),
        *((kind, format_name) for kind in KINDS for format_name in ("onnx", "torchscript", "pt2")),
    ],
)
def test_every_kind_of_detector(kind, format_name, tmp_path):
    if format_name == "onnx":
        pytest.importorskip("onnxruntime")
    check(kind, format_name, tmp_path)


def test_a_yaml_config_and_its_checkpoint_give_a_network_and_what_it_needs(tmp_path):
    file = model_zoo.get_config_file("faster_rcnn_resnest50_fpn_1x")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    arguments = {"options": TINY_DETECTOR, "classes": str(tmp_path / "names.txt")}
    built = build_model(file, None, **arguments)
    torch.save({"model": built.model.state_dict()}, tmp_path / "model.pth")
    again = build_model(file, str(tmp_path / "model.pth"), **arguments).exportable((64, 96))
    (image,) = images((64, 96))
    for one, other in zip(again.module(image), built.exportable((64, 96)).module(image), strict=True):
        assert torch.equal(one, other)
    assert again.metadata["classes"] == ["cat", "dog"]
    (tmp_path / "own.yaml").write_text(f"_BASE_: {file}\nDATASETS: {{CLASSES: [bird, fish]}}\n")
    two = {"options": [*TINY_DETECTOR, "MODEL.ROI_HEADS.NUM_CLASSES=2"]}
    assert build_model(str(tmp_path / "own.yaml"), None, **two).exportable().metadata["classes"] == ["bird", "fish"]
    assert again.metadata["resize"] == {"shortest": 96, "longest": 1333}
    assert again.metadata["channel_order"] == "RGB"


def test_a_lazy_config_gives_a_network_and_what_it_needs():
    file = model_zoo.get_config_file("mask_cascade_rcnn_resnest50_fpn_1x_lazy")
    options = ["model.backbone.bottom_up.spec=resnest14", "model.roi_heads.mask_head.conv_dims=[16,16]"]
    built = build_model(file, None, options=options)
    exportable = built.exportable((64, 64))
    assert exportable.output_names == ("boxes", "classes", "masks", "scores", "image_size")
    assert exportable.metadata["resize"] == {"shortest": 800, "longest": 1333}
    assert len(exportable.metadata["classes"]) == 80 and exportable.metadata["classes"][0] == "person"


def test_what_is_not_exported_is_refused(tmp_path):
    keypoints = {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [16]}
    with pytest.raises(ExportError, match="GeneralizedRCNN and RetinaNet can be exported, got PanopticFPN"):
        export_detector(detector(PANOPTIC_FPN))
    with pytest.raises(ExportError, match="keypoints cannot be exported"):
        export_detector(detector(FPN_DETECTOR, keypoints))
    exportable = export_detector(detector(RETINANET), (160, 128))
    with pytest.raises(ExportError, match="stride 128, are one pixel high or wide for 160 x 128"):
        save(exportable, "pt2", tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["faster", "retinanet"])
def test_what_a_program_is_made_of_finds_the_same(kind):
    """Where nothing is found, too, and in features that are not numbers; and Detectron2 is left as it was."""
    model = random_detector(kind)
    exportable = export_detector(model, (160, 192))
    (image,) = images((160, 192))
    with torch.no_grad():
        for pixels in (image, torch.full_like(image, torch.nan)):
            for wanted, given in zip(exportable.module(pixels), exportable.program()(pixels), strict=True):
                assert torch.equal(wanted, given)
    assert len(exportable.module(image)[0]) > 5 and len(exportable.module(pixels)[0]) == 0
    assert Boxes([[1, 2, 3, 4]]).tensor.tolist() == [[1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize("constraints", [None, {"square_size": 224}, {"size_divisibility": 48, "square_size": 100}])
def test_a_program_pads_as_detectron2(constraints):
    (image,) = images((97, 130))
    options = {"pad_value": 1.0, "padding_constraints": constraints}
    found, wanted = (pad([image], 32, **options) for pad in (_pad_image, ImageList.from_tensors))
    assert torch.equal(found.tensor, wanted.tensor) and found.image_sizes == wanted.image_sizes


def test_detections_match_by_class_and_box_in_any_order():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10.5], [50, 50, 60, 60]])
    one = {"boxes": boxes, "classes": torch.tensor([0, 1, 1]), "scores": torch.tensor([0.9, 0.8, 0.7])}
    order = [2, 0, 1]
    other = {name: value[order] for name, value in one.items()}
    ours, theirs = match_detections(one, other)
    assert ours == [0, 1, 2] and [order[i] for i in theirs] == ours
    other["boxes"] = other["boxes"] + torch.tensor([[2.0], [0.0], [0.0]])
    assert match_detections(one, other)[0] == [0, 1]


def test_a_detection_that_is_lost_is_counted(tmp_path):
    exportable = export_detector(random_detector("faster"), (64, 96))
    (image,) = images((64, 96))
    values = exportable.module(image)
    assert len(values[0]) > 5

    class Lossy:
        """Finds all but the most certain."""

        def run(self, x):
            best = int(values[2].argmax())
            return [value if len(value) == 2 else torch.cat([value[:best], value[best + 1 :]]) for value in values]

    found = {difference.output: difference for difference in check_parity(exportable, Lossy(), [image])}
    assert found["boxes"].unmatched == 1 and "1 unmatched" in found["boxes"].note
