"""Where the numbers of tensors lie: in a mapped file, in memory, or not worked out yet."""

from __future__ import annotations

import math
import mmap
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from refold.algebra import AffineConv, Formula, transposed_kernel
from refold.errors import FoldError

Array = NDArray[Any]

FLOATS: dict[int, float] = {
    TensorProto.FLOAT: 2.0**-24,
    TensorProto.FLOAT16: 2.0**-11,
    TensorProto.BFLOAT16: 2.0**-8,
    TensorProto.DOUBLE: 2.0**-53,
}
"""The floating point types that are folded, and their unit roundoffs."""


class Payload(ABC):
    """The bytes of one tensor."""

    nbytes: int

    @abstractmethod
    def view(self) -> memoryview:
        """The bytes, read or worked out now."""


@dataclass(frozen=True, slots=True)
class Stored(Payload):
    """Bytes that lie in a buffer."""

    buffer: bytes | mmap.mmap
    offset: int
    nbytes: int

    def view(self) -> memoryview:
        return memoryview(self.buffer)[self.offset : self.offset + self.nbytes]


@dataclass(frozen=True)
class Folded(Payload):
    """The kernel of a formula, rounded to `dtype`; worked out whenever it is asked for, so that it takes no memory in between."""

    formula: Formula
    dtype: Any
    layout: str
    shape: tuple[int, ...]

    @cached_property
    def nbytes(self) -> int:  # type: ignore[override]
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)

    def array(self) -> Array:
        """The kernel as the operator of this layout stores it."""
        return arranged(self.formula.evaluate(self.dtype), self.layout)

    def view(self) -> memoryview:
        return self.array().reshape(-1).view(np.uint8).data


def arranged(value: AffineConv, layout: str) -> Array:
    """A kernel as an operator stores it: `conv`, `transposed`, `gemm` (out, in) or `matmul` (in, out)."""
    match layout:
        case "transposed":
            kernel = transposed_kernel(value)
        case "matmul":
            kernel = value.kernel.T
        case _:
            kernel = value.kernel
    return np.ascontiguousarray(kernel)


@dataclass(slots=True)
class Tensors:
    """Finds the numbers of the tensors of a skeleton."""

    token: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    payloads: list[Payload] = field(default_factory=list)

    def payload(self, tensor: TensorProto) -> Payload | None:
        """What lies outside the skeleton, or None where the tensor holds its own numbers."""
        raw = tensor.raw_data if tensor.HasField("raw_data") else b""
        if len(raw) == len(self.token) + 8 and raw.startswith(self.token):
            return self.payloads[int.from_bytes(raw[-8:], "little")]
        return None

    def put(self, tensor: TensorProto, payload: Payload) -> None:
        """Let the payload be the numbers of a tensor."""
        tensor.raw_data = self.token + len(self.payloads).to_bytes(8, "little")
        self.payloads.append(payload)

    def nbytes(self, tensor: TensorProto) -> int:
        """Bytes of the tensor as it is stored."""
        payload = self.payload(tensor)
        return payload.nbytes if payload is not None else max(len(tensor.raw_data), tensor.ByteSize() if not tensor.raw_data else 0)

    def array(self, tensor: TensorProto) -> Array:
        """The numbers, as a view of where they lie if they can be.

        Raises `FoldError` where there are more or fewer than the shape says.
        """
        payload = self.payload(tensor)
        try:
            if payload is None:
                return np.asarray(numpy_helper.to_array(tensor))
            if isinstance(payload, Folded):
                return payload.array()
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
            if dtype.itemsize * int(np.prod(tensor.dims, dtype=np.int64)) == payload.nbytes:
                return np.frombuffer(payload.view(), dtype).reshape(tuple(tensor.dims))
            whole = TensorProto()
            whole.CopyFrom(tensor)
            whole.raw_data = bytes(payload.view())
            return np.asarray(numpy_helper.to_array(whole))
        except (ValueError, TypeError, KeyError) as error:
            raise FoldError(
                f"tensor `{tensor.name}` of shape {list(tensor.dims)} holds {self.nbytes(tensor):,} bytes, which do not make it up: "
                f"{str(error).splitlines()[0]}; export or download the file again"
            ) from error


def mapped(path: Path) -> bytes | mmap.mmap:
    """A file's bytes: read at once where they are few, so that nothing can change under us, otherwise mapped."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size > 1 << 26 else file.read()


def tensor_of(name: str, array: Array, elem_type: int) -> TensorProto:
    """A small tensor that holds its own numbers."""
    tensor = TensorProto(name=name, data_type=elem_type, dims=array.shape)
    tensor.raw_data = np.ascontiguousarray(array).tobytes()
    return tensor


def type_name(elem_type: int) -> str:
    """`float16` for the number that ONNX gives it."""
    return str(onnx.TensorProto.DataType.Name(elem_type)).lower()
