"""What options of the command lines choose from, known without importing PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

# Layouts that a checkpoint can be converted to; described in checkpoint/layouts.py.
TARGETS = ("core", "official", "timm", "detectron2", "mmseg", "segmentor")
# Format of an exported model -> suffix of its files; export/formats.py writes and reads them.
SUFFIXES: Mapping[str, str] = {
    "onnx": ".onnx",
    "torchscript": ".torchscript",
    "aoti": ".aoti.pt2",  # before .pt2, the end of this suffix
    "pt2": ".pt2",
}
# What runs an ONNX file; export/formats.py calls them.
RUNTIMES = ("onnxruntime", "openvino")
# Operator sets of ONNX that both of PyTorch's exporters support; deformable convolution exists from 19 on.
OPSETS = (18, 19, 20)
# How quantization finds the range of an activation.
CALIBRATIONS = ("minmax", "entropy", "percentile")
