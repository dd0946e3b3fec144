"""An ONNX recipe as a model of its opset: each step is emitted as that opset spells it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tests.fuzz.recipe import Draw, Recipe, Step

TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64,
         "int32": TensorProto.INT32, "bool": TensorProto.BOOL}  # fmt: skip
NEWEST = 27
"""The newest opset that the runtime takes."""


@dataclass
class Emitter:
    """A model while it is written. `options` say how constants are stored."""

    recipe: Recipe
    opset: int
    wide: bool = False
    nodes: list[NodeProto] = field(default_factory=list)
    stored: list[TensorProto] = field(default_factory=list)
    inside: str = ""

    @property
    def options(self) -> Mapping[str, Any]:
        """How the recipe wants its model written."""
        return self.recipe.options

    def node(self, operator: str, inputs: Sequence[str], outputs: Any = 1, **attributes: Any) -> str:
        """A node of so many outputs; the name of the first."""
        names = [self.fresh(operator.lower()) for _ in range(outputs)]
        given = {name: value for name, value in attributes.items() if value is not None}
        name = "" if self.options.get("nameless") else f"{operator}_{len(self.nodes)}{self.inside}"
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=name, **given))
        return names[0]

    def fresh(self, word: str) -> str:
        """A name that is not taken."""
        return f"{word}_{len(self.nodes)}_{len(self.stored)}{self.inside}"

    def constant(self, array: Any, dtype: str | None = None) -> str:
        """A constant as an initializer or as a node, as the options say."""
        values = np.asarray(array)
        if dtype is not None:
            values = values.astype(np.float64 if self.wide and dtype.startswith("float") else dtype)
        name = f"c{len(self.stored)}{len(self.nodes)}{self.inside}"
        tensor = numpy_helper.from_array(values, name)
        how = self.options.get("constants", "initializer")
        if how == "node" or (how == "mixed" and zlib.crc32(name.encode()) % 2):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.stored.append(tensor)
        return name

    def integers(self, *values: int) -> str:
        """A constant of int64."""
        return self.constant(np.asarray(values, np.int64))

    def weights(self, key: str, shape: Sequence[int], dtype: str, how: str = "any") -> str:
        """A constant of numbers that follow from the recipe's seed and the key."""
        return self.constant(numbers(self.recipe.seed, key, shape, how, dtype), dtype)


def numbers(seed: int, key: str, shape: Sequence[int], how: str, dtype: str) -> Any:
    """Numbers of unit gain that follow from a seed and a key, as the dtype holds them."""
    random = np.random.default_rng(zlib.crc32(f"{seed} {key}".encode()))
    drawn = random.standard_normal(tuple(shape))
    match how:
        case "positive":
            drawn = np.abs(drawn) + 0.5
        case "kernel":
            drawn = drawn / max(1, math.prod(shape[1:])) ** 0.5
        case "zero":
            drawn = np.zeros(tuple(shape))
        case "sparse":
            drawn = drawn * (random.random(tuple(shape)) > 0.5)
    return drawn.astype(dtype)


@dataclass
class OnnxDraft:
    """A graph while it is drawn: the values of its steps on the example inputs, as arrays."""

    draw: Draw
    opset: int
    values: list[Any]
    steps: list[Step]

    def pick(self, accepts: Callable[[Any], bool] = lambda x: True, *, floats: bool = True) -> int | None:
        """The number of a value that is accepted: mostly the newest one."""
        found = [n for n, x in enumerate(self.values) if (not floats or x.dtype.kind == "f") and accepts(x)]
        if not found:
            return None
        return found[-1] if self.draw.chance(0.8) else self.draw.of(found)


OnnxProposal = tuple[tuple[int, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class OnnxOperator:
    """How to draw a step and how to write it, from which opset on; `branches` says that another size takes another path."""

    propose: Callable[[OnnxDraft], OnnxProposal | None]
    emit: Callable[[Emitter, Mapping[str, Any], list[str]], str]
    weight: float
    since: int
    branches: bool


ONNX_OPERATORS: dict[str, OnnxOperator] = {}


def onnx_operator(
    name: str,
    propose: Callable[[OnnxDraft], OnnxProposal | None],
    emit: Callable[[Emitter, Mapping[str, Any], list[str]], str],
    *,
    weight: float = 1.0,
    since: int = 7,
    branches: bool = False,
) -> None:
    """Enter an operator in the table."""
    ONNX_OPERATORS[name] = OnnxOperator(propose, emit, weight, since, branches)


def model_of(recipe: Recipe, *, wide: bool = False) -> ModelProto:
    """The model of a recipe; `wide` has float64 for every float dtype."""
    options = recipe.options
    emitter = Emitter(recipe, options["opset"], wide)
    names = [f"x{number}" for number in range(len(recipe.inputs))]
    for step in recipe.steps:
        names.append(ONNX_OPERATORS[step.operator].emit(emitter, step.attributes, [names[one] for one in step.reads]))
    inputs = [_input(recipe, number, wide) for number in range(len(recipe.inputs))]
    outputs = []
    for number, place in enumerate(recipe.outputs):
        emitter.nodes.append(helper.make_node("Identity", [names[place]], [f"y{number}"]))
        dtype, rank = _given(recipe, place)
        kind = TYPES["float64" if wide and dtype.startswith("float") else dtype]
        outputs.append(helper.make_tensor_value_info(f"y{number}", kind, [None] * rank if options.get("ranks") else None))
    listed = [helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)) for one in emitter.stored]
    graph = helper.make_graph(
        emitter.nodes, "drawn", inputs + (listed if options.get("listed") else []), outputs, initializer=emitter.stored
    )
    opsets = [helper.make_opsetid("", options["opset"])]
    version = options.get("ir") or helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    least = 4 if emitter.stored and not options.get("listed") else 3
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(least, version), producer_name="fuzz")


def single(recipe: Recipe, step: Step, values: Sequence[Any]) -> ModelProto:
    """A model of one step alone, to be run while a recipe is drawn."""
    emitter = Emitter(recipe, recipe.options["opset"])
    names = [f"x{number}" for number in range(len(step.reads))]
    output = ONNX_OPERATORS[step.operator].emit(emitter, step.attributes, names)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[one].dtype), list(values[one].shape))
        for name, one in zip(names, step.reads, strict=True)
    ]
    graph = helper.make_graph(emitter.nodes, "one", inputs, [ValueInfoProto(name=output)], initializer=emitter.stored)
    opsets = [helper.make_opsetid("", recipe.options["opset"])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(4, helper.find_min_ir_version_for(opsets, ignore_unknown=True)))


def _given(recipe: Recipe, place: int) -> tuple[str, int]:
    """Dtype and rank of a value on the example inputs."""
    if place < len(recipe.inputs):
        return recipe.inputs[place].dtype, len(recipe.inputs[place].shape)
    dtype, rank = recipe.steps[place - len(recipe.inputs)].attributes["gives"]
    return dtype, rank


def _input(recipe: Recipe, number: int, wide: bool) -> ValueInfoProto:
    one = recipe.inputs[number]
    free = recipe.options["free"]
    dtype = "float64" if wide and one.dtype.startswith("float") else one.dtype
    shape: list[Any] = [label if label in free else size for label, size in zip(one.labels, one.shape, strict=True)]
    if recipe.options.get("unnamed"):
        shape = [None if isinstance(size, str) else size for size in shape]
    return helper.make_tensor_value_info(f"x{number}", TYPES[dtype], shape)
