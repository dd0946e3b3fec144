"""Values that hang on initializers and Constant nodes alone: found, and worked out in float64 when a map needs them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from refold.dialects.onnx._load import Source, graphs_of
from refold.dialects.onnx._reference import own_operators
from refold.dialects.onnx._tensors import FLOATS, Array
from refold.errors import FoldError

if TYPE_CHECKING:
    from refold.dialects.onnx._scopes import Scope, Size, Typed

STANDARD = ("", "ai.onnx")
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")
QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
)  # fmt: skip
SCATTERS = ("ScatterND", "ScatterElements")
MOVES = (
    *SCATTERS, "Pad", "Transpose", "Slice", "Concat", "Expand", "Identity", "Gather", "Squeeze", "Unsqueeze", "Reshape", "Flatten",
    "Tile", "Cast", "CastLike", "ConstantOfShape",
)  # fmt: skip
"""Operators whose numbers are all numbers that they were given."""
SIZES = (
    *MOVES, "Shape", "Size", "Range", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max", "Equal", "Less", "Greater", "Not",
    "And", "Or", "Where", "NonZero",
)  # fmt: skip
"""Operators that work out sizes and indices."""
TAKES = ("Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape", "Identity", "Cast")
"""Operators that take some of the sizes that a Shape tells, each as it is."""
LARGEST = 1 << 27
"""Numbers of the largest constant that is worked out."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Sizes of the value `asked` that were taken from the Shape `shape`: for each, its axis."""

    shape: str
    asked: str
    axes: Array


class Constants:
    """The constants of a model. `taken` holds what else is known to be sizes of a value, by its key.

    An initializer is constant, unless it is an input too and the model's IR version is 4 or later: a caller may then replace it. Before
    version 4 every initializer had to be an input, and runtimes take them for constants, as is done here. A node is constant where all
    that it reads is, it draws nothing at random, and it does not quantize; a Shape, where the sizes that are taken of it are known.
    """

    def __init__(self, source: Source, scope: Scope) -> None:
        self._source = source
        self._overridable = scope.inputs if source.skeleton.ir_version >= 4 else set()
        self._nodes: dict[str, bool] = {}
        self.taken: dict[str, Taken] = {}
        self._values: dict[str, Array] = {}
        for one in scope.all():
            for node in one.graph.node:
                constant = self._is_constant(node, one)
                for name in filter(None, node.output):
                    self._nodes[one.key(name)] = constant

    def has(self, name: str, scope: Scope) -> bool:
        """Whether a value is constant."""
        owner = scope.owner(name)
        if owner is None:
            return False
        if name in owner.producers:
            return self._nodes.get(owner.key(name), False)
        return name in owner.initializers and not (owner.outer is None and name in self._overridable)

    def initializer(self, name: str, scope: Scope) -> TensorProto | None:
        """The tensor, where a value is stored as one: an initializer or a Constant node."""
        owner = scope.owner(name)
        if owner is None:
            return None
        if name in owner.producers:
            node = owner.producers[name]
            if node.op_type == "Constant" and node.domain in STANDARD:
                return next((one.t for one in node.attribute if one.name == "value"), None)
            return None
        return owner.initializers.get(name)

    def value(self, name: str, scope: Scope) -> Array:
        """The numbers: as they are stored, or in float64 where they are computed.

        Raises `FoldError` where they cannot be worked out.
        """
        stack = [(name, scope)]
        while stack:
            one, inside = stack[-1]
            owner = inside.owner(one)
            assert owner is not None
            if self._at_hand(one, owner) is not None:
                stack.pop()
                continue
            node = owner.producers[one]
            missing = [(below, owner) for below in read_numbers(node) if self._at_hand(below, owner) is None]
            if missing:
                stack.extend(missing)
            else:
                self._work_out(node, owner)
        found = self._at_hand(name, scope)
        assert found is not None
        return found

    def _at_hand(self, name: str, scope: Scope) -> Array | None:
        """The numbers, where they are stored or were worked out before."""
        tensor = self.initializer(name, scope)
        if tensor is not None:
            return self._source.tensors.array(tensor)
        owner = scope.owner(name)
        return None if owner is None else self._values.get(owner.key(name))

    def _work_out(self, node: NodeProto, owner: Scope) -> None:
        feeds = {one: self._at_hand(one, owner) for one in read_numbers(node)}
        for one in set(filter(None, node.input)) - set(feeds):
            feeds[one] = stand_in(owner.typed(one))
        if node.op_type == "Identity":
            results = list(feeds.values())
        else:
            try:
                wide = {one: widened(array) for one, array in feeds.items()}
                results = evaluate([node], wide, list(node.output), self._source.skeleton)
            except Exception as error:  # an operator's reference implementation raises what it likes
                why = (str(error).splitlines() or [type(error).__name__])[0]
                raise FoldError(
                    f"constant `{node.output[0]}` ({node.op_type}) cannot be worked out: {why}; mend the model before folding it"
                ) from error
            results = [widened(np.asarray(result)) for result in results]
        for output, result in zip(node.output, results, strict=True):
            assert result is not None
            self._values[owner.key(output)] = result

    def run(self, nodes: Sequence[NodeProto], feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Any]:
        """Run nodes of the model in float64."""
        return evaluate(nodes, feeds, outputs, self._source.skeleton)

    def forget(self) -> None:
        """Let go of what was computed."""
        self._values.clear()

    def sources(self, name: str, scope: Scope) -> tuple[str, ...]:
        """Names of the initializers and Constant nodes that it hangs on."""
        return tuple(dict.fromkeys(leaf for leaf, _ in self._leaves(name, scope)))

    def operators(self, name: str, scope: Scope) -> int:
        """Operators that work it out, those that only hold a tensor left out."""
        seen: set[str] = set()
        stack = [(name, scope)]
        while stack:
            one, inside = stack.pop()
            owner = inside.owner(one)
            node = None if owner is None else owner.producers.get(one)
            if owner is None or node is None or node.op_type == "Constant" or owner.key(node.output[0]) in seen:
                continue
            seen.add(owner.key(node.output[0]))
            stack.extend((below, owner) for below in read_numbers(node))
        return len(seen)

    def key(self, name: str, scope: Scope) -> Hashable:
        """Equal for constants of the same numbers."""
        owner = scope.owner(name)
        return ("constant", owner.key(name) if owner is not None else name)

    def _leaves(self, name: str, scope: Scope) -> Iterator[tuple[str, Scope]]:
        stack = [(name, scope)]
        seen = set()
        while stack:
            one, inside = stack.pop()
            owner = inside.owner(one)
            if owner is None or owner.key(one) in seen:
                continue
            seen.add(owner.key(one))
            node = owner.producers.get(one)
            if node is None or node.op_type == "Constant":
                yield one, owner
            else:
                stack.extend((below, owner) for below in reversed(read_numbers(node)))

    def _is_constant(self, node: NodeProto, scope: Scope) -> bool:
        if node.domain not in STANDARD or node.op_type in RANDOM + QUANTIZED or any(True for _ in graphs_of(node)):
            return False
        if node.op_type == "Constant":
            return not any(attribute.name == "sparse_value" for attribute in node.attribute)
        if not onnx.defs.has(node.op_type):
            return False
        if node.op_type in ("Shape", "Size") and not (node.input and _has_known_sizes(node, scope.typed(node.input[0]))):
            self._note_axes(node, scope)
            return False
        if not all(self.has(name, scope) for name in read_numbers(node)) and not self._takes_known_sizes(node, scope):
            return False
        for name in filter(None, node.output):
            typed = scope.types.get(name)
            if typed is None or not all(isinstance(size, int) for size in typed.shape) or math.prod(typed.example) > LARGEST:
                return False
        return True

    def _note_axes(self, node: NodeProto, scope: Scope) -> None:
        typed = scope.typed(node.input[0]) if node.input else None
        if typed is not None and node.op_type == "Shape":
            axes = np.arange(len(typed.shape))[_bounds(node)]
            self.taken[scope.key(node.output[0])] = Taken(node.output[0], node.input[0], axes)

    def _takes_known_sizes(self, node: NodeProto, scope: Scope) -> bool:
        """Whether a node only takes sizes from a Shape, all of them known; notes which it takes."""
        if node.op_type not in TAKES:
            return False
        given = [name for name in node.input if name and not self.has(name, scope)]
        taken = self.taken.get(scope.key(given[0])) if len(given) == 1 else None
        if taken is None:
            return False
        typed = scope.typed(taken.asked)
        assert typed is not None
        try:
            feeds = {name: taken.axes if name == given[0] else self.value(name, scope) for name in filter(None, node.input)}
            results = evaluate([node], feeds, list(node.output), self._source.skeleton)
        except Exception:  # the evaluator's operators raise what they like
            return False
        found = [np.asarray(axes, np.int64) for axes in results]
        self.taken.update({scope.key(name): Taken(taken.shape, taken.asked, axes) for name, axes in zip(node.output, found, strict=True)})
        return all(_is_known(typed.shape[axis]) for axes in found for axis in axes.reshape(-1))


def read_numbers(node: NodeProto) -> list[str]:
    """Inputs whose numbers a node reads: not those of which it asks the shape or the type alone."""
    given = [name for name in node.input if name]
    if node.domain in STANDARD and node.op_type in ("Shape", "Size"):
        return []
    return given[:1] if node.domain in STANDARD and node.op_type == "CastLike" else given


def _has_known_sizes(node: NodeProto, typed: Typed | None) -> bool:
    """Whether the sizes that a Shape asks for are known and are the same at every run."""
    if typed is None:
        return False
    return all(map(_is_known, typed.shape[_bounds(node)]))


def _is_known(size: Size) -> bool:
    return isinstance(size, int) and size > 0


def _bounds(node: NodeProto) -> slice:
    """The axes that a Shape tells."""
    bounds = {one.name: one.i for one in node.attribute}
    return slice(bounds.get("start", 0), bounds.get("end"))


def stand_in(typed: Typed | None, shape: tuple[int, ...] | None = None) -> Array:
    """Zeros of a type and of its shape, or of another, which take no room."""
    assert typed is not None
    dtype = np.float64 if typed.elem_type in FLOATS else helper.tensor_dtype_to_np_dtype(typed.elem_type)
    return np.broadcast_to(np.zeros((), dtype), typed.example if shape is None else shape)


def widened(array: Any) -> Any:
    """Floats of low precision in float64, anything else as it is."""
    if isinstance(array, np.ndarray) and array.dtype != np.float64 and _is_float(array.dtype):
        return array.astype(np.float64)
    return array


def evaluate(
    nodes: Sequence[NodeProto], feeds: Mapping[str, Array], outputs: Sequence[str], model: ModelProto, *, wide: bool = True
) -> list[Any]:
    """Run nodes of the model with the ONNX reference evaluator: in float64, or else in the types of what it is fed."""
    graph = helper.make_graph(
        [wide_node(node) if wide else node for node in nodes],
        "stretch",
        [helper.make_empty_tensor_value_info(name) for name in feeds],
        [helper.make_empty_tensor_value_info(name) for name in outputs if name],
    )
    stretch = helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(4, model.ir_version))
    stretch.functions.extend(model.functions)
    named = [name for name in outputs if name]
    opset = max((one.version for one in model.opset_import if one.domain in STANDARD), default=0)
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(stretch, new_ops=own_operators(opset)).run(None, dict(feeds))
    results = dict(zip(named, found, strict=True))
    return [results.get(name) for name in outputs]


def wide_node(node: NodeProto) -> NodeProto:
    """The node with float64 in the place of every narrower float that it names or holds, in graphs within it too."""
    named = [one for one in node.attribute if _names_narrow(one)]
    if not named and not any(True for _ in graphs_of(node)):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    for _, graph in graphs_of(copy):
        for inner in graph.node:
            inner.CopyFrom(wide_node(inner))
        for tensor in graph.initializer:
            if tensor.data_type in FLOATS and tensor.data_type != TensorProto.DOUBLE:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for attribute in copy.attribute:
        if not _names_narrow(attribute):
            continue
        if attribute.type == AttributeProto.INT:
            attribute.i = TensorProto.DOUBLE
        else:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
    return copy


def _names_narrow(attribute: AttributeProto) -> bool:
    if attribute.type == AttributeProto.INT:
        return attribute.name in ("to", "dtype") and attribute.i in FLOATS and attribute.i != TensorProto.DOUBLE
    return attribute.type == AttributeProto.TENSOR and attribute.t.data_type in FLOATS and attribute.t.data_type != TensorProto.DOUBLE


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"
