"""One call of an ATen operator with its arguments by name, and the register of those who read them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import torch
from torch.fx import Node

from refold.algebra import AffineConv, Leaf, Obstruction
from refold.dialects.aten._constants import Constants, is_finite
from refold.errors import FoldError
from refold.maps import Map

Terms: TypeAlias = "dict[Node, Map]"


@dataclass(frozen=True, slots=True)
class Reading:
    """A linear operator: its terms, the kernel weights that it stores, whether it costs nothing, and how many operators it stands for."""

    terms: Terms
    weights: int = 0
    free: bool = False
    operators: int = 1


@dataclass(frozen=True, slots=True)
class Call:
    """One operator of the graph with its arguments by name, defaults filled in."""

    node: Node
    arguments: Mapping[str, Any]
    constants: Constants

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def output(self) -> torch.Tensor:
        """The traced output: shape and dtype."""
        value = self.node.meta["val"]
        output = value[0] if isinstance(value, (tuple, list)) else value
        assert isinstance(output, torch.Tensor)
        return output

    def is_activation(self, value: object) -> TypeGuard[Node]:
        """Whether a value hangs on the inputs of the model and is a float tensor of the output's dtype."""
        if not isinstance(value, Node) or value in self.constants:
            return False
        traced = value.meta.get("val")
        return isinstance(traced, torch.Tensor) and traced.is_floating_point() and traced.dtype == self.output.dtype

    def leaf(self, value: AffineConv, tensors: Sequence[object], *key: object) -> Leaf:
        """A map made of constants of the graph, under their names; they must be finite."""
        names = tuple(name for tensor in tensors for name in self.constants.sources(tensor))
        for array in (value.kernel, value.bias):
            if not is_finite(array):
                raise _not_finite(self, names)
        origin = (str(self.node.target), *(self.constants.key(tensor) for tensor in tensors), repr(key))
        return Leaf(value, names, origin)


def _not_finite(call: Call, names: Sequence[str]) -> FoldError:
    named = ", ".join(names) or "constants"
    return FoldError(f"the weights of {call.node.name} ({named}) hold NaN or infinite numbers; mend the checkpoint before folding")


def finite(call: Call, number: float) -> float:
    """The number, which must not be NaN or infinite."""
    if not math.isfinite(number):
        raise _not_finite(call, [name for node in call.node.all_input_nodes for name in call.constants.sources(node)])
    return number


Reader: TypeAlias = Callable[[Call], "Reading | Obstruction | None"]
READERS: dict[str, Reader] = {}


def reads(*operators: str) -> Callable[[Reader], Reader]:
    """Register a reader for operators by their names, overload included."""

    def register(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(operators, reader))
        return reader

    return register


def read(node: Node, constants: Constants) -> Reading | Obstruction | None:
    """What one node makes of its inputs."""
    source = node.args[0] if node.target is operator.getitem else node
    if source is not node and not (isinstance(source, Node) and isinstance(source.meta.get("val"), list)):
        return None
    if not isinstance(source, Node) or not isinstance(source.target, torch._ops.OpOverload):
        return None
    reader = READERS.get(str(source.target))
    if reader is None:
        return None
    schema = source.target._schema.arguments
    arguments = {argument.name: argument.default_value for argument in schema}
    arguments.update(zip((argument.name for argument in schema), source.args, strict=False))
    arguments.update(source.kwargs)
    if source is not node:
        arguments["index"] = node.args[1]
    return reader(Call(node, arguments, constants))
