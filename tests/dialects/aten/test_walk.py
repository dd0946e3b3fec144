"""A network run once, and some of its values once more with an operator read otherwise."""

from __future__ import annotations

import torch
from torch import nn

from refold.dialects.aten._walk import Walk
from tests.dialects.aten.nets import Net, conv, noise, settled

NETWORK = Net(lambda s, x: torch.relu(s.b(torch.relu(s.a(x)))) + x.mean(), a=conv(4, 6), b=nn.Conv2d(6, 4, 1))


def walked() -> Walk:
    return Walk(settled(NETWORK), (noise(2, 4, 5, 6),), {})


def test_what_reads_a_change_comes_out_otherwise(seed: int) -> None:
    walk = walked()
    convolution, *rest = [name for name in walk.steps if name not in walk.inputs]
    values = walk.again([convolution, *rest], {convolution: {"padding": ((0, 0), (0, 0))}})
    (last,) = [name for name in values if name in walk.outputs]
    assert values[convolution].shape == (2, 6, 3, 4)
    assert values[last].shape == (2, 4, 3, 4)
    assert set(values) == {convolution, *rest} - {name for name in rest if "mean" in name}


def test_what_reads_a_value_that_cannot_be_had_is_left_out(seed: int) -> None:
    """PyTorch has no convolution that pads one end of an axis alone, so that nothing behind it can be told."""
    walk = walked()
    names = [name for name in walk.steps if name not in walk.inputs]
    assert walk.again(names, {names[0]: {"padding": ((1, 0), (1, 1))}}) == {}


def test_outputs_are_what_forward_gives(seed: int) -> None:
    """Not what it writes to a buffer, which tracing puts before them."""

    class Counted(nn.Module):
        count: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count.add_(1)
            return torch.relu(x)

    walk = Walk(settled(Counted()), (noise(2, 4, 5, 6),), {})
    assert len(walk.outputs) == 1
    assert (walk.steps[walk.outputs[0]].value >= 0).all()


def test_a_cast_to_whole_numbers_is_one_in_float64_too(seed: int) -> None:
    x = noise(2, 4, 5, 6)
    walk = Walk(settled(Net(lambda s, x: (3 * x).to(torch.int32).to(torch.float32) * 2)), (x.float(),), {})
    assert (walk.steps[walk.outputs[0]].value == 2 * (3 * x.float().double()).trunc().numpy()).all()
