"""Contenders that run the file which `tools/export.py` writes: ONNX Runtime and OpenVINO, on a CPU, where installed."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Contender
from resnest_backbones import build
from resnest_backbones.export import export_backbone, save
from resnest_backbones.export.quantize import quantize_file

_CALIBRATION = (2, 224)  # random images, and their side: the ranges that they give change no time


def engine_contenders(network: str, images: Tensor) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Yield name and builder of each engine, in float32 and in int8."""
    for name, load in (("onnxruntime", _onnxruntime), ("openvino", _openvino)):
        if images.device.type == "cpu" and find_spec(name) and find_spec("onnxruntime"):
            for suffix, write in (("", _float32), (", int8", _int8)):
                yield name + suffix, partial(_contender, load, write, network, images)


def _contender(load: Callable[[Path], Any], write: Callable[[str], Path], network: str, images: Tensor) -> Contender:
    return Contender(partial(load(write(network)), images.numpy()))


def _onnxruntime(file: Path) -> Callable[[Any], Any]:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"images": x})


def _openvino(file: Path) -> Callable[[Any], Any]:
    openvino = importlib.import_module("openvino")
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(file, "CPU", options)
    return lambda x: list(model(x).values())


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()  # until the interpreter ends


@cache
def _float32(network: str) -> Path:
    file = Path(_folder().name, f"{network}.onnx")
    save(export_backbone(build(network)), "onnx", file)
    return file


@cache
def _int8(network: str) -> Path:
    number, side = _CALIBRATION
    inputs = ({"images": torch.randn(1, 3, side, side).numpy()} for _ in range(number))
    file = _float32(network).with_suffix(".int8.onnx")
    quantize_file(_float32(network), file, inputs, method="minmax")
    return file
