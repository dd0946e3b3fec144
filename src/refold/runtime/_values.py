"""Arrays, strings, lists and maps of them as one raw file and a description of it in JSON: what two processes pass without copies."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

ALIGNED = 64
"""Bytes that the offsets of arrays are multiples of."""
WRITTEN = "values of type {} cannot be passed to a runtime; give arrays"


def write_values(value: Any, path: Path) -> Any:
    """Write the numbers of a value to a new file and describe the rest of it. Raises `OSError` where it cannot be written."""
    with path.open("xb") as file:
        return _write(value, file)


def read_values(described: Any, path: Path) -> Any:
    """The value again, its arrays mapped from the file; what is written to them stays in this process."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
    return _read(described, data)


def _write(value: Any, file: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return {"plain": value}
        case list() | tuple():
            return {"list": [_write(one, file) for one in value]}
        case dict():
            return {"map": [[_write(key, file), _write(one, file)] for key, one in value.items()]}
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(WRITTEN.format(type(value).__name__))
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        return {"strings": [_text(one) for one in array.reshape(-1).tolist()], "shape": array.shape}
    offset = file.tell() + -file.tell() % ALIGNED
    file.seek(offset)
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {"dtype": array.dtype.name, "shape": array.shape, "offset": offset}


def _text(one: Any) -> str:
    return one.decode("utf-8", "surrogateescape") if isinstance(one, bytes) else str(one)


def _read(described: Any, data: Any) -> Any:
    match described:
        case {"plain": value}:
            return value
        case {"list": parts}:
            return [_read(one, data) for one in parts]
        case {"map": pairs}:
            return {_read(key, data): _read(one, data) for key, one in pairs}
        case {"strings": texts, "shape": shape}:
            return np.array(texts, dtype=object).reshape(shape)
    dtype = _dtype(described["dtype"])
    count = int(np.prod(described["shape"], dtype=object))
    if count == 0:
        return np.zeros(described["shape"], dtype)
    return np.frombuffer(data, dtype, count, described["offset"]).reshape(described["shape"])


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))
