"""One ONNX node with what is known of its surroundings, and the register of readers that say what nodes make of their inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from onnx import NodeProto, helper

from refold.algebra import AffineConv, Leaf, Obstruction
from refold.dialects.onnx._constants import QUANTIZED, Constants, read_numbers
from refold.dialects.onnx._scopes import Equalities, Scope, Size, Typed, same_shape
from refold.dialects.onnx._tensors import FLOATS, Array
from refold.errors import FoldError
from refold.maps import Map

Terms: TypeAlias = "dict[str, Map]"


@dataclass(frozen=True, slots=True)
class Reading:
    """A linear operator: its terms, the kernel weights that it stores, and the operators that it stands for, with those of its constants.

    `operators` is None for a node by itself.
    """

    terms: Terms
    weights: int = 0
    operators: int | None = None


@dataclass(frozen=True)
class Call:
    """One node with what is known of its surroundings."""

    node: NodeProto
    scope: Scope
    constants: Constants
    equalities: Equalities
    opset: int

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attributes by name, strings decoded."""
        found = {one.name: helper.get_attribute_value(one) for one in self.node.attribute}
        return {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in found.items()}

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or what it is where it is not there."""
        return self.attributes.get(name, default)

    @property
    def x(self) -> str:
        """The name of the first input."""
        return str(self.node.input[0])

    def input(self, position: int) -> str:
        """The name of an input, empty where it is left out."""
        return self.node.input[position] if position < len(self.node.input) else ""

    def typed(self, name: str) -> Typed | None:
        """What is known of a value."""
        return self.scope.typed(name)

    @property
    def output(self) -> Typed:
        """What is known of the first output; readers are only called where it is a float tensor of known rank."""
        typed = self.scope.typed(self.node.output[0])
        assert typed is not None
        return typed

    def is_constant(self, name: str) -> bool:
        """Whether an input is a constant."""
        return self.constants.has(name, self.scope)

    def value(self, name: str) -> Array:
        """The numbers of a constant input."""
        return self.constants.value(name, self.scope)

    def is_activation(self, name: str) -> bool:
        """Whether an input hangs on the inputs of the model and is a float tensor of the output's type and of known rank."""
        typed = self.typed(name) if name else None
        return typed is not None and not self.is_constant(name) and typed.elem_type == self.output.elem_type

    def keeps_shape(self, name: str) -> bool:
        """Whether the output surely has the shape of an input."""
        return same_shape(self.typed(name), self.output, self.equalities)

    def spatial(self, name: str, rank: int) -> tuple[Size, ...]:
        """The last sizes of a value."""
        typed = self.typed(name)
        assert typed is not None
        return self.equalities.shape(typed)[len(typed.shape) - rank :]

    def channels(self, name: str) -> int | None:
        """The second size of a value, where it is known."""
        typed = self.typed(name)
        size = typed.shape[1] if typed is not None and len(typed.shape) > 1 else None
        return size if isinstance(size, int) else None

    def leaf(self, value: AffineConv, names: Sequence[str], *key: object) -> Leaf:
        """A map made of constants of the graph, under their names; they must be finite."""
        sources = tuple(dict.fromkeys(one for name in names if name for one in self.constants.sources(name, self.scope)))
        origin = (self.node.op_type, *(self.constants.key(name, self.scope) if name else None for name in names), repr(key))
        leaf = Leaf(value, sources, origin, FLOATS[self.output.elem_type])
        if not (math.isfinite(leaf.peak) and bool(np.isfinite(value.bias).all())):
            raise self.not_finite(sources)
        return leaf

    def not_finite(self, sources: Sequence[str]) -> FoldError:
        """What to raise for NaN and infinite weights."""
        culprits = [name for name in sources if not bool(np.isfinite(np.asarray(self.value(name), np.float64)).all())]
        return FoldError(
            f"the weights of {self.node.name or self.node.output[0]} ({', '.join(culprits or sources) or 'constants'}) hold NaN or "
            "infinite numbers; mend the checkpoint before folding"
        )

    def finite(self, number: float, name: str) -> float:
        """The number, which must not be NaN or infinite."""
        if not math.isfinite(number):
            raise self.not_finite(self.constants.sources(name, self.scope))
        return number

    def given(self) -> Iterator[str]:
        """The inputs of the graph that the node's whole numbers are worked out from: initializers that a caller may replace, too."""
        found: set[str] = set()
        stack = [name for name in self.node.input if name and (typed := self.typed(name)) is not None and typed.elem_type not in FLOATS]
        while stack:
            one = stack.pop()
            if one in found or self.is_constant(one):
                continue
            found.add(one)
            owner = self.scope.owner(one)
            if owner is None or one not in owner.producers:
                yield one
            else:
                stack.extend(read_numbers(owner.producers[one]))

    def made_at_run_time(self, name: str, role: str) -> Obstruction:
        """Why a map cannot be read whose weights are not constants."""
        owner = self.scope.owner(name)
        if owner is not None and name in owner.initializers:
            fact = f"its {role} `{name}` is an initializer that is also an input, so that a caller may replace it"
            return Obstruction("reading", fact, "take it off the list of inputs")
        maker = None if owner is None else owner.producers.get(name)
        if maker is not None and maker.op_type in QUANTIZED:
            return Obstruction(
                "reading", f"its {role} `{name}` is quantized ({maker.op_type})", "fold the float model and quantize it afterwards"
            )
        return Obstruction("reading", f"its {role} `{name}` is computed at run time", "nothing: the map changes with the input")


Reader: TypeAlias = Callable[[Call], "Reading | Obstruction | None"]
READERS: dict[str, Reader] = {}


def reads(*operators: str) -> Callable[[Reader], Reader]:
    """Register a reader for operators by their names."""

    def register(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(operators, reader))
        return reader

    return register


MISREAD = (ValueError, IndexError, TypeError, OverflowError)
"""What a reader meets on a node whose numbers do not belong together."""
