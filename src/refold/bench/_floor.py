"""The lower limit of a network: its convolutions and linear layers alone, back to back in the same engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from refold.bench._engine import Format, Task


class Called(Protocol):
    """A layer as it was called: the shape that it takes and the one that it gives."""

    @property
    def takes(self) -> tuple[int, ...]:
        """Of its input."""

    @property
    def gives(self) -> tuple[int, ...]:
        """Of its output."""


def chain(layers: Sequence[Called]) -> list[int | None]:
    """Whose output each layer reads: the last of those before it that has its shape, one that none reads yet if there is one.

    So the layers pass on their data in the layout that the engine likes best, as within the network. A layer that takes another rank reads
    the last output of as many numbers, reshaped. None is an input of its own.
    """
    sources: list[int | None] = []
    unread: dict[tuple[int, ...], list[int]] = {}
    last: dict[tuple[int, ...], int] = {}
    for position, layer in enumerate(layers):
        taken = layer.takes if layer.takes in last else _reshaped(layer.takes, last)
        waiting = unread.get(taken)
        sources.append(waiting.pop() if waiting else last.get(taken))
        unread.setdefault(layer.gives, []).append(position)
        last[layer.gives] = position
    return sources


def _reshaped(shape: tuple[int, ...], last: Mapping[tuple[int, ...], int]) -> tuple[int, ...]:
    """The shape of another rank and as many numbers that was given last, or the shape itself."""
    others = [one for one in last if len(one) != len(shape) and math.prod(one) == math.prod(shape)]
    return max(others, key=lambda one: last[one], default=shape)


def floor_of(task: Task, takes: Format, folder: Path) -> Task | None:
    """The layers of a network alone, in the format of its engine, None where it has none. A file is written to the folder.

    Raises `FoldError` where the network does not run on its inputs.
    """
    if takes == "torch":
        from refold.dialects import aten

        called = aten.called_layers(task.network, task.args, task.kwargs)
        if not called:
            return None
        module, inputs = aten.layers_alone(called, chain(called))
        return Task(module, inputs, {})
    from refold.dialects import onnx

    nodes = onnx.called_nodes(task.path, dict(task.kwargs))
    if not nodes:
        return None
    model, feeds = onnx.nodes_alone(nodes, chain(nodes))
    return Task(onnx.as_file(model, folder / "alone.onnx"), (), feeds)
