"""Every value of an ONNX model in float64, beside what the model itself gives, and two files held against each other."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from refold.dialects.onnx._walk import stated_inputs, walk
from refold.errors import FoldError
from refold.locate import locate
from tests.dialects.onnx.models import run

node = helper.make_node
RANDOM = np.random.default_rng(5)
KERNEL = RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32)
BIAS = RANDOM.standard_normal(4).astype(np.float32)
MATRIX = RANDOM.standard_normal((8, 8)).astype(np.float32)
X = RANDOM.standard_normal((1, 4, 8, 8)).astype(np.float32)


def model(nodes: list[NodeProto], stored: dict[str, Any], *, functions: Any = (), opset: int = 18, more: Any = ()) -> ModelProto:
    dtype = TensorProto.FLOAT16 if any(array.dtype == np.float16 for array in stored.values()) else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, X.shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in more)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10, functions=functions)


def behind(head: list[NodeProto], *, bias: bool, dtype: Any = np.float32, **options: Any) -> ModelProto:
    """relu(conv t), the t of what is given; without its bias, or with it."""
    conv = node("Conv", ["t", "w", *(["b"] if bias else [])], ["c"], pads=[1] * 4)
    stored = {"w": KERNEL.astype(dtype), "b": BIAS.astype(dtype), **options.pop("stored", {})}
    return model([*head, conv, node("Relu", ["c"], ["y"])], stored, **options)


def branch(operator: str, *more: str) -> Any:
    typed = helper.make_tensor_value_info(f"of {operator}", TensorProto.FLOAT, None)
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    return helper.make_graph([node(operator, ["x", *more], [typed.name])], operator, [], [typed], [two] if more else [])


TWICE = helper.make_function("own", "Twice", ["a"], ["r"], [node("Add", ["a", "a"], ["r"])], [helper.make_opsetid("", 18)])
HEADS: dict[str, tuple[list[NodeProto], dict[str, Any]]] = {
    "float32": ([node("Identity", ["x"], ["t"])], {}),
    "float16": ([node("Identity", ["x"], ["t"])], {"dtype": np.float16}),
    "a graph within": (
        [
            node("ReduceMax", ["x"], ["most"], keepdims=0),
            node("Greater", ["most", "least"], ["yes"]),
            node("If", ["yes"], ["t"], then_branch=branch("Mul", "two"), else_branch=branch("Identity")),
        ],
        {"stored": {"least": np.zeros((), np.float32)}},
    ),
    "a function": ([node("Twice", ["x"], ["t"], domain="own")], {"functions": [TWICE], "more": ["own"]}),
    "the runtime's own": ([node("Gelu", ["x"], ["t"], domain="com.microsoft")], {"more": ["com.microsoft"]}),
    "a sequence": ([node("SplitToSequence", ["x"], ["s"], axis=1), node("ConcatFromSequence", ["s"], ["t"], axis=1)], {}),
    "item by item": ([node("MaxPool", ["x"], ["t"], kernel_shape=[2, 2])], {}),
    "sizes": (
        [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "flat"], ["f"]), node("Reshape", ["f", "s"], ["t"])],
        {"stored": {"flat": np.array([-1])}},
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_values_are_those_of_the_model_and_slack_is_what_it_rounds(name: str) -> None:
    head, options = HEADS[name]
    source = behind(head, bias=True, **options)
    x = X.astype(options.get("dtype", np.float32))
    walked = walk(source, {"x": x})
    assert (list(walked.inputs), list(walked.outputs)) == (["x"], ["y"])
    assert {"x", "t", "c", "y"} <= set(walked.steps)
    assert all(step.value.dtype == np.float64 for step in walked.steps.values())
    (own,) = run(source, {"x": x})
    value = walked.steps["y"].value
    assert 0 < np.abs(own - value).max() <= walked.slack("y")
    assert walked.slack("y") < np.finfo(own.dtype).eps * np.abs(value).max() * KERNEL[0].size
    assert walked.steps["c"].reads == ("t",)


@pytest.mark.parametrize("name", HEADS)
def test_a_dropped_bias_is_found_behind_anything(name: str) -> None:
    head, options = HEADS[name]
    right, wrong = (behind(head, bias=bias, **options) for bias in (True, False))
    assert locate(right, right) is None
    found = locate(right, wrong, X.astype(options.get("dtype", np.float32)))
    assert found is not None
    assert (found.operator, found.operation, found.cause) == ("c", "Conv", "dropped bias of a layer")
    assert found.last_match == ("t", "t")


def norm(opset: int, **changed: Any) -> ModelProto:
    stored = {"weight": BIAS + 3, "bias": BIAS, "mean": BIAS, "var": BIAS**2 + 1} | changed
    return model([node("BatchNormalization", ["x", *stored], ["y"])], stored, opset=opset)


def convolution(pads: Any = (2, 2, 2, 2), **attributes: Any) -> ModelProto:
    if "auto_pad" not in attributes:
        attributes["pads"] = pads
    return model([node("Conv", ["x", "w", "b"], ["y"], **attributes)], {"w": KERNEL, "b": BIAS})


def linear(*, bias: bool) -> ModelProto:
    shifted = [node("Add", ["t", "b"], ["u"])] if bias else []
    return model([node("MatMul", ["x", "m"], ["t"]), *shifted, node("Relu", ["u" if bias else "t"], ["y"])], {"m": MATRIX, "b": X[0, 0, 0]})


def padded(mode: str) -> ModelProto:
    nodes = [node("Pad", ["x", "sizes"], ["t"], mode=mode), node("Relu", ["t"], ["y"])]
    return model(nodes, {"sizes": np.array([0, 0, 1, 1, 0, 0, 1, 1])})


@pytest.mark.parametrize(
    ("right", "wrong", "operation", "cause"),
    [
        (norm(9), norm(9, weight=BIAS * 0 + 1), "BatchNormalization", "missing scale: the weight of a batch norm read as 1"),
        (norm(15), norm(15, bias=BIAS * 0), "BatchNormalization", "dropped bias of a batch norm"),
        (norm(15), norm(15, mean=X.mean((0, 2, 3)), var=X.var((0, 2, 3))), "BatchNormalization", "train-mode statistics: those of the"),
        (convolution(dilations=[2, 2]), convolution((1,) * 4), "Conv", "lost dilation: 1, where the original spreads its taps"),
        (convolution(auto_pad="SAME_UPPER"), convolution(auto_pad="VALID"), "Conv", "lost padding: padding (=0) where the original has 1"),
        (convolution((0, 1, 1, 1)), convolution((1, 1, 1, 1)), "Conv", "lost padding: padding (=1) where the original has 0 + 1, 1"),
        (linear(bias=True), linear(bias=False), "Relu", "dropped bias: `b` (=8 numbers) read as 0"),
        (padded("reflect"), padded("constant"), "Pad", "lost padding mode: zeros, where the original continues its input by reflect"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_an_operator_read_wrongly_is_named(right: ModelProto, wrong: ModelProto, operation: str, cause: str) -> None:
    found = locate(right, wrong, X)
    assert found is not None
    assert found.operation == operation
    assert cause in found.cause
    assert locate(right, right, X) is None


def test_what_inputs_a_model_states() -> None:
    stated = behind([node("Identity", ["x"], ["t"])], bias=True)
    assert stated_inputs(stated) == {"x": (1, 4, 8, 8)}
    first, second, third, _ = stated.graph.input[0].type.tensor_type.shape.dim
    first.dim_param, second.dim_param = "n", "4"
    third.Clear()
    assert stated_inputs(stated) == {"x": (None, 4, None, 8)}
    stated.graph.input[0].type.tensor_type.ClearField("shape")
    assert stated_inputs(stated) == {"x": None}


def test_inputs_that_a_model_does_not_take() -> None:
    source = behind([node("Identity", ["x"], ["t"])], bias=True)
    with pytest.raises(FoldError, match=r"the model does not run on x 1x3x8x8 float32: .*; give inputs that it takes"):
        locate(source, source, X[:, :3])
    join = helper.make_function(
        "own", "Join", ["a"], ["r"], [node("ConcatFromSequence", ["a"], ["r"], axis=1)], [helper.make_opsetid("", 18)]
    )
    head = [node("SplitToSequence", ["x"], ["s"], axis=1), node("Join", ["s"], ["t"], domain="own")]
    whole = behind(head, bias=True, functions=[join], more=["own"])
    with pytest.raises(FoldError, match=r"`t` \(Join\) reads a sequence, on which it cannot be run by itself; compare models without"):
        locate(whole, whole, X)


def test_two_files_need_no_torch(tmp_path: Any) -> None:
    head, _ = HEADS["float32"]
    for bias in (True, False):
        onnx.save(behind(head, bias=bias), tmp_path / f"{bias}.onnx")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from refold.locate import locate; print(locate({str(tmp_path / 'True.onnx')!r}, {str(tmp_path / 'False.onnx')!r}).cause)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.strip() == "dropped bias of a layer"
