"""Writes a skeleton and its tensors to a file, one tensor at a time; the next ones are worked out while one is written."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, StringStringEntryProto, TensorProto

from refold.dialects.onnx._load import every_tensor
from refold.dialects.onnx._tensors import Folded, Payload, Tensors
from refold.dialects.onnx._wire import joined

LIMIT = 2**31 - 2**20
"""Bytes that one message may have, with room for what is not a tensor."""
WORKERS = 2
IN_FLIGHT = 1 << 26
"""Bytes of tensors that may be worked out ahead of writing."""
PAGE = 4096
DIGITS = 16
"""Digits of the hash that a name holds; a certificate holds them all."""


def save(skeleton: ModelProto, tensors: Tensors, path: Path, *, external: bool, by_content: bool = False) -> None:
    """Write the model to a new file, with its tensors beside it where it is `external` or larger than a message may be.

    They lie in `<name>.data`; `by_content` in `<name>.<hash>.data`, so that no two models of a name share data that differs.
    """
    external = external or sum(payload.nbytes for payload in _used(skeleton, tensors)) + skeleton.ByteSize() > LIMIT
    if not external:
        with path.open("wb", buffering=0) as file:
            _write(file, joined(skeleton.SerializeToString(), tensors.token, lambda number: tensors.payloads[number].nbytes), tensors)
        return
    placed = ModelProto()
    placed.CopyFrom(skeleton)
    data = path.with_name(f"{path.name}.data")
    pieces: list[bytes | int] = []
    places: list[tuple[TensorProto, int, int]] = []
    offset = 0
    for tensor in every_tensor(placed):
        payload = tensors.payload(tensor)
        if payload is None:
            continue
        padding = -offset % (PAGE if payload.nbytes >= PAGE else 64)
        offset += padding
        pieces += [bytes(padding), int.from_bytes(tensor.raw_data[-8:], "little")]
        places.append((tensor, offset, payload.nbytes))
        offset += payload.nbytes
    with data.open("wb", buffering=0) as file:
        digest = _write(file, pieces, tensors, hashed=by_content)
    if by_content:
        data = data.rename(path.with_name(f"{path.name}.{digest[:DIGITS]}.data"))
    for tensor, start, length in places:
        _refer(tensor, data.name, start, length)
    path.write_bytes(placed.SerializeToString())


def to_bytes(skeleton: ModelProto, tensors: Tensors) -> bytes:
    """The model as one message."""
    file = io.BytesIO()
    _write(file, joined(skeleton.SerializeToString(), tensors.token, lambda number: tensors.payloads[number].nbytes), tensors)
    return file.getvalue()


def size_of(skeleton: ModelProto, tensors: Tensors) -> int:
    """Bytes of the model, about."""
    return int(skeleton.ByteSize()) + sum(payload.nbytes for payload in _used(skeleton, tensors))


def _used(skeleton: ModelProto, tensors: Tensors) -> Iterator[Payload]:
    for tensor in every_tensor(skeleton):
        payload = tensors.payload(tensor)
        if payload is not None:
            yield payload


def _refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.append(StringStringEntryProto(key=key, value=value))


def _write(file: BinaryIO | io.RawIOBase, pieces: Sequence[bytes | int], tensors: Tensors, *, hashed: bool = False) -> str:
    """Write the pieces; the sha256 of them all where it is asked for, else nothing."""
    hasher = hashlib.sha256()
    for view in _ahead(pieces, tensors):
        left = memoryview(view)
        if hashed:
            hasher.update(left)
        while left:  # an unbuffered file may take a part at a time
            written = file.write(left)
            left = left[written:]
    return hasher.hexdigest() if hashed else ""


def _ahead(pieces: Iterable[bytes | int], tensors: Tensors) -> Iterator[bytes | memoryview]:
    """The bytes of the pieces in order, the folded ones worked out by threads a little ahead."""
    waiting: deque[tuple[bytes | memoryview | Future[memoryview], int]] = deque()
    in_flight = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for piece in pieces:
            if isinstance(piece, bytes):
                waiting.append((piece, 0))
            elif isinstance(payload := tensors.payloads[piece], Folded):
                waiting.append((pool.submit(payload.view), payload.nbytes))
                in_flight += payload.nbytes
            else:
                waiting.append((payload.view(), 0))
            while waiting and in_flight > IN_FLIGHT:
                view, size = waiting.popleft()
                in_flight -= size
                yield view.result() if isinstance(view, Future) else view
        while waiting:
            view, _ = waiting.popleft()
            yield view.result() if isinstance(view, Future) else view
