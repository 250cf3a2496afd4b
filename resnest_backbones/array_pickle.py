"""Reading pickles of numpy arrays without trusting them.

Detectron's model zoos publish weights as pickled dicts of arrays. Unpickling can call anything that a file names, and
numpy's own ``dtype.__setstate__`` believes any flags it is given, so that a crafted file reads foreign memory. Here,
nothing but plain containers is ever built by the pickle: stand-ins take the state of arrays and make them anew.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

_KINDS = "biuf"  # booleans, integers, floats


def load_arrays(stream: BinaryIO) -> Any:
    """Read a pickle of plain containers, strings, numbers and numeric arrays.

    Raises:
        pickle.UnpicklingError: it names something else. A damaged file can raise nearly any exception.
    """
    return _made(_Unpickler(stream, encoding="latin1").load())


class _Dtype:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: str, *_: object) -> None:
        self.made = np.dtype(str(code))
        if self.made.kind not in _KINDS:
            raise pickle.UnpicklingError(f"numpy.dtype({code!r}) is neither an array nor a plain container")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.made = self.made.newbyteorder(state[1])


class _Array:
    """Stands in for ``numpy.ndarray``."""

    made: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.made = _from_bytes(data, dtype).reshape(shape, order="F" if fortran else "C")


def _from_bytes(data: Any, dtype: _Dtype) -> np.ndarray:
    data = data.encode("latin1") if isinstance(data, str) else data  # a file of Python 2
    return np.frombuffer(bytearray(data), dtype.made)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return _from_bytes(data, dtype)[0]


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return _from_bytes(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, *_: object) -> bytes:
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,  # how protocol 2 writes b""
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name} is neither an array nor a plain container")
        return _STAND_INS[module, name]


def _made(value: Any) -> Any:
    """The value with its stand-ins replaced by what they stand for."""
    if isinstance(value, _Array):
        return value.made
    if isinstance(value, dict):
        return {key: _made(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_made(item) for item in value]
    return value
