"""Read a pickle that holds arrays and plain containers, and refuse every other one.

An ordinary unpickler runs whatever the file names. This one knows six names, and none leads to the real
object: each stands for a function of this module that can only make an array of plain numbers.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

_NUMERIC = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


def unpickle(content: bytes) -> Any:
    """The object in a pickle of dict, list, tuple, set, str, bytes, numbers and arrays of numbers.

    Reads every protocol up to 5 under numpy's old and new module names; the strings of Python 2 come back as
    bytes. Raises `pickle.UnpicklingError` for anything else, before any of it is run.

    >>> held = unpickle(pickle.dumps({b"data": np.arange(3), b"labels": [1, 2, 3]}, protocol=4))
    >>> held[b"data"].tolist(), held[b"labels"]
    ([0, 1, 2], [1, 2, 3])
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise pickle.UnpicklingError(f"damaged or cut short ({type(error).__name__}: {error})") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _STAND_INS.get((module.replace("numpy._core.", "numpy.core."), name))
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, not an array or a plain container")
        return known


class _Kind:
    """Stands for a numpy.dtype: a kind of number and its byte order. No state can turn it into an object."""

    __slots__ = ("dtype",)

    def __init__(self, name: str | bytes) -> None:
        name = _text(name)
        if name not in _NUMERIC:
            raise pickle.UnpicklingError(f"it holds an array of {name!r}, and only plain numbers are read")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = _text(state[1])
        self.dtype = self.dtype if order == "|" else np.dtype(order + self.dtype.str[1:])


class _Array(np.ndarray):
    """An array that takes its content from a pickle, and its dtype from a `_Kind` only."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, kind, by_column, content = state
        if not isinstance(kind, _Kind):
            raise pickle.UnpicklingError("it holds an array without a kind of number")
        super().__setstate__((version, shape, kind.dtype, by_column, content))


class _StandIn:
    """A function that a pickle may call, and that it cannot change: no attribute can be set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it sets {name!r} on a function")

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def _dtype(name: str | bytes, align: bool = False, copy: bool = False) -> _Kind:
    return _Kind(name)


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> np.ndarray:
    return np.ndarray.__new__(_Array, (0,), np.uint8)  # empty until `__setstate__`; numpy passes (0,) and "b"


def _frombuffer(content: bytes, kind: _Kind, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(content, kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes under protocols 0 to 2


def _empty() -> bytes:
    return b""  # the same, for bytes that are empty


def _ndarray(*arguments: Any) -> Any:
    raise pickle.UnpicklingError("it calls numpy.ndarray itself, which no pickle of an array does")


def _text(name: str | bytes) -> str:
    return name.decode("ascii") if isinstance(name, bytes) else name


_STAND_INS = {
    ("numpy", "dtype"): _StandIn(_dtype),
    ("numpy", "ndarray"): _StandIn(_ndarray),
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _StandIn(_frombuffer),
    ("_codecs", "encode"): _StandIn(_encode),
    ("__builtin__", "bytes"): _StandIn(_empty),
}
