"""The neutral view of a network: values, linear nodes that say what they make of their inputs, and opaque nodes that do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeAlias

from refold.algebra import (
    Formula,
    Leaf,
    Obstruction,
    Sizes,
    add_formulas,
    compose_formulas,
    identity,
    scale_and_shift,
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """`scale * x + shift`, the same for every channel, so that it acts along any axis."""

    scale: float = 1.0
    shift: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.scale == 1.0 and self.shift == 0.0


Map: TypeAlias = "Scalar | Formula"
"""What a linear node makes of one of its inputs."""

IDENTITY = Scalar()


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the network: its shape with None where a size is free, and the sizes that the example had."""

    name: str
    shape: tuple[int | None, ...]
    example: tuple[int, ...]

    def sizes(self, rank: int) -> Sizes:
        """The last `rank` sizes, those of the spatial axes."""
        return self.shape[len(self.shape) - rank :]


@dataclass(frozen=True, slots=True)
class Linear:
    """A node whose output is the sum of one map for each of its inputs.

    `operators` and `weights` are what the node costs as it stands; `sources` names what it was made of in its own dialect.
    """

    output: str
    operation: str
    terms: Mapping[str, Map]
    weights: int = 0
    operators: int = 1
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Opaque:
    """A node that nothing is known of but what it reads."""

    output: str
    operation: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A stretch that was not folded: which node, by which law, the fact with its numbers, and what would make it foldable."""

    node: str
    operation: str
    law: str
    fact: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node} ({self.operation}): {self.law}: {self.fact}; {self.remedy}"


@dataclass(slots=True)
class Graph:
    """A network in topological order. `outputs` are the values that must go on existing; `refusals` those met while reading."""

    values: dict[str, Value] = field(default_factory=dict)
    nodes: dict[str, Linear | Opaque] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    refusals: list[Refusal] = field(default_factory=list)

    def linear(self) -> Iterator[Linear]:
        """The linear nodes, in order."""
        return (node for node in self.nodes.values() if isinstance(node, Linear))


def shared_folder(names: Iterable[str]) -> str:
    """The dotted folder that all these parameters lie in, or nothing.

    >>> shared_folder(["stage1.0.conv1.weight", "stage1.0.bn1.bias"])
    'stage1.0'
    """
    folders = [name.rpartition(".")[0].split(".") for name in names]
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))


def sum_maps(left: Map, right: Map, root: Value) -> Map | Obstruction:
    """`left(x) + right(x)` for the root value x."""
    if isinstance(left, Scalar) and isinstance(right, Scalar):
        return Scalar(left.scale + right.scale, left.shift + right.shift)
    if isinstance(left, Scalar):
        return sum_maps(right, left, root)
    if isinstance(right, Scalar):
        if right.scale == 0.0 and right.shift == 0.0:
            return left
        right = _as_formula(right, left, left.stencil.in_channels)
    return add_formulas(left, right, root.sizes(left.stencil.rank))


def compose_maps(second: Map, first: Map, root: Value) -> Map | Obstruction:
    """`second(first(x))` for the root value x."""
    if isinstance(second, Scalar) and isinstance(first, Scalar):
        return Scalar(second.scale * first.scale, second.scale * first.shift + second.shift)
    if isinstance(second, Scalar):
        assert not isinstance(first, Scalar)
        if second.is_identity:
            return first
        second = _as_formula(second, first, first.stencil.out_channels)
    elif isinstance(first, Scalar):
        if first.is_identity:
            return second
        first = _as_formula(first, second, second.stencil.in_channels)
    return compose_formulas(second, first, root.sizes(first.stencil.rank))


def without_bias(mapped: Map) -> Map:
    """The linear part of a map."""
    if isinstance(mapped, Scalar):
        return Scalar(mapped.scale)
    return mapped.linear_part()


def _as_formula(scalar: Scalar, like: Formula, channels: int) -> Leaf:
    plain = identity(channels, like.stencil.rank, like.anywhere)
    if scalar.is_identity:
        return Leaf(plain, origin=("identity", channels))
    ones = plain.kernel.reshape(-1)
    value = scale_and_shift(ones * scalar.scale, ones * scalar.shift, like.stencil.rank)
    return Leaf(value, origin=("scalar", scalar.scale, scalar.shift, channels))
