"""The neutral view of a network: values, linear nodes that say what they make of their inputs, and opaque nodes that do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from refold.maps import Map, Value, as_moved


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

    @property
    def longest_sum(self) -> int:
        """Numbers of the longest sum that makes one number of its output."""
        return max(1, *(as_moved(mapped).longest for mapped in self.terms.values()))


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
    """A network in topological order. `outputs` are the values that must go on existing; `refusals` those met while reading.

    `kept` are values that stay as the nodes of the network make them, since something else than their numbers is read.
    """

    values: dict[str, Value] = field(default_factory=dict)
    nodes: dict[str, Linear | Opaque] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
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
