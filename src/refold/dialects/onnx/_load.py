"""Reads an ONNX file, or a model in memory, as a skeleton and the tensors beside it. Weights stay where they lie."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from refold.dialects.onnx._tensors import Stored, Tensors, mapped
from refold.dialects.onnx._wire import Splitter
from refold.errors import FoldError

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Source:
    """A model as it was given: its skeleton, its tensors, the files that it came from, and whether its weights lie beside it."""

    skeleton: ModelProto
    tensors: Tensors
    files: tuple[Path, ...] = ()
    is_external: bool = False

    @property
    def name(self) -> str:
        """What to call it in an error."""
        return str(self.files[0]) if self.files else "the model"

    @property
    def opset(self) -> int:
        """Version of the standard operators; 0 where there are none."""
        return next((one.version for one in self.skeleton.opset_import if one.domain in ("", "ai.onnx")), 0)


def load(model: Any) -> Source:
    """The source of a path, an `onnx.ModelProto` or an `onnx_ir.Model`.

    Raises `FoldError` where it is not a valid ONNX model, or data of it is missing, short or outside its folder.
    """
    match model:
        case str() | os.PathLike():
            path = Path(model)
            try:
                data = mapped(path)
            except (OSError, ValueError) as error:
                raise FoldError(
                    f"cannot read {path}: {getattr(error, 'strerror', None) or error}; name an ONNX file that exists"
                ) from error
            return _split(data, path.parent, (path,))
        case ModelProto():
            return _split(_serialized(model), Path(), ())
    if type(model).__module__.partition(".")[0] == "onnx_ir":
        import onnx_ir as ir  # it loads a computer algebra system, which a path does not need

        if isinstance(model, ir.Model):
            return _split(_serialized(ir.to_proto(model)), _base_folder(model), ())
    raise FoldError(f"a {type(model).__name__} is not an ONNX model; give a path, an onnx.ModelProto or an onnx_ir.Model")


def data_names(path: Path) -> tuple[str, ...]:
    """The files of data that an ONNX file refers to, as it spells them; none where it cannot be read.

    It need be neither valid nor complete.
    """
    try:
        skeleton = ModelProto.FromString(Splitter(mapped(path), Tensors().token).skeleton())
    except (OSError, ValueError, DecodeError, RecursionError):
        return ()
    external = (tensor for tensor in every_tensor(skeleton) if tensor.data_location == TensorProto.EXTERNAL)
    return tuple(dict.fromkeys(entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"))


def graphs_of(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs that a node holds, with a label each."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            for number, graph in enumerate(attribute.graphs):
                yield f"{attribute.name}[{number}]", graph


def every_node(model: ModelProto) -> Iterator[NodeProto]:
    """The nodes of the graph, of the graphs within it, and of the functions."""
    stack = [*reversed(model.graph.node)]
    for function in model.functions:
        stack.extend(reversed(function.node))
    while stack:
        node = stack.pop()
        yield node
        for _, graph in graphs_of(node):
            stack.extend(reversed(graph.node))


def every_tensor(model: ModelProto) -> Iterator[TensorProto]:
    """All initializers and tensor attributes."""
    yield from model.graph.initializer
    for node in every_node(model):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
        for _, graph in graphs_of(node):
            yield from graph.initializer


def _split(data: bytes | mmap.mmap, folder: Path, files: tuple[Path, ...]) -> Source:
    name = str(files[0]) if files else "the model"
    tensors = Tensors()
    splitter = Splitter(data, tensors.token)
    try:
        skeleton = ModelProto.FromString(splitter.skeleton())
    except FoldError as error:
        raise FoldError(f"{name} is {error}") from error
    except (DecodeError, RecursionError) as error:
        raise FoldError(f"{name} is not an ONNX model: {first_line(error)}; export or download the file again") from error
    tensors.payloads.extend(Stored(data, offset, length) for offset, length in splitter.found)
    if not skeleton.HasField("graph"):
        raise FoldError(f"{name} is not an ONNX model: it holds no graph; export or download the file again")
    data_files = _Folder(folder, tensors)
    for tensor in every_tensor(skeleton):
        if tensor.data_location == TensorProto.EXTERNAL:
            data_files.attach(tensor)
        elif (payload := tensors.payload(tensor)) is not None:
            expected = _expected_bytes(tensor)
            if expected is not None and expected != payload.nbytes:
                raise FoldError(
                    f"tensor `{tensor.name}` of shape {list(tensor.dims)} holds {payload.nbytes:,} bytes where its shape and type take "
                    f"{expected:,}; export or download the file again"
                )
    _check(skeleton, tensors, name)
    return Source(skeleton, tensors, (*files, *data_files.maps), bool(data_files.maps))


def _check(skeleton: ModelProto, tensors: Tensors, name: str) -> None:
    try:
        onnx.checker.check_model(_as_checked(skeleton, tensors))
    except (onnx.checker.ValidationError, ValueError, RuntimeError, TypeError, UnicodeDecodeError) as error:
        raise FoldError(f"{name} is not a valid ONNX model: {first_line(error)}; mend the model before folding it") from error


def _as_checked(skeleton: ModelProto, tensors: Tensors) -> ModelProto:
    """A copy in which the checker finds no fault with tokens, whose sizes were compared before, nor with ends that state no shape."""
    copy = ModelProto()
    copy.CopyFrom(skeleton)
    for tensor in every_tensor(copy):
        if tensors.payload(tensor) is not None:
            tensor.dims[:] = [len(tensor.raw_data)]
            tensor.data_type = TensorProto.UINT8
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return copy


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, to end a clause of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0][:300] if lines else type(error).__name__).rstrip(".;")


def _serialized(model: ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:
        raise FoldError("the model takes over 2 GB in one message; save it with external data and give its path") from error


def _base_folder(model: ir.Model) -> Path:
    import onnx_ir as ir

    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                return Path(value.const_value.base_dir)
    return Path()


def _expected_bytes(tensor: TensorProto) -> int | None:
    """Bytes that shape and type take, None for types narrower than a byte and those that NumPy does not know."""
    if any(dim < 0 for dim in tensor.dims):
        raise FoldError(f"tensor `{tensor.name}` has the shape {list(tensor.dims)}; sizes cannot be negative")
    try:
        narrow = TensorProto.DataType.Name(tensor.data_type).startswith(("INT4", "UINT4", "FLOAT4", "INT2", "UINT2"))
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, ValueError, TypeError):
        return None
    return None if narrow or dtype.hasobject else int(np.prod(tensor.dims, dtype=object)) * dtype.itemsize


class _Folder:
    """The folder of a model, and the files in it that hold tensors, each mapped once."""

    def __init__(self, folder: Path, tensors: Tensors) -> None:
        self._folder = folder
        self._tensors = tensors
        self._by_location: dict[str, bytes | mmap.mmap] = {}
        self.maps: dict[Path, bytes | mmap.mmap] = {}

    def attach(self, tensor: TensorProto) -> None:
        """Put the numbers of an external tensor in the place of its reference."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        data = self._by_location.get(location)
        if data is None:
            data = self._by_location[location] = self._open(location, tensor)
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries["length"]) if "length" in entries else (_expected_bytes(tensor) or len(data) - offset)
        except ValueError as error:
            raise FoldError(
                f"tensor `{tensor.name}` lies at an offset or has a length that is no number ({error}); save the model again"
            ) from error
        expected = _expected_bytes(tensor)
        if offset < 0 or length < 0 or offset + length > len(data):
            raise FoldError(
                f"external data {location} is too short: tensor `{tensor.name}` ends at byte {offset + length:,}, the file at "
                f"{len(data):,}; "
                "copy or download the file again"
            )
        if expected is not None and expected != length:
            raise FoldError(
                f"tensor `{tensor.name}` of shape {list(tensor.dims)} has {length:,} bytes of external data where its shape and type take "
                f"{expected:,}; save the model again"
            )
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        self._tensors.put(tensor, Stored(data, offset, length))

    def _open(self, location: str, tensor: TensorProto) -> bytes | mmap.mmap:
        path = self._folder / location
        inside = self._folder.resolve()
        try:
            resolved = path.resolve()
            if not location or Path(location).is_absolute() or not resolved.is_relative_to(inside) or resolved == inside:
                raise FoldError(
                    f"tensor `{tensor.name}` names {location!r} as its external data, which is not a file in the model's folder; "
                    "copy the data beside the model and let the reference be relative"
                )
            if not resolved.is_file():
                raise FoldError(f"external data {location} of tensor `{tensor.name}` is not there; copy it beside the model")
            data = self.maps.get(resolved)
            if data is None:
                data = self.maps[resolved] = mapped(resolved)
            return data
        except (OSError, ValueError, RuntimeError) as error:  # the last of links that go round in a circle
            if isinstance(error, FoldError):
                raise
            raise FoldError(
                f"cannot read external data {location!r}: {getattr(error, 'strerror', None) or error}; copy it beside the model"
            ) from error
