"""An exported trunk computes what the trunk computes, at any size, and its files name what they hold."""

import pytest
import torch
from torch import nn

from resnest_backbones import build
from resnest_backbones.errors import ExportError
from resnest_backbones.export import FORMATS, check_parity, export_backbone, load, save
from resnest_backbones.models.resnest import Bottleneck, ResNeSt
from resnest_backbones.models.variants import ResNeStSpec, list_variants
from tests.acceleration.test_inference import trained
from tests.export.helpers import assert_parity, saved

SIZES = ((1, 3, 64, 64), (3, 3, 33, 127), (2, 3, 96, 65))
PIXELS = ((1, 3, 32, 32), (2, 3, 64, 32), (1, 3, 1, 500))  # whose features in res5 are a pixel high or wide
# Few blocks, since PyTorch traces each for seconds; the slow tests have all of the networks.
GATED = (
    ResNeStSpec("gated", (1, 1, 1, 1), radix=1, cardinality=2, bottleneck_width=40, avd_first=True),
    {"output_stride": 8, "out_features": ("stem", "res4")},
)
WITHOUT_POOLS = (
    ResNeStSpec("without_pools", (1, 1, 1, 1), stem_width=8, bottleneck_width=16),
    {"output_stride": 8, "avg_pool_at_stride_1": False},
)
DEFORMABLE = (
    ResNeStSpec("deformable", (1, 1, 1, 1), radix=4),
    {"out_features": ("stem", "res2"), "deform_stages": ("res2",), "deform_modulated": True, "deform_groups": 2},
)


def trained_trunk(spec: ResNeStSpec | str, options: dict[str, object]) -> nn.Module:
    """Norms as training leaves them, and sampling offsets of about a pixel."""
    torch.manual_seed(1)
    net = trained(ResNeSt(spec, **options))
    for block in net.modules():
        if isinstance(block, Bottleneck) and block.conv2_offset is not None:
            nn.init.normal_(block.conv2_offset.weight, std=0.05)
            nn.init.normal_(block.conv2_offset.bias)
    return net


def inputs(sizes=SIZES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(size, generator=generator) for size in sizes]


@pytest.mark.parametrize("network", [GATED, DEFORMABLE, WITHOUT_POOLS], ids=lambda network: network[0].name)
@pytest.mark.parametrize("format_name", ["torchscript", pytest.param("aoti", marks=pytest.mark.slow)])
def test_torchscript_and_aotinductor_equal_the_trunk_at_other_sizes(network, format_name, tmp_path):
    exportable = export_backbone(trained_trunk(*network), (64, 96))
    metadata = assert_parity(exportable, saved(exportable, format_name, tmp_path), inputs()).metadata
    assert metadata["task"] == "backbone" and metadata["network"] == network[0].name
    assert metadata["inputs"] == ["images"] and metadata["outputs"] == list(exportable.output_names)
    assert metadata["dynamic"] == ["batch", "height", "width"]


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["onnx", "torchscript", "pt2"])
@pytest.mark.parametrize("name", list_variants())
def test_every_network_in_every_format(name, format_name, tmp_path):
    if format_name == "onnx":
        pytest.importorskip("onnxruntime")
    exportable = export_backbone(trained_trunk(name, {"num_classes": 5}), (64, 96))
    # The float32 network itself is 3.6e-5 of its float64 in res4 of 269, which has the most blocks.
    tolerance = 1e-4 if name == "resnest269" else 1e-5
    assert_parity(exportable, saved(exportable, format_name, tmp_path), inputs(SIZES[:2]), tolerance)


def test_a_program_equals_the_trunk_at_other_sizes_down_to_features_of_a_pixel(tmp_path):
    spec, options = DEFORMABLE
    exportable = export_backbone(trained_trunk(spec, {**options, "out_features": ("stem", "res2", "res5")}), (64, 96))
    program = assert_parity(exportable, saved(exportable, "pt2", tmp_path), inputs((*SIZES, *PIXELS)))
    assert program.metadata["outputs"] == ["stem", "res2", "res5"]
    assert program.metadata["dynamic"] == ["batch", "height", "width"]


def test_a_file_of_another_network_is_seen_to_differ(tmp_path):
    exportable = export_backbone(trained_trunk("resnest14", {"out_features": ("res2",)}), (64, 64))
    loaded = load(saved(exportable, "torchscript", tmp_path))
    nn.init.normal_(exportable.module.trunk.res2[0].conv1.weight)
    (found,) = check_parity(exportable, loaded, inputs(SIZES[:1]))
    assert found.relative > 0.1
    more = export_backbone(trained_trunk("resnest14", {"out_features": ("res2", "res3")}), (64, 64))
    with pytest.raises(ExportError, match="there must be 2 outputs, got 1"):
        check_parity(more, loaded, inputs(SIZES[:1]))


def test_a_fixed_file_takes_its_size_only(tmp_path):
    exportable = export_backbone(trained_trunk("resnest14", {"out_features": ("stem",)}), (64, 96), fixed=True)
    program = assert_parity(exportable, saved(exportable, "pt2", tmp_path), inputs([(2, 3, 64, 96)]))
    assert program.metadata["dynamic"] == []
    with pytest.raises(ExportError, match="the file cannot be run at 1x3x64x64: "):
        check_parity(exportable, program, inputs(SIZES[:1]))


def test_exporting_leaves_the_model_alone():
    net = build("resnest14", out_features=("res2",)).double().train()
    exportable = export_backbone(net)
    assert net.training and next(net.parameters()).dtype == torch.float64
    assert not exportable.module.training and next(exportable.module.parameters()).dtype == torch.float32


def test_refusals_name_the_cause(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(ExportError, match="must contain one ResNeSt from resnest_backbones, Linear has 0"):
        export_backbone(nn.Linear(2, 2))
    exportable = export_backbone(trained_trunk(*DEFORMABLE), (64, 64))
    with pytest.raises(ExportError, match="opset must be 19 or more for deformable convolution, got 18"):
        save(exportable, "onnx", tmp_path / "trunk.onnx", opset=18)
    with pytest.raises(ExportError, match="opset must be one of 18, 19, 20, got 7"):
        save(exportable, "onnx", tmp_path / "trunk.onnx", opset=7)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_name", list(FORMATS))
def test_a_file_that_is_not_an_exported_model_is_refused_by_name(format_name, tmp_path):
    file = tmp_path / f"page{FORMATS[format_name].suffix}"
    with pytest.raises(ExportError, match=f"{file.name} does not exist"):
        load(file)
    file.write_text("<html>not found</html>")
    with pytest.raises(ExportError, match=f"{file.name} is not a file written by tools/export.py"):
        load(file)
    with pytest.raises(ExportError, match="must end in one of .onnx, .torchscript, .aoti.pt2, .pt2, got .*page.pth"):
        (tmp_path / "page.pth").touch()
        load(tmp_path / "page.pth")
