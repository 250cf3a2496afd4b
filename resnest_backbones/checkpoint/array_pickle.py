"""Reading pickles of numpy arrays and of settings without trusting them.

Detectron's model zoos publish weights as pickled dicts of arrays, and training checkpoints hold arrays, logs and the
settings of the training beside their tensors: MMEngine's, timm's, Lightning's, torchvision's. Unpickling can call
anything that a file names, and numpy's own ``dtype.__setstate__`` believes any flags, so a crafted file reads foreign
memory. Here a pickle builds plain containers only: stand-ins take the state of arrays and make them anew, and the state
of settings as a dict, also for ``torch.load(weights_only=True)``, under the names of what they stand for.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath, PureWindowsPath
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

_KINDS = "biuf"  # booleans, integers, floats
_LIGHTNING = ("lightning.fabric.utilities.data", "pytorch_lightning.utilities.parsing")
_NAMESPACES = (("argparse", "Namespace"), ("types", "SimpleNamespace"))


def load_arrays(stream: BinaryIO) -> Any:
    """Read a pickle of plain containers, strings, numbers, numeric arrays, settings (as dicts) and paths (as strings).

    Raises:
        pickle.UnpicklingError: it names something else. A damaged file can raise nearly any exception.
    """
    return made(_Unpickler(stream, encoding="latin1").load())


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


def _from_bytes(data: Any, dtype: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray, str)):
        raise pickle.UnpicklingError(f"{type(dtype).__name__} is neither an array nor a plain container")
    data = data.encode("latin1") if isinstance(data, str) else data  # a file of Python 2
    return np.frombuffer(bytearray(data), dtype.made)


class History:
    """Stands in for ``mmengine.logging.HistoryBuffer``, the log of one number over a training.

    Attributes:
        state: its ``_log_history`` and ``_count_history``, arrays of (steps,), and ``_max_length``.
    """

    state: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # What it also holds, names of its own methods, is the same in all of them.
        self.state = {key: value for key, value in state.items() if key != "statistics_methods"}


class _Namespace:
    """Stands in for ``argparse.Namespace`` and the like, whose values become a dict."""

    made: Mapping[str, Any] = {}  # noqa: RUF012

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.made = state


class _Dict:
    """Stands in for a kind of ``dict``, which becomes a plain one: torch fills no other."""

    def __new__(cls, *_: object) -> dict[Any, Any]:  # type: ignore[misc]
        """Return an empty dict."""
        return {}


def _reconstruct(kind: Any, *_: object) -> _Array:
    if not (isinstance(kind, type) and issubclass(kind, _Array)):
        raise pickle.UnpicklingError(f"{kind!r} is neither an array nor a plain container")
    return kind()


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return _from_bytes(data, dtype).reshape(shape, order="F" if order == "F" else "C")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
    ("__builtin__", "bytes"): lambda: b"",  # how protocol 2 writes b""
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **dict.fromkeys(_NAMESPACES, _Namespace),
    **{(module, "AttributeDict"): _Dict for module in _LIGHTNING},
}
for _module in ("pathlib", "pathlib._local"):  # from Python 3.13 on
    for _name, _kind in (("PosixPath", PurePosixPath), ("WindowsPath", PureWindowsPath)):
        for _prefix in ("", "Pure"):
            _STAND_INS[_module, f"{_prefix}{_name}"] = lambda *parts, kind=_kind: str(kind(*parts))
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _STAND_INS[f"{_core}.multiarray", "scalar"] = lambda dtype, data: _from_bytes(data, dtype)[0]
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _frombuffer
_STAND_INS_IN_TENSOR_FILES: dict[tuple[str, str], Any] = {
    **_STAND_INS,
    ("mmengine.logging.history_buffer", "HistoryBuffer"): History,
    ("builtins", "getattr"): lambda *_: None,  # by which a ``HistoryBuffer`` names its methods
    ("builtins", "bytes"): lambda: b"",
    ("collections", "defaultdict"): _Dict,
    **{("builtins", kind): lambda *_: None for kind in ("int", "float", "list", "dict")},  # what its values begin with
}


def _named(stand_in: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """Return a stand-in under the name of what it stands for, by which torch finds it."""
    names = {"__module__": module, "__qualname__": name}
    if isinstance(stand_in, type):
        return type(name, (stand_in,), names)
    named = lambda *arguments: stand_in(*arguments)  # noqa: E731
    named.__module__, named.__qualname__, named.__name__ = module, name, name
    return named


# Not OrderedDict, which torch builds itself.
_FOR_TORCH: list[Any] = [
    _named(stand_in, *names) for names, stand_in in _STAND_INS_IN_TENSOR_FILES.items() if stand_in is not OrderedDict
]


_ONE_AT_A_TIME = Lock()


@contextmanager
def arrays_in_tensor_files() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read arrays and logs as stand-ins, which ``made`` then replaces.

    PyTorch's list of what may be read is one for the process: meanwhile it holds the stand-ins alone.
    """
    with _ONE_AT_A_TIME:
        before = list(get_safe_globals())
        try:
            clear_safe_globals()
            add_safe_globals(_FOR_TORCH)
            yield
        finally:
            clear_safe_globals()
            add_safe_globals(before)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name} is neither an array nor a plain container")
        return _STAND_INS[module, name]


def made(value: Any) -> Any:
    """Replace the stand-ins in a value by what they stand for; containers stay of their kind."""
    if isinstance(value, _Array):
        return value.made
    if isinstance(value, _Namespace):
        return {key: made(item) for key, item in value.made.items()}
    if isinstance(value, History):
        value.state = made(value.state)
        return value
    if isinstance(value, OrderedDict):
        ordered = OrderedDict((key, made(item)) for key, item in value.items())
        ordered.__dict__.update(value.__dict__)  # the versions that a state dict carries
        return ordered
    if isinstance(value, dict):
        return {key: made(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(made(item) for item in value)
    return value
