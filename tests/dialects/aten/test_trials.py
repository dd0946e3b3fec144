"""Models that hang on a size being small, where tracing takes one path for granted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import refold

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
