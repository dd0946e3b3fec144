"""Paddings in disguise: borders written by assignment, canvases, concatenations; and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refold.dialects.aten import AtenModel, _layout
from refold.dialects.aten._constants import Constants
from refold.dialects.aten._layout import find_padding
from tests.dialects.aten.nets import Net, conv, expected_of, noise, settled, table_left, weight

Fill = Callable[[Tensor, Tensor], Tensor]


def by_slices(x: Tensor, level: Tensor) -> Tensor:
    y = F.pad(x, (1, 1, 1, 1))
    y[:, :, 0:1, :] = level
    y[:, :, -1:, :] = level
    y[:, :, :, 0:1] = level
    y[:, :, :, -1:] = level
    return y


def by_places(x: Tensor, level: Tensor) -> Tensor:
    y = F.pad(x, (1, 1, 1, 1))
    for place in (0, -1):
        y[:, :, place] = level[:, :, 0]
        y[:, :, :, place] = level[:, :, 0]
    return y


def by_canvas(x: Tensor, level: Tensor) -> Tensor:
    y = x.new_zeros(x.shape[0], x.shape[1], x.shape[2] + 2, x.shape[3] + 2)
    y[:] = level
    y[:, :, 1:-1, 1:-1] = x
    return y


def by_concatenation(x: Tensor, level: Tensor) -> Tensor:
    row = level.expand(x.shape[0], -1, 1, x.shape[3])
    y = torch.cat([row, x, row], 2)
    column = level.expand(x.shape[0], -1, x.shape[2] + 2, 1)
    return torch.cat([column, y, column], 3)


def by_copy(x: Tensor, level: Tensor) -> Tensor:
    y = F.pad(x, (1, 1, 1, 1))
    for border in (y[:, :, :1], y[:, :, -1:], y[:, :, :, :1], y[:, :, :, -1:]):
        border.copy_(level.expand_as(border))
    return y


class Filled(nn.Module):
    """B K3 (pad of B(K1 x) with what that makes of nothing): one 3x3 convolution of x in zeros."""

    def __init__(self, fill: Fill, *, level: Callable[[Any], Tensor] | None = None, inputs: int = 4) -> None:
        super().__init__()
        self.point, self.norm = nn.Conv2d(inputs, 5, 1, bias=False), nn.BatchNorm2d(5)
        self.whole = conv(5, 6, padding=0)
        self.fill, self.level = fill, level

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if self.level is None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            level = norm.bias.detach() - norm.running_mean * norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        else:
            level = self.level(norm)
        y: Tensor = self.whole(self.fill(norm(self.point(x)), level.view(1, -1, 1, 1)))
        return y


def test_borders_of_the_norm_s_own_constant(seed: int) -> None:
    one = ["Conv2d"]
    rows = {
        "slices": (Filled(by_slices), one),
        "places": (Filled(by_places), one),
        "canvas": (Filled(by_canvas), one),
        "concatenation": (Filled(by_concatenation), one),
        "copy": (Filled(by_copy), one),
    }
    assert table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)) == expected_of(rows)


def incomplete(x: Tensor, level: Tensor) -> Tensor:
    y = F.pad(x, (1, 1, 1, 1))
    y[:, :, 0:1, :] = level
    return y


def uneven(x: Tensor, level: Tensor) -> Tensor:
    y = by_slices(x, level)
    y[:, :, :1] = 2 * level
    return y


def inside(x: Tensor, level: Tensor) -> Tensor:
    y = by_slices(x, level)
    y[:, :, 2:3, 2:3] = level
    return y


def turned(x: Tensor, level: Tensor) -> Tensor:
    y = by_slices(x.flip(2), level)
    return y[:, :, :, :]


LOOKS_LIKE_ONE: dict[str, Fill] = {"one side": incomplete, "two levels": uneven, "a place inside": inside}


@pytest.mark.parametrize("fill", LOOKS_LIKE_ONE.values(), ids=LOOKS_LIKE_ONE)
def test_what_only_looks_like_a_padding_is_left_and_right(fill: Fill, seed: int) -> None:
    rows = {"row": (Filled(fill), ["unknown"])}
    (found,) = table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)).values()
    assert found[-1] == "conv2d"
    assert len(found) > 2


def test_a_fill_that_the_first_map_does_not_make_is_not_composed(seed: int) -> None:
    rows = {"row": (Filled(by_slices, level=lambda norm: norm.bias + 1), ["unknown"])}
    (found,) = table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)).values()
    assert found[-1] == "conv2d"


def test_a_turned_input_is_the_root_of_the_padding(seed: int) -> None:
    rows = {"row": (Filled(turned), ["unknown"])}
    (found,) = table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)).values()
    assert "flip" in found


def test_sizes_that_are_tried_in_pairs_differ_by_odd_numbers() -> None:
    """What hangs on a remainder modulo 2, 4, 8 comes out otherwise at the second of a pair, on each axis."""
    for pair in _layout.TRIALS:
        first, second = ([size + step * axis for axis in range(4)] for size, step in pair)
        assert all((mine - theirs) % 2 for mine, theirs in zip(first, second, strict=True))
    assert sorted(_layout.TRIALS) == list(_layout.TRIALS)


def by_a_number(x: Tensor) -> Tensor:
    y = F.pad(x, (1, 1, 1, 1))
    for border in (y[:, :, :1], y[:, :, -1:], y[:, :, :, :1], y[:, :, :, -1:]):
        border.fill_(0.5)
    return y


def by_a_number_assigned(x: Tensor) -> Tensor:
    y = F.pad(x, (1, 1, 1, 1))
    y[:, :, :1] = 0.5
    y[:, :, -1:] = 0.5
    y[:, :, :, :1] = 0.5
    y[:, :, :, -1:] = 0.5
    return y


@pytest.mark.parametrize("fill", [by_a_number, by_a_number_assigned])
def test_a_border_of_one_number(fill: Callable[[Tensor], Tensor], seed: int) -> None:
    program = AtenModel(settled(Net(lambda s, x: fill(s.a(x)), a=conv(4, 6))), (noise(2, 4, 5, 6),)).traced.program
    *_, end = program.graph.nodes
    found = find_padding(end.args[0][0], Constants(program))
    assert found is not None
    assert found.pads == ((1, 1), (1, 1))
    assert found.fill.tolist() == [0.5] * 6


def test_a_part_of_a_value_with_an_axis_more_is_no_padding_of_it(seed: int) -> None:
    def written(x: Tensor) -> Tensor:
        y = F.pad(x[:, :, 0], (1, 1, 1, 1))
        y[:, :, :1] = 0.0
        return y

    program = AtenModel(settled(Net(lambda s, x: written(x))), (noise(2, 4, 1, 5, 6),)).traced.program
    *_, end = program.graph.nodes
    assert str(end.args[0][0].target) == "aten.slice_scatter.default"
    assert find_padding(end.args[0][0], Constants(program)) is None


def test_a_border_written_with_places_of_another_axis_is_no_padding(seed: int) -> None:
    """As many rows as channels, so that a channel fits where a row is."""

    def written(x: Tensor) -> Tensor:
        y = F.pad(x, (1, 1, 1, 1))
        y[:, :, -1].copy_(y[:, 0].clone())
        return y

    program = AtenModel(settled(Net(lambda s, x: written(s.a(x)), a=conv(4, 4))), (noise(2, 4, 2, 6),)).traced.program
    *_, end = program.graph.nodes
    assert find_padding(end.args[0][0], Constants(program)) is None


def test_each_side_is_padded_by_its_own(seed: int) -> None:
    def written(x: Tensor, level: Tensor) -> Tensor:
        y = F.pad(x, (0, 1, 3, 0))
        y[:, :, :3] = level
        y[:, :, :, -1:] = level
        return y

    model = settled(Net(lambda s, x: written(x, s.level.view(1, -1, 1, 1)), level=weight(4)))
    program = AtenModel(model, (noise(2, 4, 5, 6),)).traced.program
    *_, end = program.graph.nodes
    found = find_padding(end.args[0][0], Constants(program))
    assert found is not None
    assert found.pads == ((3, 0), (0, 1))


@pytest.mark.parametrize("fill", [by_slices, by_places, by_canvas, by_concatenation, by_copy], ids=lambda fill: str(fill.__name__))
def test_the_padding_that_is_found(fill: Fill, seed: int) -> None:
    level = torch.tensor([0.5, 2.0, -1.0, 0.0], dtype=torch.float64)
    model = settled(Net(lambda s, x: fill(x, s.level.view(1, -1, 1, 1)), level=nn.Parameter(level)))
    program = AtenModel(model, (noise(2, 4, 5, 6),)).traced.program
    *_, end = program.graph.nodes
    found = find_padding(end.args[0][0], Constants(program))
    assert found is not None
    assert found.pads == ((1, 1), (1, 1))
    assert found.root.op == "placeholder"
    assert torch.equal(found.fill, level)


def test_a_padding_that_would_take_much_memory_to_follow_is_left(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    model = settled(Net(lambda s, x: by_slices(x, s.level.view(1, -1, 1, 1)), level=weight(4)))
    program = AtenModel(model, (noise(2, 4, 5, 6),)).traced.program
    *_, end = program.graph.nodes
    assert find_padding(end.args[0][0], Constants(program)) is not None
    monkeypatch.setattr(_layout, "LARGEST", 100)
    assert find_padding(end.args[0][0], Constants(program)) is None


def test_rows_along_one_axis(seed: int) -> None:
    model = Net(lambda s, x: s.a(torch.cat([s.z.expand(x.shape[0], -1, 2), x], 2)), a=nn.Conv1d(4, 6, 3), z=weight(1, 4, 1) * 0)
    rows = {"row": (nn.Sequential(model, nn.BatchNorm1d(6)), ["pad", "Conv1d"])}
    assert table_left(rows, noise(2, 4, 9), noise(3, 4, 12)) == expected_of(rows)
