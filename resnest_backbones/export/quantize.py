"""Post-training quantization of an exported ONNX file to int8 by ONNX Runtime: static, calibrated on images.

Convolutions and linear layers compute in 8 bits, with one scale for each output channel of their weights; everything
between them stays in float32. Source of the choices: ONNX Runtime's "Quantize ONNX models".
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from resnest_backbones.choices import CALIBRATIONS
from resnest_backbones.data import read_image
from resnest_backbones.errors import ExportError
from resnest_backbones.export.formats import METADATA_KEY, load
from resnest_backbones.export.models import BACKBONE
from resnest_backbones.export.preprocess import prepare_image

_OPERATORS = ("Conv", "Gemm", "MatMul")


def quantize(
    source: Path, target: Path, images: Sequence[Path], *, method: str = "minmax", keep: Sequence[str] = ()
) -> int:
    """Quantize an ONNX file of a detector or segmentor to int8.

    Args:
        source: a file that ``formats.save`` wrote.
        target: the file to write; it gets its name when it is complete.
        images: for calibration, which takes the range of each activation from them.
        method: how to choose the range of an activation, one of ``CALIBRATIONS``.
        keep: nodes with one of these in their names stay in float32.

    Returns:
        The number of operators in int8.

    Raises:
        ExportError: the source is not such a file, or a trunk alone; there are no images; or ``keep`` matches nothing.
        DatasetError: an image cannot be read.
        ImportError: a package of the extra ``export`` is missing.
    """
    import onnx

    if method not in CALIBRATIONS:
        raise ExportError(f"method must be one of {', '.join(CALIBRATIONS)}, got {method}")
    if source.suffix != ".onnx" or target.suffix != ".onnx":
        raise ExportError(f"int8 needs ONNX files, named *.onnx, got {source} and {target}")
    metadata = load(source).metadata
    if metadata["task"] == BACKBONE:
        raise ExportError(f"{source} is a bare trunk, without preprocessing: int8 is for detectors and segmentors")
    if not images:
        raise ExportError("calibration needs at least one image")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantize_") as folder:
        written = Path(folder, "written.onnx")
        quantize_file(source, written, _read(images, metadata), method=method, keep=keep)
        model = onnx.load(written)
        facts = {**metadata, "int8": {"method": method, "images": len(images), "kept": list(keep)}}
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(facts)})
        onnx.save(model, written)
        os.replace(written, target)
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return sum(node.op_type in _OPERATORS and node.input[1] in dequantized for node in model.graph.node)


def quantize_file(
    source: Path, target: Path, inputs: Iterator[dict[str, np.ndarray]], *, method: str, keep: Sequence[str] = ()
) -> None:
    """Quantize any ONNX file, a trunk's too, calibrated on inputs by name; other arguments as in ``quantize``."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(inputs, None)

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantize_") as folder:
        prepared = Path(folder, "prepared.onnx")
        # ONNX Runtime's symbolic shape inference fails on sizes that depend on the number of detections.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            # Weights of 7 bits: with 8, sums of two products overflow on processors without VNNI.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_named(onnx.load(prepared), keep),
            calibrate_method=next(kind for kind in CalibrationMethod if kind.name.lower() == method),
        )


def _named(model: Any, keep: Sequence[str]) -> list[str]:
    names = [node.name for node in model.graph.node if node.op_type in _OPERATORS]
    for part in keep:
        if not any(part in name for name in names):
            raise ExportError(f"no node to quantize has {part!r} in its name; one is called {names[-1]}")
    return [name for name in names if any(part in name for part in keep)]


def _read(images: Sequence[Path], metadata: Any) -> Iterator[dict[str, np.ndarray]]:
    for file in tqdm(images, desc="calibrating"):
        x, _ = prepare_image(read_image(file), metadata)
        yield {metadata["inputs"][0]: x.numpy()}
