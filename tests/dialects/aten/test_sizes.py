"""What free sizes become where a network is looked at for other sizes than those that were traced."""

from __future__ import annotations

import torch
from torch import nn

from refold.dialects.aten import AtenModel
from refold.dialects.aten._sizes import other_examples
from tests.dialects.aten.nets import Net, noise, settled


def examples(model: nn.Module, *shape: int) -> list[tuple[int, ...]]:
    """The shape of the input at each."""
    program = AtenModel(settled(model), (noise(*shape),)).traced.program
    (x,) = [node for node in program.graph.nodes if node.op == "placeholder" and node.name.startswith("inputs")]
    return list(other_examples(list(x.meta["val"].shape)))


def test_sizes_near_those_that_were_traced_multiples_of_them_and_the_smallest() -> None:
    found = examples(Net(lambda s, x: torch.relu(x)), 5, 9, 14)
    first, second, third = (list(axis) for axis in zip(*found, strict=True))
    assert first == [6, 4, 2, 10, 3, 2]
    assert second == [11, 7, 4, 18, 4, 2]
    assert third == [17, 11, 7, 28, 5, 2]


def test_sizes_that_are_within_what_tracing_found() -> None:
    """A window of 5 items, which fits no fewer, and an even number of items."""
    found = examples(Net(lambda s, x: s.a(x), a=nn.Conv1d(4, 6, 5)), 5, 4, 6)
    assert found
    assert all(shape[1] == 4 and shape[2] >= 5 for shape in found)
    even = examples(Net(lambda s, x: torch.relu(x) if x.shape[1] % 2 == 0 else x), 5, 8, 3)
    assert even
    assert all(shape[1] % 2 == 0 for shape in even)
