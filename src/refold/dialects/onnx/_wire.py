"""Takes the large tensors out of a serialized ONNX message and puts them back, without ever copying them.

What is left is a *skeleton*: the same message, each large `raw_data` replaced by a token and a number. It is small enough to parse, check
and edit at leisure whatever the model weighs, and everything in it that nobody touches stays as it was, unknown fields included.

Source: the protocol buffers encoding, https://protobuf.dev/programming-guides/encoding, and the field numbers of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from refold.errors import FoldError

Buffer = bytes | mmap.mmap

LARGE = 4096
"""Bytes from which on a tensor is taken out."""

GRAPH, NODE, ATTRIBUTE, FUNCTION, TENSOR, MODEL = "graph", "node", "attribute", "function", "tensor", "model"

FIELDS: Mapping[str, Mapping[int, str]] = {
    MODEL: {7: GRAPH, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH},
    FUNCTION: {7: NODE},
    TENSOR: {},
}
"""Fields that may hold a tensor somewhere below."""

RAW_DATA = 9


@dataclass(slots=True)
class Splitter:
    """Splits one message. `found` lists the (offset, length) of what was taken out, in the order of the tokens' numbers."""

    data: Buffer
    token: bytes
    found: list[tuple[int, int]] = field(default_factory=list)

    def skeleton(self) -> bytes:
        """The message with tokens in the place of large tensors.

        Raises `FoldError` where it is no protocol buffer message.
        """
        return b"".join(self._message(0, len(self.data), MODEL))

    def _message(self, start: int, stop: int, kind: str) -> list[bytes]:
        data, inside = self.data, FIELDS[kind]
        pieces: list[bytes] = []
        copied = position = start
        while position < stop:
            tag_at = position
            tag, position = _varint(data, position, stop)
            if tag & 7 != 2:
                position = _skip(data, position, stop, tag & 7)
                continue
            length, position = _varint(data, position, stop)
            if length > stop - position:
                raise _broken(position)
            if length >= LARGE:
                number = tag >> 3
                replaced = None
                if kind == TENSOR and number == RAW_DATA:
                    replaced = [self.token + len(self.found).to_bytes(8, "little")]
                    self.found.append((position, length))
                elif number in inside:
                    replaced = self._message(position, position + length, inside[number])
                if replaced is not None:
                    pieces += [data[copied:tag_at], encoded(tag), encoded(sum(map(len, replaced))), *replaced]
                    copied = position + length
            position += length
        pieces.append(data[copied:stop])
        return pieces


def joined(skeleton: bytes, token: bytes, size_of: Callable[[int], int]) -> list[bytes | int]:
    """The message that a skeleton stands for: stretches of bytes, and the numbers of the tensors that belong between them."""
    return _join(memoryview(skeleton), skeleton, token, size_of, 0, len(skeleton), MODEL)[0]


def _join(
    view: memoryview, data: bytes, token: bytes, size_of: Callable[[int], int], start: int, stop: int, kind: str
) -> tuple[list[bytes | int], int]:
    inside = FIELDS[kind]
    pieces: list[bytes | int] = []
    total = 0
    copied = position = start
    while position < stop:
        tag_at = position
        tag, position = _varint(data, position, stop)
        if tag & 7 != 2:
            position = _skip(data, position, stop, tag & 7)
            continue
        length, position = _varint(data, position, stop)
        number, end = tag >> 3, position + length
        replaced: tuple[list[bytes | int], int] | None = None
        if kind == TENSOR and number == RAW_DATA and length == len(token) + 8 and data.startswith(token, position):
            which = int.from_bytes(view[end - 8 : end], "little")
            replaced = [which], size_of(which)
        elif number in inside and length > len(token) and data.find(token, position, end) >= 0:
            replaced = _join(view, data, token, size_of, position, end, inside[number])
        if replaced is not None:
            head = data[copied:tag_at] + encoded(tag) + encoded(replaced[1])
            pieces += [head, *replaced[0]]
            total += len(head) + replaced[1]
            copied = end
        position = end
    pieces.append(data[copied:stop])
    return pieces, total + stop - copied


def encoded(number: int) -> bytes:
    """A number as a varint.

    >>> encoded(300)
    b'\\xac\\x02'
    """
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varint(data: Buffer, position: int, stop: int) -> tuple[int, int]:
    number = shift = 0
    while position < stop and shift < 70:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
        shift += 7
    raise _broken(position)


def _skip(data: Buffer, position: int, stop: int, wire_type: int) -> int:
    match wire_type:
        case 0:
            return _varint(data, position, stop)[1]
        case 1:
            position += 8
        case 5:
            position += 4
        case _:
            raise _broken(position)
    if position > stop:
        raise _broken(position)
    return position


def _broken(position: int) -> FoldError:
    return FoldError(f"not an ONNX model: the bytes stop making sense at offset {position:,}; export or download the file again")
