"""The formats: writing an ``Exportable`` to a file, reading it again, and running it on the CPU."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.onnx import symbolic_helper
from torchvision.ops import DeformConv2d

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.choices import OPSETS, RUNTIMES, SUFFIXES
from resnest_backbones.errors import ExportError
from resnest_backbones.export.models import Exportable

_DEFORMABLE_OPSET = 19
METADATA_KEY = "resnest_backbones"  # in the files


@dataclass(frozen=True)
class Loaded:
    """An exported file, ready to run on the CPU."""

    run: Callable[[Tensor], Sequence[Tensor]]  # the input tensor -> the outputs
    metadata: Mapping[str, Any]  # of ``Exportable``, with ``inputs`` and ``outputs``, their names


class Format(NamedTuple):
    """How files of a format are named, written and read."""

    suffix: str
    write: Callable[[Exportable, str, Path, int], None]  # the network, its metadata as JSON, the file, ONNX's opset
    read: Callable[[Path], Loaded]


def save(exportable: Exportable, format_name: str, file: str | Path, *, opset: int = OPSETS[-1]) -> None:
    """Write a file, which gets its name only when it is complete.

    Args:
        exportable: the network.
        format_name: a key of ``FORMATS``.
        file: to write.
        opset: version of ONNX's operators, one of ``OPSETS``; other formats have none.

    Raises:
        ExportError: the network cannot be exported to the format; the message gives the cause.
        ImportError: a package of the extra ``export`` is missing.
    """
    file = Path(file)
    metadata = {
        **exportable.metadata,
        "inputs": [exportable.input_name],
        "outputs": list(exportable.output_names),
        "dynamic": sorted(exportable.dynamic.values()),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{os.getpid()}.{file.name}")  # keeps the suffix, which AOTInductor checks
    try:
        with torch.no_grad(), _quietly():
            FORMATS[format_name].write(exportable, json.dumps(metadata), temporary, opset)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def load(file: str | Path, *, runtime: str = "onnxruntime") -> Loaded:
    """Read a file that ``save`` wrote; its suffix names the format.

    Args:
        file: as above.
        runtime: what runs an ONNX file, one of ``RUNTIMES``.

    Raises:
        ExportError: it does not exist, ``save`` did not write it, or the runtime cannot run it.
        ImportError: the runtime, or a package of the extra ``export``, is missing.
    """
    file = Path(file)
    if not file.is_file():
        raise ExportError(f"{file} does not exist")
    kind = next((kind for kind in FORMATS.values() if file.name.endswith(kind.suffix)), None)
    if kind is None:
        suffixes = ", ".join(kind.suffix for kind in FORMATS.values())
        raise ExportError(f"the name of an exported file must end in one of {suffixes}, got {file}")
    if runtime not in RUNTIMES:
        raise ExportError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime}")
    if runtime != "onnxruntime" and kind is not FORMATS["onnx"]:
        raise ExportError(f"{runtime} runs ONNX files, got {file}")
    read = _read_onnx_with_openvino if runtime == "openvino" else kind.read
    try:
        with _quietly():
            return read(file)
    except ImportError as error:
        raise ImportError(f"{file} needs {error.name}: pip install {error.name}", name=error.name) from error
    except ExportError:
        raise
    except Exception as error:  # each reader has its own errors for damaged files
        raise ExportError(f"{file} is not a file written by tools/export.py: {first_line(error)}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the warnings that tracing gives for each shape, and for its own deprecation."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# ONNX


def _write_onnx(exportable: Exportable, metadata: str, file: Path, opset: int) -> None:
    import onnx

    if opset not in OPSETS:
        raise ExportError(f"opset must be one of {', '.join(map(str, OPSETS))}, got {opset}")
    deformable = any(isinstance(module, DeformConv2d) for module in exportable.module.modules())
    if deformable and opset < _DEFORMABLE_OPSET:
        raise ExportError(f"opset must be {_DEFORMABLE_OPSET} or more for deformable convolution, got {opset}")
    cells = [m.output_size for m in exportable.module.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    if exportable.dynamic and any(size not in (1, (1, 1)) for size in cells):
        raise ExportError(
            f"the network pools images of any size to {max(map(str, cells))} bins, which ONNX supports only for a "
            "fixed size: add --fixed, and set the size with --size"
        )
    try:
        model = _trace_to_onnx(exportable, opset) if exportable.rows else _export_to_onnx(exportable, opset)
    except torch.onnx.errors.OnnxExporterError as error:
        cause: BaseException = error  # the innermost one: the exporter wraps it in pages of its own
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ExportError(f"PyTorch's ONNX exporter failed: {first_line(cause)}") from error
    domains = {node.domain for node in all_nodes(model.graph)} - {"", "ai.onnx"}
    if domains:
        raise ExportError(f"the ONNX file would need operators from {', '.join(sorted(domains))}")
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata})
    onnx.checker.check_model(model)
    write_atomically(file, lambda stream: stream.write(model.SerializeToString()))


def _export_to_onnx(exportable: Exportable, opset: int) -> Any:
    """Export through PyTorch's current exporter, which starts from ``torch.export``."""
    program = torch.onnx.export(
        exportable.module,
        (exportable.example,),
        dynamo=True,
        dynamic_shapes=_dynamic_shapes(exportable),
        input_names=[exportable.input_name],
        output_names=list(exportable.output_names),
        opset_version=opset,
        verbose=False,
    )
    if program is None:
        raise ExportError("PyTorch's ONNX exporter returned nothing")
    model = program.model_proto
    _name_dimensions(model, exportable)
    return model


def _trace_to_onnx(exportable: Exportable, opset: int) -> Any:
    """Export through PyTorch's tracing exporter: the other one fails if shapes depend on the number of detections."""
    import onnx

    stream = io.BytesIO()
    register = torch.onnx.register_custom_op_symbolic  # type: ignore[attr-defined]
    register("torchvision::deform_conv2d", _deformable_convolution, _DEFORMABLE_OPSET)
    dynamic = {exportable.input_name: dict(exportable.dynamic)}
    dynamic |= {name: {0: "found"} for name in exportable.output_names if name != "image_size"}
    torch.onnx.export(
        exportable.module,
        (exportable.example,),
        stream,  # type: ignore[arg-type]
        dynamo=False,
        dynamic_axes=dynamic,
        input_names=[exportable.input_name],
        output_names=list(exportable.output_names),
        opset_version=opset,
    )
    return onnx.load_from_string(stream.getvalue())


def _deformable_convolution(g: Any, x: Any, weight: Any, offset: Any, mask: Any, bias: Any, *numbers: Any) -> Any:
    """Write ``torchvision.ops.deform_conv2d`` as ONNX's ``DeformConv``, whose order of offsets is the same.

    The tensors are those of torchvision; ``numbers`` are stride, padding and dilation, each vertical and horizontal,
    groups, offset groups, and whether ``mask`` is used.
    """
    *strides_to_dilations, groups, offset_groups, use_mask = (symbolic_helper._parse_arg(n, "i") for n in numbers)
    stride, padding, dilation = (strides_to_dilations[i : i + 2] for i in (0, 2, 4))
    return g.op(
        "DeformConv",
        *(x, weight, offset, bias),
        *([mask] if use_mask else []),
        strides_i=stride,
        pads_i=padding * 2,
        dilations_i=dilation,
        group_i=groups,
        offset_group_i=offset_groups,
    )


def _name_dimensions(model: Any, exportable: Exportable) -> None:
    """Name the dynamic dimensions of the input, s34 and the like so far, and leave those of the outputs unnamed."""
    for dimension, name in exportable.dynamic.items():
        model.graph.input[0].type.tensor_type.shape.dim[dimension].dim_param = name
    del model.graph.value_info[:]
    for output in model.graph.output:
        for number, dim in enumerate(output.type.tensor_type.shape.dim):
            if dim.HasField("dim_param"):
                dim.dim_param = exportable.dynamic[0] if number == 0 and 0 in exportable.dynamic else ""


def all_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of an ONNX graph, including those in branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


def _read_onnx(file: Path) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base class
        if "NOT_IMPLEMENTED" in str(error):
            version = onnxruntime.__version__
            raise ExportError(f"ONNX Runtime {version} cannot run {file}: {first_line(error)}") from error
        raise
    metadata = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    (name,) = metadata["inputs"]

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(value) for value in session.run(None, {name: x.numpy()})]

    return Loaded(run, metadata)


def _read_onnx_with_openvino(file: Path) -> Loaded:
    import onnx
    import openvino

    properties = onnx.load(str(file), load_external_data=False).metadata_props
    metadata = json.loads({entry.key: entry.value for entry in properties}[METADATA_KEY])
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    try:
        model = openvino.Core().compile_model(str(file), "CPU", options)
    except RuntimeError as error:
        if "Summary:" not in str(error):
            raise
        # After many lines of its own sources: "-- No conversion rule found for operations: DeformConv-19".
        reason = str(error).partition("Summary:")[2].strip(" -\n").splitlines()[0]
        version = openvino.__version__.partition("-")[0]
        raise ExportError(f"OpenVINO {version} cannot run {file}: {reason}") from error

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(value) for value in model([x.numpy()]).values()]

    return Loaded(run, metadata)


# TorchScript


def _write_torchscript(exportable: Exportable, metadata: str, file: Path, opset: int) -> None:
    # Traced: scripting supports only a part of Python, which neither the trunk nor the heads keep to.
    traced = torch.jit.trace(exportable.module, (exportable.example,), check_trace=False)
    torch.jit.save(traced, str(file), _extra_files={METADATA_KEY: metadata})


def _read_torchscript(file: Path) -> Loaded:
    import torchvision  # noqa: F401  (registers the operators on boxes)

    extra = {METADATA_KEY: ""}
    module = torch.jit.load(str(file), map_location="cpu", _extra_files=extra)
    return Loaded(_as_run(module), json.loads(extra[METADATA_KEY]))


def _as_run(module: Callable[[Tensor], Any]) -> Callable[[Tensor], Sequence[Tensor]]:
    @torch.no_grad()
    def run(x: Tensor) -> Sequence[Tensor]:
        value = module(x)
        return (value,) if isinstance(value, Tensor) else tuple(value)

    return run


# torch.export and AOTInductor


def _program(exportable: Exportable) -> ExportedProgram:
    from torch.fx.experimental import _config

    module = exportable.module if exportable.program is None else exportable.program()
    # Features of one pixel, too, which PyTorch refuses by default if it traced larger ones.
    allowed: Any = nullcontext()
    if hasattr(_config, "backed_size_oblivious"):
        allowed = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with allowed:
        shapes = _dynamic_shapes(exportable)
        return torch.export.export(module, (exportable.example,), dynamic_shapes=shapes, strict=False)


def _dynamic_shapes(exportable: Exportable) -> tuple[dict[int, Any] | None]:
    return ({dimension: Dim.DYNAMIC for dimension in exportable.dynamic} or None,)


def _write_pt2(exportable: Exportable, metadata: str, file: Path, opset: int) -> None:
    torch.export.save(_program(exportable), file, extra_files={METADATA_KEY: metadata})


def _read_pt2(file: Path) -> Loaded:
    import torchvision  # noqa: F401  (registers deformable convolution)

    extra = {METADATA_KEY: ""}
    module = torch.export.load(file, extra_files=extra).module()
    return Loaded(_as_run(module), json.loads(extra[METADATA_KEY]))


def _write_aoti(exportable: Exportable, metadata: str, file: Path, opset: int) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import InvalidCxxCompiler

    configs = {"aot_inductor.metadata": {METADATA_KEY: metadata}}
    try:
        aoti_compile_and_package(_program(exportable), package_path=str(file), inductor_configs=configs)
    except InvalidCxxCompiler as error:
        raise ExportError(f"AOTInductor needs a C++ compiler: {first_line(error)}") from error


def _read_aoti(file: Path) -> Loaded:
    import torchvision  # noqa: F401  (registers deformable convolution)
    from torch._inductor import aoti_load_package

    module = aoti_load_package(str(file))
    return Loaded(_as_run(module), json.loads(module.get_metadata()[METADATA_KEY]))


FORMATS: Mapping[str, Format] = {
    "onnx": Format(SUFFIXES["onnx"], _write_onnx, _read_onnx),
    "torchscript": Format(SUFFIXES["torchscript"], _write_torchscript, _read_torchscript),
    "aoti": Format(SUFFIXES["aoti"], _write_aoti, _read_aoti),
    "pt2": Format(SUFFIXES["pt2"], _write_pt2, _read_pt2),
}
