"""A reader of pickles that hold NumPy arrays and plain containers alone; nothing a file names is imported or called."""

from __future__ import annotations

import math
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from refold.errors import FoldError

Array = NDArray[Any]

REMEDY = "save the numbers alone, with paddle.save(layer.state_dict(), path)"
KINDS = "biufc"
"""Kinds of numbers that an array may hold: truth values, whole, real and complex numbers."""


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The entries of a pickled dict, with its arrays, and those beside which a name stands, as NumPy's.

    Raises `FoldError` where the file cannot be read, is not the pickle of a dict, or names a class that is neither an array nor a plain
    container.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            held = _Reader(file, encoding="latin1").load()
            if not isinstance(held, dict):
                raise _Refused(f"holds a {_kind(held)}, not a dict of arrays")
            return {key: _settled(value) for key, value in held.items()}
    except OSError as error:
        raise FoldError(f"{name} cannot be read: {error.strerror or error}") from None
    except _Refused as refused:
        raise FoldError(f"{name} {refused}; {REMEDY}") from None
    except Exception as error:  # a damaged pickle fails with whatever its opcodes run into
        raise FoldError(f"{name} is not a pickle of arrays ({type(error).__name__}: {error}); {REMEDY}") from None


class _Refused(Exception):
    """What the file has that is not admitted, as the end of a sentence about it."""


class _Type:
    """A dtype as a pickle builds it: made from its code, then told the order of its bytes."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(code) if isinstance(code, str) and code.isascii() and code[:1] in KINDS and code[1:].isdigit() else None
        if self.dtype is None:
            raise _Refused(f"holds an array of dtype {code!r}, where numbers alone are admitted")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        assert self.dtype is not None
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Draft:
    """An array as a pickle builds it: made empty, then told its shape, its dtype and its bytes."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Array | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, columns_first, data = state
        self.array = _numbers(data, kind, shape, "F" if columns_first else "C")


def _numbers(data: bytes, kind: _Type, shape: tuple[int, ...], order: Any = "C") -> Array:
    """A writable array in the byte order of this machine."""
    dtype = kind.dtype
    assert dtype is not None
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes do not make an array of shape {shape} and dtype {dtype}")
    stored: Array = np.frombuffer(bytearray(data), dtype).reshape(shape, order=order)
    return stored.astype(dtype.newbyteorder("="), copy=False)


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes, as the protocols that have none write them."""
    if encoding != "latin1":
        raise ValueError(f"bytes written as {encoding!r}")
    return text.encode("latin1")


def _placeholder() -> NoReturn:
    raise ValueError("`numpy.ndarray` is not called by a pickle")


class _Admitted:
    """What stands in for a name of the file. A pickle can call it and do nothing else with it."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise ValueError("a pickle must not change what it names")


_NUMPY = {
    "multiarray._reconstruct": _Admitted(lambda *_: _Draft()),
    "multiarray.scalar": _Admitted(lambda kind, data: _numbers(data, kind, ())),
    "numeric._frombuffer": _Admitted(lambda data, kind, shape, order: _numbers(data, kind, shape, order)),
}
ADMITTED = {
    "numpy.ndarray": _Admitted(_placeholder),
    "numpy.dtype": _Admitted(_Type),
    **{f"numpy.{core}.{name}": made for core in ("core", "_core") for name, made in _NUMPY.items()},
    "_codecs.encode": _Admitted(_latin1),
    "collections.OrderedDict": _Admitted(OrderedDict),
    **{f"{module}.tuple": _Admitted(tuple) for module in ("builtins", "__builtin__")},
    **{f"{module}.bytes": _Admitted(lambda: b"") for module in ("builtins", "__builtin__")},
}
"""Every name that a file may use, of NumPy before and after 2.0 and of Python 2 and 3, and what stands in for it."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = ADMITTED.get(f"{module}.{name}")
        if found is None:
            raise _Refused(f"names {module}.{name}, which is neither an array nor a plain container, so it was not read further")
        return found


def _settled(entry: Any) -> Any:
    match entry:
        case _Draft() | (str(), _Draft()):
            draft = entry if isinstance(entry, _Draft) else entry[1]
            if draft.array is None:
                raise ValueError("an array without numbers")
            return draft.array
    return entry


def _kind(held: Any) -> str:
    return "single array" if isinstance(held, _Draft) else type(held).__name__
