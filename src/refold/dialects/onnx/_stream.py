"""Runs an ONNX model on one batch of arrays after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from refold.dialects.onnx._load import Source, load
from refold.dialects.onnx._run import Feeds, Session, given_feeds
from refold.dialects.onnx._tensors import FLOATS


def runner(model: Any) -> Callable[[Any], list[Any]]:
    """A function from a batch, arrays in order or by name, to the outputs; floats are given in the dtype that the model takes.

    It raises `FoldError` where the model does not take the batch.
    """
    source = load(model)
    session = Session(source.skeleton, source.tensors, source.files)
    return lambda batch: [np.asarray(one) for one in session.run(_feeds(source, batch))]


def open_file(path: Path) -> Callable[[Sequence[Any]], list[Any]]:
    """A function from arrays, in the order of a file's inputs, to its outputs, by ONNX Runtime as it ships: optimized.

    It raises `FoldError` where the model does not run on them.
    """
    source = load(path)
    session = Session(source.skeleton, source.tensors, source.files, optimized=True)
    return lambda arrays: [np.asarray(one) for one in session.run(given_feeds(source.skeleton, arrays)[0])]


def as_inputs(model: Any, batch: Any) -> Feeds:
    """A batch as arrays by the names of the inputs."""
    return _feeds(load(model), batch)


def channels(model: Any) -> int | None:
    """The channels of the first input, where it is a batch of images and the model states them."""
    for value in load(model).skeleton.graph.input[:1]:
        sizes = [int(one.dim_value) for one in value.type.tensor_type.shape.dim]
        return sizes[1] or None if len(sizes) == 4 else None
    return None


def _feeds(source: Source, batch: Any) -> Feeds:
    (feeds,) = given_feeds(source.skeleton, batch)
    types = {value.name: value.type.tensor_type.elem_type for value in source.skeleton.graph.input}
    for name, array in feeds.items():
        if array.dtype.kind == "f" and types[name] in FLOATS:
            feeds[name] = array.astype(helper.tensor_dtype_to_np_dtype(types[name]))
    return feeds
