"""Conditions on sizes: read from what torch notes, checked in the folded network."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import refold
from refold.dialects.aten._conditions import fixed_size, read_condition
from refold.dialects.aten._guard import SizeGuard, TracedInput

INPUTS = {"L['x']": "x", "L['xs'][0]": "xs_0"}


@pytest.mark.parametrize(
    ("source", "sizes", "holds"),
    [
        ("L['x'].size()[2] <= 100", (100,), True),
        ("L['x'].size()[2] <= 100", (101,), False),
        ("L['x'].size()[2] <= L['x'].size()[3]", (4, 3), False),
        ("(L['x'].size()[2] % 7) != 0", (14,), False),
        ("L['x'].size()[2] != L['x'].size()[3]", (3, 3), False),
        ("(-1 + L['xs'][0].size()[0]) // 2 == 3", (8,), True),
        ("torch.sym_max(1, L['x'].size()[0]) == L['x'].size()[0]", (5,), True),
        ("L['x'].size()[2] + ((-1)*L['x'].size()[3]) >= 0", (3, 4), False),
        ("(L['x'].size()[2] + ((-1)*L['x'].size()[3])) != 0", (4, 4), False),
        ("(L['x'].size()[2] // 4) > 1", (7,), False),
        ("(L['x'].size()[2] / 2) <= 10.0", (21,), False),
        ("math.trunc(0.5*torch.sym_float(L['x'].size()[2])) == 4", (9,), True),
        ("abs(L['x'].size()[2] + ((-1)*L['x'].size()[3])) < 3", (8, 5), False),
        ("(L['x'].size()[2] & (-1) + L['x'].size()[2]) == 0", (6,), False),
        ("(L['x'].size()[2] % (L['x'].size()[2] // 4)) == 0", (3,), False),
        ("L['x'].size()[2] != 1", (1,), False),
        ("L['x'].size()[2] >= 2", (1,), False),
        ("L['x'].size()[1] == 3", (4,), False),
        ("3*L['x'].size()[0]*((-4) + L['x'].size()[3]) >= 2", (1, 4), False),
        ("L['x'].size()[2] == 3 or L['x'].size()[2] == 5", (5,), True),
        ("not (L['x'].size()[2] == 3 and L['x'].size()[3] < 4)", (3, 3), False),
        ("1 < L['x'].size()[2] <= 4", (5,), False),
        ("(4 if L['x'].size()[2] > 8 else 2) == 4", (8,), False),
        ("round(L['x'].size()[2] / 2, 1) == 2.5", (5,), True),
        ("L['x'].size()[2] >> 1 == 2", (6,), False),
        ("math.sqrt(L['x'].size()[2]) <= math.inf", (6,), True),
    ],
)
def test_a_condition_is_read_and_holds_or_not(source: str, sizes: tuple[int, ...], holds: bool) -> None:
    condition = read_condition(source, INPUTS)
    assert condition is not None
    assert condition.holds(sizes) is holds


@pytest.mark.parametrize(
    "source",
    [
        "L['unknown'].size()[0] <= 3",
        "__import__('os').system('true') == 0",
        "L['x'].size()[2].__class__ == 3",
        "1 < 2",
        "L['x'].size()[0] <",
    ],
)
def test_what_is_no_arithmetic_of_sizes_is_not_read(source: str) -> None:
    assert read_condition(source, INPUTS) is None


def test_the_guard_says_the_size_and_the_condition() -> None:
    guard = SizeGuard([fixed_size("x", 2, 8)], [], [TracedInput("x", 3, torch.float32)])
    guard(torch.zeros(1, 3, 8))
    for one in (guard, copy.deepcopy(guard), pickle.loads(pickle.dumps(guard))):
        with pytest.raises(ValueError, match="axis 2 of `x` is 9, but the network was traced for inputs where axis 2 of `x` is 8"):
            one(torch.zeros(1, 3, 9))
    assert "axis 2 of `x` is 8" in repr(guard)


def test_the_guard_takes_what_all_conditions_of_an_alternative_allow() -> None:
    guard = SizeGuard([fixed_size("x", 2, 8)], [(fixed_size("x", 2, 4), fixed_size("x", 1, 5))], [TracedInput("x", 3, torch.float32)])
    for one in (guard, copy.deepcopy(guard), pickle.loads(pickle.dumps(guard))):
        one(torch.zeros(1, 3, 8))
        one(torch.zeros(1, 5, 4))
        with pytest.raises(ValueError, match="axis 2 of `x` is 4, but the network was traced for inputs where axis 2 of `x` is 8"):
            one(torch.zeros(1, 3, 4))
    guard.hold([fixed_size("x", 2, 8)], [], guard.inputs)
    with pytest.raises(ValueError, match="axis 2 of `x` is 8"):
        guard(torch.zeros(1, 5, 4))


class Branching(nn.Module):
    """Takes another path for wide images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn(self.conv(x))
        return y * 2 if x.shape[3] > x.shape[2] else y


def test_a_folded_network_refuses_sizes_that_take_another_path() -> None:
    model = Branching().eval()
    result = refold.fold(model, (torch.randn(1, 3, 6, 9),))
    wide = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(result.model(wide), model(wide))
    with pytest.raises(ValueError, match="traced for inputs where axis 3 of `x` is more than axis 2 of `x`"):
        result.model(torch.randn(2, 3, 7, 5))
    assert any("axis 3 of `x` is more than axis 2 of `x`" in note for note in result.report.notes)
