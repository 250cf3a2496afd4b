"""An exported segmentor gives the scores of the segmentor, pixels in, and its file says how to use it."""

import pytest

pytest.importorskip("mmseg")

import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from resnest_backbones import model_zoo
from resnest_backbones.errors import ExportError
from resnest_backbones.export import save
from resnest_backbones.export.models import build_model
from resnest_backbones.export.segmentors import export_segmentor
from tests.acceleration.test_inference import trained
from tests.export.helpers import assert_parity, drawn, saved
from tests.mmseg.helpers import as_in_a_new_process, write_config

PAPER = "deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480"
ALL = [
    PAPER,
    "fcn_resnest50-d8_4xb4-paper_ade20k-480x480",
    "fcn_resnest50-d8_4xb4-160k_ade20k-512x512",
    "pspnet_resnest50-d8_4xb4-160k_ade20k-512x512",
    "deeplabv3plus_resnest50-d8_4xb4-160k_ade20k-512x512",
    "fpn_resnest50_4xb4-160k_ade20k-512x512",
    "upernet_resnest50_4xb4-160k_ade20k-512x512",
]
# Their pyramid pools to 2, 3 and 6 cells, which ONNX has for a fixed size only.
POOLS = ("pspnet", "upernet")


@pytest.fixture(autouse=True)
def mmengine_as_in_a_new_process():
    with as_in_a_new_process():
        yield


def segmentor(name: str, backbone: dict = {}, head: dict = {}) -> nn.Module:  # noqa: B006
    """The model of a packaged config on the smallest network, with changes of its parts."""
    cfg = model_zoo.get_config(name)
    init_default_scope("mmseg")
    cfg.model.backbone.update(name="resnest14", init_cfg=None, **backbone)
    cfg.model.decode_head.update(head)
    cfg.model.auxiliary_head = None
    torch.manual_seed(0)
    return trained(MODELS.build(cfg.model))


@pytest.mark.parametrize("padding", [None, {"size_divisor": 32}])
def test_the_exported_network_is_what_the_segmentor_computes_of_pixels(padding):
    model = segmentor(PAPER)
    model.test_cfg.mode = "whole"
    model.data_preprocessor.test_cfg = padding
    (image,) = drawn((1, 3, 65, 97))
    sample = SegDataSample(metainfo={"img_shape": (65, 97), "ori_shape": (65, 97), "pad_shape": (65, 97)})
    (found,) = model.test_step({"inputs": [image[0]], "data_samples": [sample]})
    assert isinstance(found.seg_logits, PixelData)
    with torch.no_grad():
        (scores,) = export_segmentor(model).module(image)
    assert torch.allclose(scores[0], found.seg_logits.data, rtol=1e-4, atol=1e-5 * float(scores.abs().max()))


def test_onnx_of_the_papers_segmentor_equals_it_at_other_sizes(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    # Of res2 alone: PyTorch traces each block for seconds.
    model = segmentor(PAPER, {"out_indices": (0,)}, {"in_channels": 256, "in_index": 0})
    exportable = export_segmentor(model, (64, 96))
    file = saved(exportable, "onnx", tmp_path)
    assert {entry.domain for entry in onnx.load(file).opset_import} <= {"", "ai.onnx"}
    metadata = assert_parity(exportable, file, drawn((1, 3, 64, 64), (3, 3, 65, 97))).metadata
    assert metadata["task"] == "segmentation" and metadata["channel_order"] == "BGR"
    assert metadata["window"] == {"size": [480, 480], "stride": [320, 320]}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "format_name", "divisor"), [(ALL[-1], "torchscript", 32), (PAPER, "aoti", None)])
def test_a_padding_segmentor_and_aotinductor_equal_it_at_other_sizes(name, format_name, divisor, tmp_path):
    model = segmentor(name)
    if divisor:
        model.data_preprocessor.test_cfg = {"size_divisor": divisor}
    exportable = export_segmentor(model, (64, 96))
    assert_parity(exportable, saved(exportable, format_name, tmp_path), drawn((1, 3, 64, 64), (3, 3, 65, 97)))


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["onnx", "torchscript", "pt2"])
@pytest.mark.parametrize("name", ALL)
def test_every_kind_of_segmentor_in_every_format(name, format_name, tmp_path):
    if format_name == "onnx":
        pytest.importorskip("onnxruntime")
    fixed = name.startswith(POOLS) and format_name == "onnx"
    exportable = export_segmentor(segmentor(name), (64, 96), fixed=fixed)
    images = drawn((2, 3, 64, 96), *([] if fixed else [(1, 3, 64, 64), (3, 3, 65, 97)]))
    assert_parity(exportable, saved(exportable, format_name, tmp_path), images)


def test_a_config_and_its_checkpoint_give_a_network_and_what_it_needs(tmp_path):
    file = write_config(tmp_path, num_classes=3)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    names = str(tmp_path / "names.txt")
    built = build_model(str(file), None, classes=names)
    torch.save({"state_dict": built.model.state_dict(), "meta": {}}, tmp_path / "model.pth")
    again = build_model(str(file), str(tmp_path / "model.pth"), classes=names).exportable((64, 64))
    (image,) = drawn((1, 3, 64, 64))
    with torch.no_grad():
        assert torch.equal(again.module(image)[0], built.exportable((64, 64)).module(image)[0])
    assert again.metadata["classes"] == ["red", "green", "blue"] and len(again.metadata["palette"]) == 3
    assert again.metadata["resize"] == {"scale": [128, 96], "keep_ratio": True, "backend": "cv2"}


def test_refusals_name_the_cause(tmp_path):
    with pytest.raises(ExportError, match="EncoderDecoder can be exported, got Linear"):
        export_segmentor(nn.Linear(1, 1))
    model = segmentor(PAPER)
    pyramid = segmentor("pspnet_resnest50-d8_4xb4-160k_ade20k-512x512")
    with pytest.raises(ExportError, match="to 6 bins, which ONNX supports only for a fixed size"):
        save(export_segmentor(pyramid, (64, 96)), "onnx", tmp_path / "model.onnx")
    model.data_preprocessor.test_cfg = {"size_divisor": 32}
    with pytest.raises(ExportError, match="data_preprocessor.test_cfg pads images in a way that cannot be exported"):
        export_segmentor(model)
    step = 'test_pipeline.insert(1, dict(type="CLAHE"))\ntest_dataloader["dataset"]["pipeline"] = test_pipeline\n'
    file = write_config(tmp_path, num_classes=21, more=step)
    with pytest.raises(ExportError, match="the test pipeline has a step that cannot be exported: .*CLAHE"):
        build_model(str(file), None)
    file = write_config(tmp_path, num_classes=5)
    with pytest.raises(ExportError, match="the model has 5 classes but 21 names"):
        build_model(str(file), None)
