"""Runs whole models at sizes other than the example's, where the file leaves them free and the original takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from onnx import ModelProto

from refold.dialects.onnx._run import Feeds
from refold.dialects.onnx._scopes import free_sizes
from refold.errors import FoldError
from refold.runtime import RuntimeDied
from refold.verification import OutputEvidence, SizeEvidence

LARGEST = 4.0
"""How many times the numbers of the example an input may have."""
SMALL = (8, 16, 32, 64)
"""Sizes that are tried in turn for a base on which the original runs quickly."""
RUNS = 32
"""Sizes that one model is tried at."""

Group: TypeAlias = "tuple[tuple[str, int], ...]"
"""Axes that have one size together: the input and the axis of each."""

Judge: TypeAlias = "Callable[[Feeds, Sequence[Any], Sequence[Any]], tuple[OutputEvidence, ...]]"
"""What to say of the outputs of both on the same inputs."""


class Runs(Protocol):
    """A model that is ready to run."""

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
        """The outputs; raises `FoldError` where it does not run."""


def groups_of(skeleton: ModelProto) -> list[Group]:
    """The free axes of the inputs, those of the same name together."""
    found: dict[object, list[tuple[str, int]]] = {}
    for value, axis in free_sizes(skeleton):
        name = value.type.tensor_type.shape.dim[axis].dim_param
        found.setdefault(name or (value.name, axis), []).append((value.name, axis))
    return [tuple(group) for group in found.values()]


@dataclass(frozen=True, slots=True)
class Probe:
    """Two models, inputs on which the first runs, and the axes of them that are free."""

    original: Runs
    folded: Runs
    example: Feeds
    groups: Sequence[Group]

    def evidence(self, judge: Judge) -> Iterator[SizeEvidence]:
        """Each size that the original takes: what both give there, or what the folded one says instead of running.

        One axis is changed at a time, the others stay as small as the original takes them; then all at once.
        """
        seen = {_shapes(self.example)}
        base = self._base()
        for number, feeds in enumerate(self._others(base)):
            if _shapes(feeds) in seen or number >= RUNS or self._is_large(feeds):
                continue
            seen.add(_shapes(feeds))
            outputs = self._try(feeds)
            if outputs is None:
                continue
            shapes = {name: tuple(array.shape) for name, array in feeds.items()}
            try:
                folded = self.folded.run(feeds)
            except RuntimeDied:  # that is no refusal
                raise
            except FoldError as error:
                yield SizeEvidence(shapes, refusal=str(error))
                continue
            yield SizeEvidence(shapes, judge(feeds, outputs, folded))

    def _base(self) -> Feeds:
        """The example with its free sizes, but for the batch, as small as the original takes them all at once."""
        spatial = [group for group in self.groups if not _is_batch(group)]
        for size in SMALL if spatial else ():
            feeds = _changed(self.example, dict.fromkeys(spatial, size))
            if sum(array.size for array in feeds.values()) < sum(array.size for array in self.example.values()) and self._try(feeds):
                return feeds
        return self.example

    def _others(self, base: Feeds) -> Iterator[Feeds]:
        if base is not self.example:
            yield base
        sizes = {group: base[group[0][0]].shape[group[0][1]] for group in self.groups}
        spatial = [group for group in self.groups if not _is_batch(group)]
        for group in self.groups:
            n, given = sizes[group], self.example[group[0][0]].shape[group[0][1]]
            for size in (1, 2, 3) if _is_batch(group) else (n + 1, n + 2, n + 3, n - 1, 1, 2, 3, given + 1, 2 * given):
                yield _changed(base, {group: size})
        yield _changed(base, {group: 2 * sizes[group] for group in spatial})
        yield _changed(base, {group: sizes[group] + 1 + number for number, group in enumerate(spatial)})
        for group in filter(_is_batch, self.groups):
            yield _changed(base, {group: 0})

    def _try(self, feeds: Feeds) -> list[Any] | None:
        try:
            return self.original.run(feeds)
        except FoldError:
            return None

    def _is_large(self, feeds: Feeds) -> bool:
        return any(array.size > LARGEST * max(1, self.example[name].size) for name, array in feeds.items())


def _is_batch(group: Group) -> bool:
    return all(axis == 0 for _, axis in group)


def _changed(feeds: Feeds, sizes: Mapping[Group, int]) -> Feeds:
    """The inputs with other sizes, their numbers repeated or cut."""
    shapes = {name: list(array.shape) for name, array in feeds.items()}
    for group, size in sizes.items():
        for name, axis in group:
            if name in shapes:
                shapes[name][axis] = max(0, size)
    return {name: array if list(array.shape) == shapes[name] else np.resize(array, shapes[name]) for name, array in feeds.items()}


def _shapes(feeds: Feeds) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(array.shape) for array in feeds.values())
