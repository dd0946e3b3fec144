"""All values of an ONNX model on given inputs, and what they become where operators of it are read otherwise.

Each node runs by itself in float64, in the reference evaluator; what that does not know or works out item by item, what holds graphs and
what is a function of the model's own runs whole in ONNX Runtime, in the dtypes that it has. How far the model itself is off at each value
is read off ONNX Runtime's run of the whole, a few values at a time.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import ml_dtypes
import numpy as np
from onnx import ModelProto, NodeProto, TensorShapeProto, ValueInfoProto, helper

from refold.dialects.onnx._constants import STANDARD, Constants, evaluate, widened
from refold.dialects.onnx._load import Source, graphs_of, load
from refold.dialects.onnx._operators import EPSILON
from refold.dialects.onnx._run import SLOW, Feeds, Session
from refold.dialects.onnx._scopes import make_scopes
from refold.dialects.onnx._tensors import Array
from refold.errors import FoldError
from refold.geometry import same_padding
from refold.walk import Change, Step, own_error, told_of_constant

TOGETHER = 1 << 28
"""Bytes of values that are asked of one run of the whole model."""
LAYERS = {"Conv": "convolution", "ConvTranspose": "transposed_convolution", "Gemm": "linear"}
"""Operators with a kernel as their second input and, if any, a bias as their third."""
CONVENTIONS: dict[str, Literal["upper", "lower"]] = {"SAME_UPPER": "upper", "SAME_LOWER": "lower"}
OTHER = "refold.otherwise."
"""What the inputs are called whose numbers stand in the place of a node's own."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules that a node stands in."""


def stated_inputs(model: Any) -> dict[str, tuple[int | None, ...] | None]:
    """The inputs that a model needs, in order, and their sizes: None for one that is free, or for all where none are stated."""
    graph = load(model).skeleton.graph
    stored = {tensor.name for tensor in graph.initializer}
    found: dict[str, tuple[int | None, ...] | None] = {}
    for value in graph.input:
        if value.name not in stored:
            kind = value.type.tensor_type
            found[value.name] = tuple(_stated(one) for one in kind.shape.dim) if kind.HasField("shape") else None
    return found


def walk(model: Any, feeds: Feeds) -> Walk:
    """Run a model on arrays by input name.

    Raises `FoldError` where it does not take them, or a node of it cannot be run by itself.
    """
    return Walk(load(model), feeds)


class Walk:
    """A model run once, as `refold.walk` has it."""

    def __init__(self, source: Source, feeds: Feeds) -> None:
        self._source = source
        self._scope, _ = make_scopes(source.skeleton)
        self._constants = Constants(source, self._scope)
        self._within: dict[int, set[str]] = {}
        for node, inner in self._scope.within:
            self._within.setdefault(id(node), set()).update(inner.captured())
        self.inputs = {value.name: feeds[value.name] for value in source.skeleton.graph.input if value.name in feeds}
        Session(source.skeleton, source.tensors, source.files).run(feeds)
        self._dtypes = {name: array.dtype for name, array in feeds.items()}
        self._nodes: dict[str, NodeProto] = {}
        self._values: dict[str, Any] = {name: widened(array) for name, array in feeds.items()}
        for node in source.skeleton.graph.node:
            names = [name for name in node.output if name]
            self._nodes.update(dict.fromkeys(names, node))
            if not all(self._constants.has(name, self._scope) for name in names):
                self._values.update(self._results(node, self._read))
        self.outputs = [output.name for output in source.skeleton.graph.output]
        floats = {name: value for name, value in self._values.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"}
        self.steps = {name: self._step(name, floats) for name in floats}
        self._slacks: dict[str, float] = {}

    def slack(self, name: str) -> float:
        """How far the model is off at a value in its own dtype, one rounding of the value's scale granted."""
        if not self._slacks:
            self._slacks = dict(self._measured())
        return self._slacks[name]

    def weights(self, name: str) -> Iterator[Array]:
        """The kernels and matrices that an operator reads, as they are stored."""
        for one in self._nodes[name].input if name in self._nodes else ():
            if one and self._constants.has(one, self._scope):
                held = self._constants.value(one, self._scope)
                if held.ndim > 1 and widened(held).dtype.kind == "f":
                    yield held

    def again(self, region: Collection[str], changes: Mapping[str, Change]) -> dict[str, Array]:
        """The values of a region that come out otherwise; where a node does not run, nor do those that read it."""
        values: dict[str, Any] = {}
        lost: set[str] = set()

        def read(name: str) -> Any:
            return values[name] if name in values else self._read(name)

        for node in self._with_sizes(region):
            names = [name for name in node.output if name]
            reads = self._reads_of(node)
            changed = next((name for name in names if name in changes), None)
            if changed is None and not any(name in values or name in lost for name in reads):
                continue
            if any(name in lost for name in reads):
                lost.update(names)
                continue
            try:
                values.update(self._results(node, read) if changed is None else self._changed(node, read, changed, changes[changed]))
            except FoldError:
                lost.update(names)
        return {name: value for name, value in values.items() if name in self.steps}

    def _with_sizes(self, region: Collection[str]) -> list[NodeProto]:
        """The nodes of a region, and those between them that make no value of their own: sizes, sequences."""
        inside: set[str] = set()
        found = []
        for node in self._source.skeleton.graph.node:
            names = [name for name in node.output if name]
            passes = not any(name in self.steps for name in names) and any(name in inside for name in self._reads_of(node))
            if passes or any(name in region for name in names):
                inside.update(names)
                found.append(node)
        return found

    def _reads_of(self, node: NodeProto) -> list[str]:
        """What a node reads, what the graphs in it read from outside included."""
        return [*(name for name in node.input if name), *sorted(self._within.get(id(node), ()))]

    def _read(self, name: str) -> Any:
        """A value, or a constant in float64. Graphs are in order, so that what is read was worked out."""
        return self._values[name] if name in self._values else widened(self._constants.value(name, self._scope))

    def _results(self, node: NodeProto, read: Callable[[str], Any]) -> dict[str, Any]:
        """What a node gives."""
        feeds = {name: read(name) for name in self._reads_of(node)}
        names = [name for name in node.output if name]
        if node.domain in STANDARD and node.op_type not in SLOW and not any(True for _ in graphs_of(node)):
            try:
                results = evaluate([node], feeds, names, self._source.skeleton)
                return {name: widened(_array(result)) for name, result in zip(names, results, strict=True)}
            except Exception:  # the evaluator's operators raise what they like
                pass
        return self._results_in_runtime(node, feeds, names)

    def _results_in_runtime(self, node: NodeProto, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        if not all(isinstance(one, np.ndarray) for one in feeds.values()):
            raise FoldError(
                f"`{names[0]}` ({node.op_type}) reads a sequence, on which it cannot be run by itself; compare models without sequences"
            )
        own = {name: array.astype(self._dtype(name)) if array.dtype.kind == "f" else array for name, array in feeds.items()}
        kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in own.items()}
        model = self._source.skeleton
        graph = helper.make_graph(
            [node],
            "node",
            [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in own.items()],
            [ValueInfoProto(name=name) for name in names],
        )
        alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(4, model.ir_version), functions=model.functions)
        results = dict(zip(names, Session(alone, self._source.tensors).run(own), strict=True))
        self._dtypes.update({name: result.dtype for name, result in results.items() if isinstance(result, np.ndarray)})
        return {name: widened(result) for name, result in results.items()}

    def _dtype(self, name: str) -> np.dtype[Any]:
        """The dtype that a floating point value has in the model."""
        typed = self._scope.typed(name)
        if name in self._dtypes or typed is None:
            return self._dtypes.get(name, np.dtype(np.float32))
        return np.dtype(helper.tensor_dtype_to_np_dtype(typed.elem_type))

    def _measured(self) -> Iterator[tuple[str, float]]:
        """The slack of every step."""
        inputs = [name for name in self.steps if name in self.inputs]
        for name in inputs:
            yield name, own_error(self.steps[name].value, self.inputs[name], _eps(self.inputs[name]))
        whole = ModelProto()
        whole.CopyFrom(self._source.skeleton)
        waiting = [name for name in self.steps if name not in inputs]
        del whole.graph.output[:]
        whole.graph.output.extend(ValueInfoProto(name=name) for name in waiting)
        session = Session(whole, self._source.tensors) if waiting else None
        while session is not None and waiting:
            size, session.names = 0, []
            while waiting and (not session.names or size + self.steps[waiting[0]].value.nbytes <= TOGETHER):
                size += self.steps[waiting[0]].value.nbytes
                session.names.append(waiting.pop(0))
            for name, own in zip(session.names, session.run(self.inputs), strict=True):
                yield name, own_error(self.steps[name].value, own, _eps(own))

    def _step(self, name: str, floats: Collection[str]) -> Step:
        node = self._nodes.get(name)
        if node is None:
            return Step(name, "input", "input", "", (), self._values[name])
        kind, options = self._described(node, floats)
        return Step(name, node.op_type, kind, _folder(node), self._made_from(node, floats), self._values[name], options)

    def _made_from(self, node: NodeProto, floats: Collection[str]) -> tuple[str, ...]:
        """The values that a node is made from, through sizes and sequences."""
        found: dict[str, None] = {}
        seen: set[str] = set()
        queue = self._reads_of(node)
        while queue:
            name = queue.pop(0)
            if name in floats:
                found[name] = None
            elif name not in seen and name in self._nodes and name in self._values:
                seen.add(name)
                queue.extend(self._reads_of(self._nodes[name]))
        return tuple(found)

    def _described(self, node: NodeProto, floats: Collection[str]) -> tuple[str, dict[str, Any]]:
        """The kind of a node and its options, in the words of `refold.walk`."""
        operator = node.op_type
        if node.domain not in STANDARD:
            return operator.lower(), {}
        attributes = _attributes(node)
        constant = [name for name in node.input if name and self._constants.has(name, self._scope)]
        kept = [name for name in node.input if name in floats]
        bias = {"bias": len(node.input) > 2 and bool(node.input[2])}
        if operator == "Conv":
            return "convolution", {**self._window(node, attributes), "groups": attributes.get("group", 1), **bias}
        if operator in LAYERS:
            return LAYERS[operator], bias
        if operator == "MatMul" and len(constant) == 1:
            return "linear", {"bias": False}
        if operator == "BatchNormalization":
            return "batch_norm", {"eps": attributes.get("epsilon", EPSILON), "weight": True, "bias": True}
        if operator == "Pad":
            return "pad", {"mode": attributes.get("mode", b"constant").decode()}
        if operator in ("Mul", "Div", "Add", "Sub") and len(constant) == 1 and len(kept) == 1:
            held = self._constants.value(constant[0], self._scope)
            source = ", ".join(self._constants.sources(constant[0], self._scope))
            told = told_of_constant(source, held.shape, float(held.flat[0]) if held.size else 0.0)
            return "scale" if operator in ("Mul", "Div") else "shift", {"constant": told, "kept": kept[0]}
        if operator in ("Add", "Sub", "Sum") and len(kept) == len(node.input):
            return "add", {}
        return operator.lower(), {}

    def _window(self, node: NodeProto, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Stride, dilation and padding of a convolution, a number or a pair an axis."""
        kernel = self._read(node.input[1]).shape[2:]
        ones = [1] * len(kernel)
        stride, dilation = tuple(attributes.get("strides", ones)), tuple(attributes.get("dilations", ones))
        pads = attributes.get("pads", [0] * 2 * len(kernel))
        padding = tuple(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
        if (automatic := attributes.get("auto_pad", b"NOTSET").decode()) in CONVENTIONS:
            sizes = self._read(node.input[0]).shape[2:]
            padding = same_padding(sizes, kernel, stride, dilation, CONVENTIONS[automatic])
        return {"stride": stride, "dilation": dilation, "padding": padding}

    def _changed(self, node: NodeProto, read: Callable[[str], Any], name: str, change: Change) -> dict[str, Any]:
        """What a node gives where it is read otherwise."""
        if isinstance(change, str):
            return {name: read(change)}
        other = NodeProto()
        other.CopyFrom(node)
        numbers: dict[str, Array] = {}

        def put(position: int, array: Array) -> None:
            other.input[position] = f"{OTHER}{position}"
            numbers[other.input[position]] = array

        is_norm = node.op_type == "BatchNormalization"
        for option, value in change.items():
            match option:
                case "stride" | "dilation":
                    _set(other, f"{option}s", list(value))
                case "padding":
                    _set(other, "auto_pad", "NOTSET")
                    _set(other, "pads", [*(before for before, _ in value), *(after for _, after in value)])
                case "mode":
                    _set(other, "mode", value)
                case "eps":
                    _set(other, "epsilon", value)
                case "bias" if not is_norm:
                    del other.input[2:]
                case "weight" | "bias":
                    position = 1 if option == "weight" else 2
                    put(position, np.full_like(read(node.input[position]), 1.0 if option == "weight" else 0.0))
                case "training":
                    x = read(node.input[0])
                    axes = (0, *range(2, x.ndim))
                    put(3, x.mean(axes))
                    put(4, x.var(axes))
        return self._results(other, lambda one: numbers[one] if one in numbers else read(one))


def _stated(size: TensorShapeProto.Dimension) -> int | None:
    """A size of an input; torch's exporter names one that it took for free and found to be fixed by its number."""
    if size.HasField("dim_value"):
        return size.dim_value if size.dim_value > 0 else None
    return int(size.dim_param) if size.dim_param.isdigit() else None


def _eps(own: Array) -> float:
    return float(ml_dtypes.finfo(own.dtype).eps)  # type: ignore[no-untyped-call]


def _array(result: Any) -> Any:
    """Numbers that the evaluator gives as NumPy scalars as arrays."""
    return np.asarray(result) if isinstance(result, np.generic) else result


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _set(node: NodeProto, name: str, value: Any) -> None:
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _folder(node: NodeProto) -> str:
    """The module that a node stood in when it was exported, as far as the file tells."""
    noted = next((one.value for one in node.metadata_props if one.key == SCOPES), None)
    if noted is None:
        return node.name.rpartition("/")[0].strip("/")
    try:
        scopes = ast.literal_eval(noted)
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
