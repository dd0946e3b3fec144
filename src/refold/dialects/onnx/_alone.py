"""The convolutions and linear layers of a model alone: met by running it, and run again with nothing between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from refold.dialects.onnx._census import CONVOLUTIONS, LINEARS
from refold.dialects.onnx._constants import STANDARD
from refold.dialects.onnx._load import load
from refold.dialects.onnx._run import Feeds, Session
from refold.dialects.onnx._tensors import tensor_of
from refold.verification import SEED


@dataclass(frozen=True, slots=True)
class CalledNode:
    """One convolution or product with a stored matrix: its node, the shapes of what it reads besides x, and its opset."""

    takes: tuple[int, ...]
    gives: tuple[int, ...]
    node: NodeProto
    weights: tuple[tuple[int, ...], ...]
    elem_type: int
    opset: int


def called_nodes(model: Any, feeds: Feeds) -> list[CalledNode]:
    """Every convolution of the model's graph, in order, and every product with a stored matrix; shapes are those of a run on the feeds.

    Raises `FoldError` where it does not run on them.
    """
    source = load(model)
    stored = {tensor.name: tuple(tensor.dims) for tensor in source.skeleton.graph.initializer}
    nodes = [
        node
        for node in source.skeleton.graph.node
        if node.domain in STANDARD
        and (node.op_type in CONVOLUTIONS or (node.op_type in LINEARS and node.input[0] not in stored and node.input[1] in stored))
    ]
    wanted = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name not in stored and name not in feeds)
    shown = ModelProto()
    shown.CopyFrom(source.skeleton)
    del shown.graph.output[:]
    shown.graph.output.extend(ValueInfoProto(name=name) for name in wanted if name)
    if not nodes:
        return []
    session = Session(shown, source.tensors)
    arrays = dict(zip(session.names, session.run(feeds), strict=True)) | feeds
    shapes = {name: tuple(array.shape) for name, array in arrays.items()} | stored
    return [
        CalledNode(
            shapes[node.input[0]],
            shapes[node.output[0]],
            node,
            tuple(shapes[name] for name in node.input[1:] if name),
            helper.np_dtype_to_tensor_dtype(arrays[node.input[0]].dtype),
            source.opset,
        )
        for node in nodes
    ]


def nodes_alone(nodes: Sequence[CalledNode], sources: Sequence[int | None]) -> tuple[ModelProto, Feeds]:
    """A model that runs the nodes in order with weights drawn at random, and its feeds.

    `sources` says for each whose output it reads, reshaped if need be; where that is None it gets an input of its own. The model gives
    what none of them reads.
    """
    random = np.random.default_rng(SEED)
    feeds: Feeds = {}
    placed: list[NodeProto] = []
    stored: list[TensorProto] = []
    inputs: list[ValueInfoProto] = []
    for position, (called, source) in enumerate(zip(nodes, sources, strict=True)):
        node = NodeProto()
        node.CopyFrom(called.node)
        x = f"y{source}"
        if source is None:
            x = f"x{position}"
            dtype = helper.tensor_dtype_to_np_dtype(called.elem_type)
            feeds[x] = random.standard_normal(called.takes, np.float32).astype(dtype)
            inputs.append(helper.make_tensor_value_info(x, called.elem_type, called.takes))
        elif nodes[source].gives != called.takes:
            x = f"r{position}"
            stored.append(tensor_of(f"s{position}", np.asarray(called.takes, np.int64), TensorProto.INT64))
            placed.append(helper.make_node("Reshape", [f"y{source}", f"s{position}"], [x]))
        names = [f"w{position}_{number}" for number in range(len(called.weights))]
        for name, shape in zip(names, called.weights, strict=True):
            values = random.standard_normal(shape, np.float32) / math.sqrt(max(1, math.prod(shape[1:])))
            stored.append(tensor_of(name, values.astype(helper.tensor_dtype_to_np_dtype(called.elem_type)), called.elem_type))
        node.name = f"n{position}"
        node.input[:] = [x, *names]
        node.output[:] = [f"y{position}"]
        placed.append(node)
    outputs = [
        helper.make_tensor_value_info(f"y{position}", called.elem_type, called.gives)
        for position, called in enumerate(nodes)
        if position not in sources
    ]
    graph = helper.make_graph(placed, "alone", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", nodes[0].opset)], ir_version=8), feeds
