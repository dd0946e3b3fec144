"""Small ONNX models for the tests, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

Shape = Sequence[int | str | None]


def random(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(dtype)


def graph_of(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any],
    x: Shape = (1, 4, 9, 9),
    *,
    outputs: Sequence[str] = ("y",),
    elem_type: int = TensorProto.FLOAT,
) -> GraphProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ends = [helper.make_tensor_value_info(name, elem_type, None) for name in outputs]
    return helper.make_graph(list(nodes), "tested", [helper.make_tensor_value_info("x", elem_type, list(x))], ends, tensors)


def model_of(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any],
    x: Shape = (1, 4, 9, 9),
    *,
    opset: int = 17,
    ir_version: int = 8,
    outputs: Sequence[str] = ("y",),
    elem_type: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model of one input `x`."""
    graph = graph_of(nodes, constants, x, outputs=outputs, elem_type=elem_type)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    for output, inferred in zip(model.graph.output, shape_inference.infer_shapes(model, data_prop=True).graph.output, strict=True):
        output.CopyFrom(inferred)
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.shape.SetInParent()
    model.ir_version = ir_version
    return model


def batch_norm(x: str, y: str, channels: int, constants: dict[str, Any], seed: int = 1) -> NodeProto:
    """A batch norm whose statistics are added to the constants."""
    for position, name in enumerate(("scale", "bias", "mean")):
        constants[f"{y}.{name}"] = random(channels, seed=seed + position)
    constants[f"{y}.var"] = np.abs(random(channels, seed=seed + 7)) + np.float32(0.5)
    return helper.make_node("BatchNormalization", [x, *(f"{y}.{name}" for name in ("scale", "bias", "mean", "var"))], [y], name=f"bn_{y}")


def rep_block(channels: int = 4, x: str = "x", y: str = "y", prefix: str = "") -> tuple[list[NodeProto], dict[str, Any]]:
    """relu(B K3 x + B K1 x + B x), 8 nodes."""
    constants: dict[str, Any] = {
        f"{prefix}three.weight": random(channels, channels, 3, 3),
        f"{prefix}one.weight": random(channels, channels, 1, 1),
    }
    names = {name: f"{prefix}{name}" for name in ("c3", "c1", "n3", "n1", "n0", "a", "b")}
    nodes = [
        helper.make_node("Conv", [x, f"{prefix}three.weight"], [names["c3"]], pads=[1, 1, 1, 1], name=f"{prefix}conv3"),
        helper.make_node("Conv", [x, f"{prefix}one.weight"], [names["c1"]], name=f"{prefix}conv1"),
        batch_norm(names["c3"], names["n3"], channels, constants, 1),
        batch_norm(names["c1"], names["n1"], channels, constants, 2),
        batch_norm(x, names["n0"], channels, constants, 3),
        helper.make_node("Add", [names["n3"], names["n1"]], [names["a"]], name=f"{prefix}add1"),
        helper.make_node("Add", [names["a"], names["n0"]], [names["b"]], name=f"{prefix}add2"),
        helper.make_node("Relu", [names["b"]], [y], name=f"{prefix}relu"),
    ]
    return nodes, constants


def kinds(model: Any) -> list[str]:
    """Operators of a model, those within other nodes left out, constants too."""
    graph = model.graph if isinstance(model, ModelProto) else model
    return [node.op_type for node in graph.node if node.op_type != "Constant"]


def run(model: Any, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs in ONNX Runtime with its optimizations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    source = model.SerializeToString() if isinstance(model, ModelProto) else str(model)
    return list(onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds)))


def run_reference(model: ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs in the ONNX reference evaluator."""
    return list(ReferenceEvaluator(model).run(None, dict(feeds)))
