"""The weights of an ONNX model one by one, and the text that its metadata carries beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto

from refold.dialects.onnx._load import Source, every_node, graphs_of, load
from refold.dialects.onnx._tensors import type_name
from refold.runtime import Background

Tensor: TypeAlias = tuple[str, str, tuple[int, ...], Any]

LABEL = "refold.certificate"
"""Key of the text among the metadata."""


def weights(model: Any) -> Iterator[Tensor]:
    """Name, type, shape and bytes of every initializer and every tensor that a node holds; wherever the bytes lie."""
    yield from weights_of_source(load(model))


def weights_of_source(source: Source) -> Iterator[Tensor]:
    """The same of a model that has been read."""
    for name, tensor in _named(source.skeleton):
        array = source.tensors.array(tensor)
        data: Any = repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        yield name, type_name(tensor.data_type), tuple(tensor.dims), data
    for one in source.skeleton.graph.sparse_initializer:
        yield one.values.name, "sparse", tuple(one.dims), one.SerializeToString(deterministic=True)


def annotation(path: Path) -> str | None:
    """The text in a file, or None where there is none."""
    return next((entry.value for entry in load(path).skeleton.metadata_props if entry.key == LABEL), None)


def annotate(path: Path, text_for: Callable[[Iterable[Tensor]], str]) -> str:
    """Lay in a file the text that is made from the weights in it; the sha256 of the file as it is then.

    A message of protocol buffers is added to by writing behind it, so the weights are not written again, and what stands is hashed while
    the text is made.
    """
    standing = Background(lambda: _hashed(path))
    addition = ModelProto()
    addition.metadata_props.add(key=LABEL, value=text_for(weights(path)))
    added, digest = addition.SerializeToString(), standing.result()
    with path.open("ab") as file:
        file.write(added)
    digest.update(added)
    return digest.hexdigest()


def drop_annotation(model: ModelProto) -> None:
    """Take out the text, in place: what is about to be written is another model."""
    for entry in [entry for entry in model.metadata_props if entry.key == LABEL]:
        model.metadata_props.remove(entry)


def _hashed(path: Path) -> hashlib._Hash:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _named(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in model.graph.initializer)
    for node in every_node(model):
        owner = next(filter(None, node.output), node.name)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield f"{owner}.{attribute.name}", attribute.t
            yield from ((f"{owner}.{attribute.name}[{number}]", tensor) for number, tensor in enumerate(attribute.tensors))
        for label, graph in graphs_of(node):
            yield from ((f"{owner}.{label}.{tensor.name}", tensor) for tensor in graph.initializer)
