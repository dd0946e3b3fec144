"""Invalid and hostile ONNX files, by kinds and variants: each is wrong by the specification, or cannot be run by anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from refold.dialects.onnx._wire import encoded

BIG = 1 << 40
F, I = TensorProto.FLOAT, TensorProto.INT64  # noqa: E741
node = helper.make_node


ONLY_RUNNING_SHOWS = {
    "broadcasts-prelu",
    "graphs-if-of-a-float",
    "products-einsum-empty",
    "products-einsum-sizes",
    "products-gemm-bias",
    "products-instance-norm",
    "products-layer-norm",
    "shapes-depth-to-space",
    "shapes-pad-below-nothing",
    "shapes-pad-named-oddly",
    "shapes-reshape-1x4x9x9x2",
    "shapes-reshape-1x5",
    "shapes-resize-to-negative",
    "shapes-space-to-depth",
    "shapes-split-negative",
    "shapes-transpose-0.1.2",
    "windows-conv-of-whole-numbers",
    "windows-transposed-output-padding",
    "windows-transposed-pads-huge",
}
"""Files that shape inference has no objection to: `check` and `explain`, which run nothing, take them."""


@dataclass(frozen=True)
class Hostile:
    """One file: how it is written into a folder, under the name of the model; `runs` where only running it shows what it is."""

    name: str
    write: Callable[[Path], None]
    runs: bool = False


def model(
    nodes: Sequence[NodeProto],
    constants: dict[str, Any] | None = None,
    x: Sequence[Any] | None = (1, 4, 9, 9),
    *,
    opset: int = 17,
    elem_type: int = F,
    outputs: Sequence[str] = ("y",),
) -> ModelProto:
    """A model of one input x."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    ends = [helper.make_tensor_value_info(name, F, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "hostile", [helper.make_tensor_value_info("x", elem_type, x)], ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def floats(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def sound() -> ModelProto:
    """A convolution and a batch norm, which fold."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        node("Relu", ["n"], ["y"]),
    ]
    constants = {"w": floats(4, 4, 3, 3), "s": floats(4), "b": floats(4), "m": floats(4), "v": np.abs(floats(4)) + 1}
    return model(nodes, constants)


def hostile_files() -> Iterator[Hostile]:
    """All of them, in the same order at every call."""
    kinds = (bytes_of, tensors, external, graphs, attributes, windows, broadcasts, products, shapes, axes, sizes, runs)
    for kind in kinds:
        for name, made, *rest in kind():
            full = f"{kind.__name__.removesuffix('_of')}-{name}"
            yield Hostile(full, made if callable(made) else _writer(made), bool(rest) or full in ONLY_RUNNING_SHOWS)


def _writer(content: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())

    return write


def bytes_of() -> Iterator[tuple[Any, ...]]:
    whole = sound().SerializeToString()
    yield "empty", b""
    yield "text", b"this is no model\n" * 10
    yield "png", b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield "zip", b"PK\x03\x04" + bytes(100)
    yield "zeros", bytes(1000)
    yield "ones", b"\xff" * 1000
    yield "noise", np.random.default_rng(0).bytes(5000)
    for tenth in range(1, 10):
        yield f"truncated-{tenth}", whole[: len(whole) * tenth // 10]
    yield "short-by-one", whole[:-1]
    yield "length-beyond-the-end", b"\x3a\xff\xff\xff\xff\x0f" + whole
    yield "endless-varint", b"\x08" + b"\x80" * 100
    yield "garbage-behind", whole + b"\xff\xff\xff"
    yield "graph-as-number", b"\x38\x01"
    for depth in (120, 20_000):
        yield f"graphs-{depth}-deep", _nested(depth)


def _nested(depth: int) -> bytes:
    """A model of graphs within attributes of nodes within graphs."""
    graph = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # the graph of an attribute, the attribute of a node, the node of a graph
            graph = encoded(field << 3 | 2) + encoded(len(graph)) + graph
    return b"\x08\x08\x3a" + encoded(len(graph)) + graph


def _with_tensor(change: Callable[[TensorProto], None]) -> ModelProto:
    changed = sound()
    change(changed.graph.initializer[0])
    return changed


def tensors() -> Iterator[tuple[Any, ...]]:
    def dims(*sizes: int) -> Callable[[TensorProto], None]:
        def change(tensor: TensorProto) -> None:
            tensor.dims[:] = sizes

        return change

    for name, sizes in {
        "negative": (4, 4, -3, 3),
        "all-negative": (-4, -4, 3, 3),
        "larger": (4, 4, 3, 4),
        "smaller": (4, 4, 3, 2),
        "huge": (1 << 62, 4, 3, 3),
        "overflowing": (1 << 32, 1 << 32, 1, 1),
        "zero": (0, 4, 3, 3),
        "scalar": (),
        "flat": (144,),
    }.items():
        yield f"dims-{name}", _with_tensor(dims(*sizes))
    for length in (0, 1, 575, 577):
        yield f"bytes-{length}", _with_tensor(lambda tensor, length=length: setattr(tensor, "raw_data", bytes(length)))  # type: ignore[misc]
    for kind in (0, 2, 7, 8, 11, 99, -1):
        yield f"type-{kind}", _with_tensor(lambda tensor, kind=kind: setattr(tensor, "data_type", kind))  # type: ignore[misc]

    def few_floats(tensor: TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([1.0] * 5)

    def both(tensor: TensorProto) -> None:
        tensor.float_data.extend([1.0] * 144)

    yield "few-floats", _with_tensor(few_floats)
    yield "two-kinds-of-data", _with_tensor(both)
    yield "nameless", _with_tensor(lambda tensor: setattr(tensor, "name", ""))
    for number in (np.nan, np.inf):
        spoilt = np.full((4, 4, 3, 3), number, np.float32).tobytes()
        yield f"weights-{number}", _with_tensor(lambda tensor, spoilt=spoilt: setattr(tensor, "raw_data", spoilt))  # type: ignore[misc]


def external() -> Iterator[tuple[Any, ...]]:
    def written(
        entries: dict[str, str], data: bytes | None = bytes(576), prepare: Callable[[Path], None] = lambda path: None
    ) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            changed = sound()
            tensor = changed.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
            if data is not None:
                path.with_name("w.bin").write_bytes(data)
            prepare(path)
            path.write_bytes(changed.SerializeToString())

        return write

    yield "absent", written({"location": "nothing.bin"})
    yield "nowhere", written({})
    yield "empty-name", written({"location": ""})
    yield "outside", written({"location": "../w.bin"})
    yield "far-outside", written({"location": "../../../../../../etc/passwd"})
    yield "absolute", written({"location": "/etc/passwd"})
    yield "folder", written({"location": "."})
    yield "inner-folder", written({"location": "inner"}, prepare=lambda path: path.with_name("inner").mkdir())
    yield "zero-byte-name", written({"location": "w\0.bin"})
    yield "short", written({"location": "w.bin"}, bytes(575))
    yield "empty-file", written({"location": "w.bin"}, b"")
    yield "offset-beyond", written({"location": "w.bin", "offset": "577", "length": "576"})
    yield "offset-negative", written({"location": "w.bin", "offset": "-4", "length": "576"})
    yield "offset-huge", written({"location": "w.bin", "offset": str(1 << 70), "length": "576"})
    yield "offset-text", written({"location": "w.bin", "offset": "here"})
    yield "length-beyond", written({"location": "w.bin", "length": "577"})
    yield "length-short", written({"location": "w.bin", "length": "572"})
    yield "length-negative", written({"location": "w.bin", "length": "-576"})
    yield "length-text", written({"location": "w.bin", "length": "all"})
    if os.name == "posix":
        yield "link-outside", written({"location": "link"}, prepare=lambda path: path.with_name("link").symlink_to("/etc/passwd"))
        yield "link-in-a-circle", written({"location": "link"}, prepare=lambda path: path.with_name("link").symlink_to("link"))
        yield "pipe", written({"location": "pipe"}, prepare=lambda path: os.mkfifo(path.with_name("pipe")))


def _changed(change: Callable[[ModelProto], Any]) -> ModelProto:
    changed = sound()
    change(changed)
    return changed


def graphs() -> Iterator[tuple[Any, ...]]:
    relu = [node("Relu", ["x"], ["y"])]
    yield "cycle-of-one", model([node("Add", ["x", "y"], ["y"])])
    yield "cycle-of-two", model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])])
    yield "out-of-order", model([node("Relu", ["a"], ["y"]), node("Relu", ["x"], ["a"])])
    yield "dangling-input", model([node("Add", ["x", "nowhere"], ["y"])])
    yield "dangling-output", model([node("Relu", ["x"], ["z"])])
    yield "dangling-second-output", model(relu, outputs=("y", "z"))
    yield "two-makers", model([node("Relu", ["x"], ["y"]), node("Sigmoid", ["x"], ["y"])])
    yield "maker-of-an-input", model([node("Relu", ["x"], ["x"]), node("Relu", ["x"], ["y"])])
    yield "maker-of-a-constant", model([node("Relu", ["x"], ["w"]), node("Add", ["x", "w"], ["y"])], {"w": floats(1)})
    yield "two-inputs-of-a-name", _changed(lambda one: one.graph.input.append(one.graph.input[0]))
    yield "two-constants-of-a-name", _changed(lambda one: one.graph.initializer.append(one.graph.initializer[0]))
    yield "no-graph", _changed(lambda one: one.ClearField("graph"))
    yield "no-output", _changed(lambda one: one.graph.ClearField("output"))
    yield "nameless-graph", _changed(lambda one: one.graph.ClearField("name"))
    yield "nameless-input", _changed(lambda one: one.graph.input[0].ClearField("name"))
    yield "no-opset", _changed(lambda one: one.ClearField("opset_import"))
    for version in (0, -1, 99, 1 << 40):
        yield f"opset-{version}", _changed(lambda one, version=version: setattr(one.opset_import[0], "version", version))  # type: ignore[misc]
    yield "two-opsets", _changed(lambda one: one.opset_import.append(helper.make_opsetid("", 9)))
    for version in (0, -3, 99):
        yield f"ir-{version}", _changed(lambda one, version=version: setattr(one, "ir_version", version))  # type: ignore[misc]
    yield "unknown-operator", model([node("Convolve", ["x"], ["y"])])
    yield "nameless-operator", model([node("", ["x"], ["y"])])
    yield "operator-of-a-later-opset", model([node("Gelu", ["x"], ["y"])])
    yield "operator-of-an-older-opset", model([node("Upsample", ["x", "s"], ["y"])], {"s": floats(4)})
    yield "unknown-domain", model([node("Relu", ["x"], ["y"], domain="nobody.knows")])
    for count in (0, 1, 4):
        yield f"conv-of-{count}", model([node("Conv", ["x", "w", "b", "b"][:count], ["y"])], {"w": floats(4, 4, 3, 3), "b": floats(4)})
    yield "add-of-one", model([node("Add", ["x"], ["y"])])
    yield "add-of-three", model([node("Add", ["x", "x", "x"], ["y"])])
    yield "add-of-nothing", model([node("Add", ["x", ""], ["y"])])
    yield "relu-of-two-outputs", model([node("Relu", ["x"], ["y", "z"])])
    yield "no-outputs", model([node("Relu", ["x"], []), *relu])
    for kind in (0, 55, -1):
        yield f"input-of-type-{kind}", _changed(lambda one, kind=kind: setattr(one.graph.input[0].type.tensor_type, "elem_type", kind))  # type: ignore[misc]
    yield "input-without-type", _changed(lambda one: one.graph.input[0].ClearField("type"))
    for size in (-2, -(1 << 40)):
        yield (
            f"input-of-size-{size}",
            _changed(lambda one, size=size: setattr(one.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", size)),  # type: ignore[misc]
        )
    branch = helper.make_graph([node("Relu", ["x"], ["t"])], "then", [], [helper.make_tensor_value_info("t", F, None)])
    on = {"on": np.array(True)}
    yield "if-with-one-branch", model([node("If", ["on"], ["y"], then_branch=branch)], on)
    yield "if-of-a-float", model([node("If", ["f"], ["y"], then_branch=branch, else_branch=branch)], {"f": np.float32(1)})
    bare = helper.make_graph([], "bare", [], [])
    yield "if-without-results", model([node("If", ["on"], ["y"], then_branch=bare, else_branch=bare)], on)
    yield "loop-without-results", model([node("Loop", ["n", "", "x"], ["y"], body=bare)], {"n": np.array(3)})
    lost = helper.make_graph([node("Relu", ["nowhere"], ["t"])], "lost", [], [helper.make_tensor_value_info("t", F, None)])
    yield "branch-that-dangles", model([node("If", ["on"], ["y"], then_branch=lost, else_branch=branch)], on)
    itself = helper.make_function("own", "f", ["a"], ["b"], [node("f", ["a"], ["b"], domain="own")], [helper.make_opsetid("own", 1)])
    calls = model([node("f", ["x"], ["y"], domain="own")])
    calls.opset_import.append(helper.make_opsetid("own", 1))
    calls.functions.append(itself)
    yield "function-that-calls-itself", calls


def attributes() -> Iterator[tuple[Any, ...]]:
    weights = {"w": floats(4, 4, 3, 3)}
    for name, value in {
        "strides": 1.5,
        "pads": "1111",
        "dilations": 2,
        "group": 1.0,
        "kernel_shape": [3.0, 3.0],
        "auto_pad": 1,
        "unknown": 3,
        "stride": [1, 1],
    }.items():
        yield f"conv-{name}", model([node("Conv", ["x", "w"], ["y"], **{name: value})], weights)  # type: ignore[arg-type]
    double = node("Conv", ["x", "w"], ["y"], group=1)
    double.attribute.append(helper.make_attribute("group", 2))
    yield "twice", model([double], weights)
    nameless = node("Relu", ["x"], ["y"])
    nameless.attribute.append(helper.make_attribute("a", 1))
    nameless.attribute[0].ClearField("name")
    yield "nameless", model([nameless])
    untyped = node("Conv", ["x", "w"], ["y"], group=1)
    untyped.attribute[0].ClearField("type")
    yield "untyped", model([untyped], weights)
    yield "missing-perm-axis", model([node("Concat", ["x", "x"], ["y"])])
    yield "missing-to", model([node("Cast", ["x"], ["y"])])
    yield "missing-kernel", model([node("MaxPool", ["x"], ["y"])])
    for kind in (0, 77, -1):
        yield f"cast-to-{kind}", model([node("Cast", ["x"], ["y"], to=kind)])
    yield "constant-without-value", model([node("Constant", [], ["c"]), node("Add", ["x", "c"], ["y"])])
    yield "constant-with-two-values", model([node("Constant", [], ["c"], value_float=1.0, value_int=1), node("Add", ["x", "c"], ["y"])])


def windows() -> Iterator[tuple[Any, ...]]:
    wrong: dict[str, dict[str, Any]] = {
        "stride-0": {"strides": [0, 0]},
        "stride-0-once": {"strides": [1, 0]},
        "stride-negative": {"strides": [-1, 1]},
        "strides-of-1": {"strides": [1]},
        "strides-of-3": {"strides": [1, 1, 1]},
        "dilation-0": {"dilations": [0, 1]},
        "dilation-negative": {"dilations": [1, -2]},
        "dilations-of-1": {"dilations": [2]},
        "dilation-huge": {"dilations": [BIG, BIG]},
        "pads-of-1": {"pads": [1]},
        "pads-of-2": {"pads": [1, 1]},
        "pads-of-3": {"pads": [1, 1, 1]},
        "pads-of-5": {"pads": [1] * 5},
        "pads-of-8": {"pads": [1] * 8},
        "pads-huge": {"pads": [BIG] * 4},
        "pad-named-oddly": {"auto_pad": "SOME"},
        "kernel-of-1": {"kernel_shape": [3]},
        "kernel-of-3": {"kernel_shape": [3, 3, 3]},
        "kernel-0": {"kernel_shape": [0, 3]},
        "kernel-negative": {"kernel_shape": [-3, 3]},
        "kernel-too-large": {"kernel_shape": [11, 3]},
    }
    for name, change in wrong.items():
        yield f"conv-{name}", model([node("Conv", ["x", "w"], ["y"], **change)], {"w": floats(4, 4, 3, 3)})
        if name not in ("dilation-huge", "kernel-too-large"):
            yield f"transposed-{name}", model([node("ConvTranspose", ["x", "w"], ["y"], **change)], {"w": floats(4, 4, 3, 3)})
        yield f"average-{name}", model([node("AveragePool", ["x"], ["y"], **{"kernel_shape": [3, 3], **change})], opset=19)
        yield f"max-{name}", model([node("MaxPool", ["x"], ["y"], **{"kernel_shape": [3, 3], **change})])
    for group, weight in (
        (0, (4, 4, 3, 3)),
        (-1, (4, 4, 3, 3)),
        (3, (4, 4, 3, 3)),
        (2, (4, 4, 3, 3)),
        (4, (6, 1, 3, 3)),
        (BIG, (4, 4, 3, 3)),
    ):
        yield f"conv-group-{group}", model([node("Conv", ["x", "w"], ["y"], group=group)], {"w": floats(*weight)})
    for shape in ((4, 3, 3, 3), (4, 5, 3, 3), (4, 4, 3), (4, 4), (4,), (4, 4, 3, 3, 3), (4, 0, 3, 3), (4, 4, 10, 10)):
        yield f"conv-weight-{'x'.join(map(str, shape))}", model([node("Conv", ["x", "w"], ["y"])], {"w": floats(*shape)})
    for shape in ((3,), (5,), (4, 1), (1,)):
        yield (
            f"conv-bias-{'x'.join(map(str, shape))}",
            model([node("Conv", ["x", "w", "b"], ["y"])], {"w": floats(4, 4, 3, 3), "b": floats(*shape)}),
        )
    yield "conv-of-a-matrix", model([node("Conv", ["x", "w"], ["y"])], {"w": floats(4, 4, 3, 3)}, (4, 4))
    yield "conv-of-whole-numbers", model([node("Conv", ["x", "w"], ["y"])], {"w": np.ones((4, 4, 3, 3), np.int64)})
    yield "transposed-weight", model([node("ConvTranspose", ["x", "w"], ["y"])], {"w": floats(3, 4, 3, 3)})
    yield "transposed-output-padding", model([node("ConvTranspose", ["x", "w"], ["y"], output_padding=[5, 5])], {"w": floats(4, 4, 3, 3)})


def broadcasts() -> Iterator[tuple[Any, ...]]:
    for operator in ("Add", "Sub", "Mul", "Div", "Pow"):
        for shape in ((5,), (4, 9), (2, 3, 9, 9), (3, 1, 1)):
            yield f"{operator}-{'x'.join(map(str, shape))}", model([node(operator, ["x", "c"], ["y"])], {"c": floats(*shape)})
    yield "sum", model([node("Sum", ["x", "x", "c"], ["y"])], {"c": floats(7)})
    yield "max", model([node("Max", ["x", "c"], ["y"])], {"c": floats(7)})
    yield "prelu", model([node("PRelu", ["x", "c"], ["y"])], {"c": floats(7)})
    yield "where", model([node("Where", ["on", "x", "c"], ["y"])], {"on": np.array(True), "c": floats(5)})
    yield "expand", model([node("Expand", ["x", "s"], ["y"])], {"s": ints(1, 3, 9, 9)})
    for operator, dtype in (("Add", np.int64), ("Mul", np.float64), ("Sub", np.float16), ("Div", np.bool_)):
        yield f"{operator}-of-{np.dtype(dtype).name}", model([node(operator, ["x", "c"], ["y"])], {"c": np.ones(1, dtype)})
    two = [node("Conv", ["x", "a"], ["p"]), node("Conv", ["x", "b"], ["q"]), node("Add", ["p", "q"], ["y"])]
    yield "branches-of-different-sizes", model(two, {"a": floats(4, 4, 3, 3), "b": floats(4, 4, 1, 1)})
    yield "branches-of-different-channels", model(two, {"a": floats(4, 4, 3, 3), "b": floats(5, 4, 3, 3)})


def products() -> Iterator[tuple[Any, ...]]:
    for shape in ((3, 5), (5,), (10, 4), (2, 2, 9, 4)):
        yield f"matmul-{'x'.join(map(str, shape))}", model([node("MatMul", ["x", "w"], ["y"])], {"w": floats(*shape)})
    for name, weight, bias, transposed in (
        ("inner", (5, 3), (3,), 0),
        ("transposed", (5, 3), (5,), 1),
        ("bias", (4, 3), (4,), 0),
        ("cube", (4, 3, 2), (2,), 0),
    ):
        yield (
            f"gemm-{name}",
            model([node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)], {"w": floats(*weight), "b": floats(*bias)}, (2, 4)),
        )
    yield "gemm-of-an-image", model([node("Gemm", ["x", "w"], ["y"])], {"w": floats(4, 3)})
    for name, equation in (
        ("letters", "bchw,cd->bdhz"),
        ("rank", "bch,cd->bdh"),
        ("sizes", "bchw,dc->bdhw"),
        ("empty", ""),
        ("arrows", "bchw->b->c"),
    ):
        yield f"einsum-{name}", model([node("Einsum", ["x", "w"], ["y"], equation=equation)], {"w": floats(4, 5)})
    for position, part in enumerate(("scale", "bias", "mean", "var")):
        for shape in ((3,), (5,), (4, 1)):
            constants = {name: floats(4) for name in ("scale", "bias", "mean", "var")} | {part: floats(*shape)}
            yield (
                f"norm-{part}-{position}-{'x'.join(map(str, shape))}",
                model([node("BatchNormalization", ["x", *constants], ["y"])], constants),
            )
    yield "instance-norm", model([node("InstanceNormalization", ["x", "s", "b"], ["y"])], {"s": floats(3), "b": floats(3)})
    yield "layer-norm", model([node("LayerNormalization", ["x", "s"], ["y"])], {"s": floats(7)})


def shapes() -> Iterator[tuple[Any, ...]]:
    for numbers in ([1, 5], [-1, -1], [7, -1], [0, 0, 0, 0, 0], [-2, 4], [1, 4, 9, 9, 2], [BIG, BIG]):
        yield f"reshape-{'x'.join(map(str, numbers))}", model([node("Reshape", ["x", "s"], ["y"])], {"s": ints(*numbers)})
    yield "reshape-of-floats", model([node("Reshape", ["x", "s"], ["y"])], {"s": floats(2)})
    for perm in ([0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 4], [0, 1, 2, -5], [0, 1, 2, 3, 4]):
        yield f"transpose-{'.'.join(map(str, perm))}", model([node("Transpose", ["x"], ["y"], perm=perm)])
    for shape in ((1, 4, 9, 8), (1, 4, 9), (2, 4, 9, 9)):
        yield f"concat-{'x'.join(map(str, shape))}", model([node("Concat", ["x", "c"], ["y"], axis=1)], {"c": floats(*shape)})
    yield "squeeze", model([node("Squeeze", ["x", "a"], ["y"])], {"a": ints(1)})
    yield "unsqueeze-twice", model([node("Unsqueeze", ["x", "a"], ["y"])], {"a": ints(1, 1)})
    yield "split", model([node("Split", ["x", "s"], ["y", "z"], axis=1)], {"s": ints(1, 4)})
    yield "split-negative", model([node("Split", ["x", "s"], ["y", "z"], axis=1)], {"s": ints(-1, 5)})
    yield (
        "slice-of-step-0",
        model([node("Slice", ["x", "b", "e", "a", "s"], ["y"])], {"b": ints(0), "e": ints(2), "a": ints(1), "s": ints(0)}),
    )
    yield "slice-of-two-ends", model([node("Slice", ["x", "b", "e", "a"], ["y"])], {"b": ints(0), "e": ints(2, 3), "a": ints(1)})
    for numbers in ([1, 1], [0] * 7, [0] * 9):
        yield f"pad-of-{len(numbers)}", model([node("Pad", ["x", "p"], ["y"])], {"p": ints(*numbers)})
    yield "pad-below-nothing", model([node("Pad", ["x", "p"], ["y"])], {"p": ints(0, 0, -5, 0, 0, 0, -6, 0)})
    yield "pad-named-oddly", model([node("Pad", ["x", "p"], ["y"], mode="mirror")], {"p": ints(*[0] * 8)})
    yield "tile-of-3", model([node("Tile", ["x", "r"], ["y"])], {"r": ints(1, 1, 2)})
    yield "depth-to-space", model([node("DepthToSpace", ["x"], ["y"], blocksize=3)])
    yield "depth-to-space-0", model([node("DepthToSpace", ["x"], ["y"], blocksize=0)])
    yield "space-to-depth", model([node("SpaceToDepth", ["x"], ["y"], blocksize=2)])
    yield "resize-of-3", model([node("Resize", ["x", "", "s"], ["y"])], {"s": np.ones(3, np.float32)})
    yield "resize-of-nothing", model([node("Resize", ["x"], ["y"])])
    yield "resize-to-negative", model([node("Resize", ["x", "", "", "s"], ["y"])], {"s": ints(1, 4, -9, 9)})


def axes() -> Iterator[tuple[Any, ...]]:
    for axis in (4, -5, BIG):
        yield f"concat-{axis}", model([node("Concat", ["x", "x"], ["y"], axis=axis)])
        yield f"softmax-{axis}", model([node("Softmax", ["x"], ["y"], axis=axis)])
        yield f"gather-{axis}", model([node("Gather", ["x", "i"], ["y"], axis=axis)], {"i": ints(0)})
        yield f"split-{axis}", model([node("Split", ["x"], ["y", "z"], axis=axis)])
        yield f"mean-{axis}", model([node("ReduceMean", ["x"], ["y"], axes=[axis])])
        yield f"squeeze-{axis}", model([node("Squeeze", ["x", "a"], ["y"])], {"a": ints(axis)})
        yield f"unsqueeze-{axis}", model([node("Unsqueeze", ["x", "a"], ["y"])], {"a": ints(axis + 1 if axis > 0 else axis - 1)})
        yield f"slice-{axis}", model([node("Slice", ["x", "b", "e", "a"], ["y"])], {"b": ints(0), "e": ints(2), "a": ints(axis)})
        yield f"flatten-{axis}", model([node("Flatten", ["x"], ["y"], axis=axis + 1 if axis > 0 else axis)])


def sizes() -> Iterator[tuple[Any, ...]]:
    add = node("Add", ["x", "c"], ["y"])
    big = {"s": ints(BIG)}
    yield "constant-of-shape", model([node("ConstantOfShape", ["s"], ["c"]), add], big, (1, 4, 9, BIG))
    yield "constant-of-shape-alone", model([node("ConstantOfShape", ["s"], ["c"]), add], {"s": ints(BIG)})
    yield "constant-of-shape-of-many", model([node("ConstantOfShape", ["s"], ["c"]), add], {"s": ints(1 << 20, 1 << 20, 1, 1)})
    yield "constant-of-shape-negative", model([node("ConstantOfShape", ["s"], ["c"]), add], {"s": ints(-4)})
    yield (
        "constant-of-shape-unread",
        model([node("ConstantOfShape", ["s"], ["c"]), node("ReduceMax", ["c"], ["m"], keepdims=0), node("Add", ["x", "m"], ["y"])], big),
    )
    yield (
        "expand",
        model(
            [node("Expand", ["one", "s"], ["c"]), node("ReduceMax", ["c"], ["m"], keepdims=0), node("Add", ["x", "m"], ["y"])],
            {**big, "one": floats(1)},
        ),
    )
    yield (
        "tile",
        model(
            [node("Tile", ["one", "s"], ["c"]), node("ReduceMax", ["c"], ["m"], keepdims=0), node("Add", ["x", "m"], ["y"])],
            {**big, "one": floats(1)},
        ),
    )
    ends = {"a": np.array(0), "b": np.array(BIG), "d": np.array(1)}
    ranged = [
        node("Range", ["a", "b", "d"], ["r"]),
        node("ReduceMax", ["r"], ["m"], keepdims=0),
        node("Cast", ["m"], ["f"], to=F),
        node("Add", ["x", "f"], ["y"]),
    ]
    yield "range", model(ranged, ends)
    yield "range-of-step-0", model(ranged, {**ends, "d": np.array(0)})
    yield (
        "one-hot",
        model(
            [node("OneHot", ["i", "n", "v"], ["c"]), node("ReduceMax", ["c"], ["m"], keepdims=0), node("Add", ["x", "m"], ["y"])],
            {"i": ints(1), "n": np.array(BIG), "v": floats(2)},
        ),
    )
    yield "pad", model([node("Pad", ["x", "p"], ["y"])], {"p": ints(0, 0, BIG, 0, 0, 0, 0, 0)})
    yield "resize", model([node("Resize", ["x", "", "s"], ["y"])], {"s": np.array([1, 1, 1e6, 1e6], np.float32)})
    yield "resize-to", model([node("Resize", ["x", "", "", "s"], ["y"])], {"s": ints(1, 4, BIG, 9)})
    yield "expand-x", model([node("Expand", ["x", "s"], ["y"])], {"s": ints(BIG, 1, 1, 1)})
    yield "tile-x", model([node("Tile", ["x", "s"], ["y"])], {"s": ints(1 << 20, 1 << 20, 1, 1)})
    for shape in ((1, BIG, 3, 3), (BIG,), (1 << 20, 1 << 20, 4), (1 << 62, 1 << 62)):
        yield f"input-{'x'.join(map(str, shape))}", model([node("Relu", ["x"], ["y"])], {}, shape)
    yield (
        "stacked-padding",
        model([node("Conv", ["x", "w"], ["a"], pads=[1 << 31] * 4), node("Conv", ["a", "w"], ["y"])], {"w": floats(4, 4, 3, 3)}),
    )
    yield "transposed-stride", model([node("ConvTranspose", ["x", "w"], ["y"], strides=[1 << 30, 1 << 30])], {"w": floats(4, 4, 3, 3)})
    doubling = [
        node("Concat", ["x" if number == 0 else f"v{number - 1}"] * 2, [f"v{number}" if number < 63 else "y"], axis=0)
        for number in range(64)
    ]
    yield "doubling", model(doubling)


def _loop(body: GraphProto, **ends: Any) -> ModelProto:
    return model([node("Loop", ["n", "", "x"], ["y"], body=body)], {"n": np.array(BIG)}, **ends)


def runs() -> Iterator[tuple[Any, ...]]:
    names = [helper.make_tensor_value_info("i", I, []), helper.make_tensor_value_info("on", TensorProto.BOOL, [])]
    still, a, b = (
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (("t", TensorProto.BOOL, []), ("a", F, None), ("b", F, None))
    )
    again = node("Identity", ["on"], ["t"])
    yield "endless", _loop(helper.make_graph([again, node("Relu", ["a"], ["b"])], "body", [*names, a], [still, b])), True
    yield "growing", _loop(helper.make_graph([again, node("Concat", ["a", "a"], ["b"], axis=0)], "body", [*names, a], [still, b])), True
    constants = {name: np.ones(4, np.float32) for name in ("scale", "bias", "mean", "var")}
    yield "lethal", model([node("BatchNormalization", ["x", *constants], ["y", "", "", "", ""])], constants, opset=9), True
    yield "gather-beyond", model([node("Gather", ["x", "i"], ["y"], axis=1)], {"i": ints(7)}), True
    yield (
        "reshape-at-run-time",
        model(
            [
                node("ReduceSum", ["x"], ["t"], keepdims=0),
                node("Cast", ["t"], ["u"], to=I),
                node("Mul", ["u", "z"], ["v"]),
                node("Add", ["v", "s"], ["w"]),
                node("Reshape", ["x", "w"], ["y"]),
            ],
            {"z": ints(0), "s": ints(1, 5)},
        ),
        True,
    )
