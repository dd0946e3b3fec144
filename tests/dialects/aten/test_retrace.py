"""Sizes that a trace does not allow are taken where the model, traced there, is the same graph; and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import refold
from refold.dialects.aten import _model
from refold.dialects.aten._conditions import allows, more_than
from refold.dialects.aten._same_graph import is_same_graph
from refold.dialects.aten._trace import export_with, retrace
from tests.sizes.test_folded import answer_of


class Net(nn.Module):
    """A convolution, a batch norm, and what `end` makes of both and of two parameters."""

    def __init__(self, end: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.rows = nn.Parameter(torch.randn(6, 1))
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, x, self.norm(self.conv(x)))


def traced(end: Callable[[Net, Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> Any:
    return export_with(Net(end).eval(), (torch.ones(shape),), {}, lambda number, axis: True, True)


SPREAD: list[tuple[str, Callable[[Net, Tensor, Tensor], Tensor], list[tuple[int, ...]]]] = [
    ("a parameter as long as the axis", lambda net, x, y: y + net.rows, [(2, 3, 1, 5), (1, 3, 1, 9), (7, 3, 1, 1)]),
    ("an axis of one item", lambda net, x, y: y * x.mean(1, keepdim=True).relu(), [(2, 3, 1, 5), (2, 3, 6, 1), (1, 3, 1, 1)]),
    ("both axes in one row", lambda net, x, y: y.flatten(2).transpose(1, 2), [(2, 3, 1, 5), (2, 3, 6, 1), (1, 3, 1, 1)]),
    ("an outer product", lambda net, x, y: y[:, :, :1] + y[:, :, :, :1], [(2, 3, 1, 1), (2, 3, 1, 5), (2, 3, 5, 1)]),
]


@pytest.mark.parametrize(("end", "shapes"), [one[1:] for one in SPREAD], ids=[one[0] for one in SPREAD])
def test_what_one_item_is_spread_over_is_taken(end: Callable[[Net, Tensor, Tensor], Tensor], shapes: list[tuple[int, ...]]) -> None:
    model = Net(end).eval()
    folded = refold.fold(model, torch.randn(2, 3, 6, 5)).model
    for shape in shapes:
        x = torch.randn(shape)
        torch.testing.assert_close(folded(x), model(x))


def test_an_axis_of_one_item_in_the_example_may_be_longer() -> None:
    model = Net(lambda net, x, y: y.relu() + x.amax((2, 3), keepdim=True).sum(1, keepdim=True)).eval()
    result = refold.fold(model, torch.randn(2, 3, 6, 1))
    x = torch.randn(3, 3, 4, 7)
    torch.testing.assert_close(result.model(x), model(x))
    assert not [note for note in result.report.notes if "axis 3" in note]


BRANCHES: list[tuple[str, Callable[[Net, Tensor, Tensor], Tensor], tuple[int, ...]]] = [
    ("a branch", lambda net, x, y: y * 2 if x.shape[2] == 1 else y, (2, 3, 1, 5)),
    ("a branch whose two ways agree nearby", lambda net, x, y: y * (2 if x.shape[2] == 1 and x.shape[3] == 9 else 1), (2, 3, 1, 9)),
    ("a size in the numbers", lambda net, x, y: y * min(x.shape[2], 2), (2, 3, 1, 5)),
    ("a loop", lambda net, x, y: sum(y.unbind(2), start=y[:, :, 0]), (2, 3, 1, 5)),
    ("a parameter that is cut", lambda net, x, y: y + net.rows[: 1 if x.shape[2] == 1 else 6] * 2, (2, 3, 1, 5)),
]


@pytest.mark.parametrize(("end", "shape"), [one[1:] for one in BRANCHES], ids=[one[0] for one in BRANCHES])
def test_another_path_is_right_or_refused(end: Callable[[Net, Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
    model = Net(end).eval()
    folded = refold.fold(model, torch.randn(2, 3, 6, 5)).model
    x = torch.randn(shape)
    given, complaint = answer_of(folded, (x,))
    if given is None:
        assert "but the network was traced for inputs where" in complaint
    else:
        torch.testing.assert_close(given, [model(x)])


def test_a_fold_that_is_wrong_beyond_its_trace_does_not_go_there() -> None:
    """The mean over an axis of one item is nothing, so that it goes; over two it would be missed."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.conv(x.mean(1, keepdim=True)))
            return y

    model = Mean().eval()
    folded = refold.fold(model, torch.randn(2, 1, 9)).model
    with pytest.raises(ValueError, match="axis 1 of `x` is 2, but the network was traced for inputs where axis 1 of `x` is 1"):
        folded(torch.randn(2, 2, 9))


@pytest.mark.parametrize(
    ("end", "shape", "same"),
    [
        (lambda net, x, y: y + net.rows, (2, 3, 1, 5), True),
        (lambda net, x, y: y * x.shape[3], (2, 3, 6, 9), True),
        (lambda net, x, y: y * x.shape[3], (2, 3, 6, 1), True),
        (lambda net, x, y: y.reshape(y.shape[0], -1, y.shape[3]), (2, 3, 1, 5), True),
        (lambda net, x, y: y.reshape(y.shape[0], -1, y.shape[2]), (2, 3, 5, 6), True),
        (lambda net, x, y: y[:, :2] if x.shape[2] == 1 else y[:, :3], (2, 3, 1, 5), False),
        (lambda net, x, y: y.clamp(max=1.0 if x.shape[2] == 1 else 2.0), (2, 3, 1, 5), False),
        (lambda net, x, y: (y.sin() if x.shape[2] == 1 else y.cos()), (2, 3, 1, 5), False),
        (lambda net, x, y: y + (y.sin() if x.shape[2] == 1 else y.cos()) * 0, (2, 3, 1, 5), False),
        (lambda net, x, y: y + torch.full((), 1.0 if x.shape[2] == 1 else 2.0), (2, 3, 1, 5), False),
        (lambda net, x, y: y - net.rows if x.shape[2] == 1 else net.rows - y, (2, 3, 1, 5), False),
    ],
)  # fmt: skip
def test_two_traces_are_one_graph_or_not(end: Callable[[Net, Tensor, Tensor], Tensor], shape: tuple[int, ...], same: bool) -> None:
    assert is_same_graph(traced(end, (2, 3, 6, 5)), traced(end, shape)) is same


def test_the_weights_count_too() -> None:
    one, other = (traced(lambda net, x, y: y + net.rows, (2, 3, 6, 5)) for _ in range(2))
    assert is_same_graph(one, other)
    with torch.no_grad():
        other.state_dict["rows"] += 1
    assert not is_same_graph(one, other)


def test_what_is_noted_on_the_other_path_is_what_it_takes() -> None:
    model = Net(lambda net, x, y: y + net.rows).eval()
    known = export_with(model, (torch.ones(2, 3, 6, 5),), {}, lambda number, axis: True, True)
    conditions = retrace(model, known, (torch.ones(2, 3, 1, 5),), {})
    assert conditions is not None
    assert allows(conditions, {"x": (4, 3, 1, 9)})
    assert not allows(conditions, {"x": (4, 3, 2, 9)})
    assert not allows(conditions, {"x": (4, 2, 1, 9)})


def test_what_the_folded_network_alone_does_not_take_is_refused_on_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_model, "narrower", lambda *given: [more_than("x", 3, 7)])
    folded = refold.fold(Net(lambda net, x, y: y + net.rows).eval(), torch.randn(2, 3, 6, 9)).model
    assert folded(torch.randn(2, 3, 1, 8)).shape == (2, 4, 6, 8)
    for shape in ((2, 3, 1, 7), (2, 3, 6, 7)):
        with pytest.raises(ValueError, match="but the network was traced for inputs where"):
            folded(torch.randn(shape))


def test_a_dtype_and_a_size_that_are_asked_for_at_once_are_refused() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor, gate: Tensor) -> Tensor:
            y: Tensor = self.norm(self.conv(x)) * gate
            return y * 2 if gate.dtype is torch.float16 and x.shape[2] > 20 else y

    model = Gated().eval()
    folded = refold.fold(model, (torch.randn(2, 3, 8, 8), torch.ones(1))).model
    x = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(folded(x, torch.ones(1)), model(x, torch.ones(1)))
    given, complaint = answer_of(folded, (x, torch.ones(1, dtype=torch.float16)))
    assert given is None
    assert "`gate` is float16, but the network was traced for inputs where it is float32" in complaint
    torch.testing.assert_close(folded(x, torch.ones(1, dtype=torch.bfloat16)), model(x, torch.ones(1, dtype=torch.bfloat16)))


def test_another_dtype_is_not_taken_at_sizes_that_were_shown_with_the_traced_one() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm, self.rows = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Parameter(torch.randn(6, 1))

        def forward(self, x: Tensor, gate: Tensor) -> Tensor:
            y: Tensor = (self.norm(self.conv(x)) + self.rows) * gate
            return y * 2 if gate.dtype is torch.float16 and x.shape[2] == 1 else y

    model = Gated().eval()
    folded = refold.fold(model, (torch.randn(2, 3, 6, 8), torch.ones(1))).model
    x, half = torch.randn(2, 3, 1, 8), torch.ones(1, dtype=torch.float16)
    torch.testing.assert_close(folded(x, torch.ones(1)), model(x, torch.ones(1)))
    given, complaint = answer_of(folded, (x, half))
    assert given is None
    assert "axis 2 of `x` is 1, but the network was traced for inputs where axis 2 of `x` is 6" in complaint
    torch.testing.assert_close(folded(torch.ones(3, 3, 6, 8), half), model(torch.ones(3, 3, 6, 8), half))
