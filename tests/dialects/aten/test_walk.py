"""A network run once, and some of its values once more with an operator read otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from refold.dialects.aten import AtenModel
from refold.dialects.aten._walk import Walk
from refold.graph import Opaque
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


class Counted(nn.Module):
    """Counts its calls."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return torch.relu(x)


def test_what_forward_writes_to_a_buffer_is_needed_as_what_it_gives_is(seed: int) -> None:
    assert AtenModel(settled(Counted()), (noise(2, 4, 5, 6),)).graph.outputs == {"add", "relu"}


def test_parameters_are_no_values_of_the_graph(seed: int) -> None:
    model = settled(Net(lambda s, x: torch.maximum(torch.relu(x), s.w), w=nn.Parameter(noise(4, 1, 1))))
    graph = AtenModel(model, (noise(2, 4, 5, 6),)).graph
    (front, last) = graph.nodes.values()
    assert isinstance(last, Opaque)
    assert last.inputs == (front.output,)


def test_outputs_are_what_forward_gives(seed: int) -> None:
    """Not what it writes to a buffer, which tracing puts before them."""
    walk = Walk(settled(Counted()), (noise(2, 4, 5, 6),), {})
    assert len(walk.outputs) == 1
    assert (walk.steps[walk.outputs[0]].value >= 0).all()


def test_a_cast_to_whole_numbers_is_one_in_float64_too(seed: int) -> None:
    x = noise(2, 4, 5, 6)
    walk = Walk(settled(Net(lambda s, x: (3 * x).to(torch.int32).to(torch.float32) * 2)), (x.float(),), {})
    assert (walk.steps[walk.outputs[0]].value == 2 * (3 * x.float().double()).trunc().numpy()).all()


MEMBERS: dict[str, nn.Module] = {
    "a": nn.Conv2d(4, 4, 3, stride=(2, 1), padding=1, dilation=(1, 2), bias=False),
    "t": nn.ConvTranspose2d(4, 4, 2),
    "l": nn.Linear(6, 6),
    "n": nn.BatchNorm2d(4, eps=0.5),
    "p": nn.ReflectionPad2d(1),
}
KINDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "convolution": (
        lambda s, x: s.a(x),
        "convolution",
        {"stride": (2, 1), "dilation": (1, 2), "padding": ((1, 1), (1, 1)), "groups": 1, "bias": False},
    ),
    "transposed convolution": (lambda s, x: s.t(x), "transposed_convolution", {"bias": True}),
    "matrix": (lambda s, x: s.l(x), "linear", {"bias": True}),
    "batch norm": (lambda s, x: s.n(x), "batch_norm", {"eps": 0.5, "weight": True, "bias": True}),
    "padding": (lambda s, x: s.p(x), "pad", {"mode": "reflect"}),
    "sum": (lambda s, x: x + x.relu(), "add", {}),
    "difference": (lambda s, x: x.relu() - x, "add", {}),
    "shift": (lambda s, x: x + s.one, "shift", {"constant": "`one` (=0.5)", "kept": "inputs_0"}),
    "scale": (lambda s, x: s.each * x, "scale", {"constant": "`each` (=4 x 1 x 1 numbers)", "kept": "inputs_0"}),
    "a number on top": (lambda s, x: x.relu() + 1, "add", {}),
    "product of two": (lambda s, x: x * x.relu(), "mul", {}),
    "activation": (lambda s, x: x.sigmoid(), "sigmoid", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_walk_names_each_operator_in_the_common_words(name: str, seed: int) -> None:
    forward, kind, options = KINDS[name]
    model = settled(Net(forward, **MEMBERS))
    model.one, model.each = nn.Parameter(torch.tensor(0.5).double()), nn.Parameter(noise(4, 1, 1))
    x = noise(2, 4, 5, 6)
    walk = Walk(model, (x,), {})
    step = walk.steps[walk.outputs[0]]
    assert (step.kind, dict(step.options)) == (kind, options)
    assert torch.equal(torch.from_numpy(step.value), model(x).detach())
