"""Models that hang on a size being small, where tracing takes one path for granted."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import refold
from refold.dialects.aten._trials import POINTS, _points

Sizes = tuple[int, int, int, int]


class Branching(nn.Module):
    """Gives one thing or another by its sizes."""

    def __init__(self, hangs: Callable[[int, int, int, int], bool]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.hangs = hangs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x) * 2
        return y + 1 if self.hangs(*x.shape) else y * 3


@pytest.mark.parametrize(
    ("hangs", "other"),
    [
        (lambda n, c, h, w: n == 1, (1, 3, 8, 6)),
        (lambda n, c, h, w: h == 1, (2, 3, 1, 6)),
        (lambda n, c, h, w: h >= 2, (2, 3, 1, 6)),
        (lambda n, c, h, w: h // 16 == 1, (2, 3, 16, 6)),
        (lambda n, c, h, w: h // 4 >= 2, (2, 3, 6, 6)),
    ],
    ids=["n == 1", "h == 1", "h >= 2", "h // 16 == 1", "h // 4 >= 2"],
)
def test_a_size_that_takes_another_path_is_refused(hangs: Callable[[int, int, int, int], bool], other: Sizes) -> None:
    model = Branching(hangs).double().eval()
    folded = refold.fold(model, (torch.randn(2, 3, 8, 6, dtype=torch.float64),)).model
    same = torch.randn(3, 3, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(folded(same), model(same), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="but the network was traced for inputs where"):
        folded(torch.randn(*other, dtype=torch.float64))


def test_a_plain_network_takes_every_size() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    result = refold.fold(model, (torch.randn(2, 3, 8, 6),))
    assert result.report.notes == ()
    for sizes in ((1, 3, 8, 6), (2, 3, 1, 6), (2, 3, 8, 1), (1, 3, 1, 1)):
        x = torch.randn(*sizes)
        torch.testing.assert_close(result.model(x), model(x))


@pytest.mark.parametrize(("axes", "at_once"), [(0, 0), (1, 1), (3, 3), (4, 4), (5, 3), (9, 2), (300, 1)])
def test_of_many_axes_so_many_leave_the_example_at_once_that_they_are_soon_looked_at(axes: int, at_once: int) -> None:
    sizes = [8] * axes
    points = list(_points([[0, 1, 2, 3, 5, 7, 8, 9, 33, 257, 4096]] * axes, sizes))
    assert len(points) == len(set(points)) <= POINTS
    assert max(sum(one != 8 for one in point) for point in points) == at_once
    assert len(points) == sum(math.comb(axes, moved) * 10**moved for moved in range(at_once + 1))


def test_a_relation_of_many_axes_is_settled(seed: int) -> None:
    """As stacking two inputs of five axes asks for: a relation of nine axes at once, of which no one can look at every choice."""

    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm3d(8)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.stack([x, self.norm(y), y], 1) * 2.0

    inputs = torch.randn(2, 8, 3, 4, 5), torch.randn(2, 8, 3, 4, 5)
    model = Stacked().eval()
    folded = refold.fold(model, inputs).model
    for shape in ((1, 8, 3, 4, 5), (2, 8, 5, 3, 7)):
        others = torch.randn(shape), torch.randn(shape)
        torch.testing.assert_close(folded(*others), model(*others))
    with pytest.raises(ValueError, match="but the network was traced for inputs where axis"):
        folded(torch.randn(2, 8, 3, 4, 5), torch.randn(2, 8, 3, 4, 6))
