"""Operators that rearrange, average or take parts, in each spelling: layers on both sides of them become one, or stay and are right."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

import refold
from refold.dialects.aten._rearranging import _size
from tests.families.test_folding import EXACT, distances, noise, settled

SHAPE = (2, 4, 5, 6)


class Between(nn.Module):
    """relu of a linear map of the channels behind an operator behind a norm of the channels."""

    def __init__(self, operator: Callable[[Tensor], Tensor], behind: nn.Module) -> None:
        super().__init__()
        self.norm, self.operator, self.behind = nn.BatchNorm2d(4), operator, behind

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.behind(self.operator(self.norm(x))))


LAST: dict[str, Callable[[Tensor], Tensor]] = {
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "permute, counted from the end": lambda x: x.permute(-4, -2, -1, -3),
    "transposed twice": lambda x: x.transpose(1, 2).transpose(2, 3),
    "transposed, counted from the end": lambda x: x.transpose(1, -2).transpose(-2, -1),
    "swapaxes": lambda x: x.swapaxes(1, 3).swapaxes(1, 2),
    "movedim": lambda x: x.movedim(1, 3),
    "movedim, counted from the end": lambda x: x.movedim(-3, -1),
    "flattened": lambda x: x.flatten(2).transpose(1, 2),
    "flattened in the middle": lambda x: x.permute(0, 2, 3, 1).flatten(1, 2),
    "mT": lambda x: x.flatten(2).mT,
    "viewed": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4),
    "unsqueezed": lambda x: x.permute(0, 2, 3, 1).unsqueeze(1),
    "unsqueezed and squeezed": lambda x: x.permute(0, 2, 3, 1).unsqueeze(2).squeeze(2),
    "averaged": lambda x: x.mean((2, 3)),
    "averaged over one axis": lambda x: x.mean(2).transpose(1, 2),
    "averaged, counted from the end": lambda x: x.mean((-1, -2), keepdim=True).permute(0, 2, 3, 1),
    "averaged by a layer": lambda x: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
}


@pytest.mark.parametrize("name", LAST)
def test_a_norm_joins_a_linear_layer_behind_channels_put_last(name: str, seed: int) -> None:
    model, x = settled(Between(LAST[name], nn.Linear(4, 3))), noise(*SHAPE)
    result = refold.fold(model, (x,))
    after = result.report.after
    assert (after.linears + after.convolutions, after.batch_norms) == (1, 0)
    assert after.operators < result.report.before.operators
    for one in (x, noise(3, *SHAPE[1:])):
        assert distances(model(one), result.model(one)) < EXACT


PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "the first of two": lambda x: x.chunk(2, 1)[0],
    "the second of two": lambda x: x.chunk(2, 1)[1],
    "the last by its sizes": lambda x: x.split([1, 1, 2], 1)[2],
    "the second by one size": lambda x: x.split(2, -3)[1],
    "narrow": lambda x: x.narrow(1, 1, 2),
    "a slice": lambda x: x[:, 1:3],
    "a slice by steps": lambda x: x[:, 1::2],
    "a slice from the end": lambda x: x[:, -2:],
    "listed": lambda x: x.index_select(1, torch.tensor([3, 0])),
}


class PartThenNorm(nn.Module):
    """relu of a norm of a part of what a convolution gives."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.operator, self.norm = nn.Conv2d(4, 4, 3), operator, nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.operator(self.conv(x))))


@pytest.mark.parametrize("name", PARTS)
def test_a_convolution_makes_only_the_part_that_is_taken(name: str, seed: int) -> None:
    model, x = settled(PartThenNorm(PARTS[name])), noise(*SHAPE)
    result = refold.fold(model, (x,))
    after = result.report.after
    assert (after.convolutions, after.batch_norms, after.operators) == (1, 0, 2)
    for one in (x, noise(3, 4, 7, 8)):
        assert distances(model(one), result.model(one)) < EXACT


APART: dict[str, Callable[[Tensor], Tensor]] = {
    "a mean over the channels": lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1).permute(0, 2, 3, 1),
    "channels and rows as one axis": lambda x: x.flatten(1, 2).unflatten(1, (5, 4)).permute(0, 1, 3, 2),
    "a shape stated in numbers": lambda x: x.flatten(2).unflatten(2, (5, 6)).permute(0, 2, 3, 1),
    "the batch as channels": lambda x: x.permute(1, 2, 3, 0)[..., :1].expand(-1, -1, -1, 4),
    "a part of the batch": lambda x: x.permute(0, 2, 3, 1)[:1],
}


@pytest.mark.parametrize("name", APART)
def test_what_tears_the_channels_apart_is_left_and_right(name: str, seed: int) -> None:
    model, x = settled(Between(APART[name], nn.Linear(4, 3))), noise(*SHAPE)
    result = refold.fold(model, (x,))
    assert distances(model(x), result.model(x)) < EXACT


@pytest.mark.parametrize("equation", ["nchw,oc->nohw", "oc,nchw->nohw", "nchw,co->nohw", "nhwc,oc->nhwo", "nhwc,co->nhwo"])
def test_an_einsum_is_a_linear_layer(equation: str, seed: int) -> None:
    class Einsum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.matrix = nn.BatchNorm2d(4), nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            y = y if "nchw" in equation else y.permute(0, 2, 3, 1)
            operands = (self.matrix, y) if equation.startswith("oc") else (y, self.matrix)
            return torch.relu(torch.einsum(equation, *operands))

    model, x = settled(Einsum()), noise(*SHAPE)
    result = refold.fold(model, (x,))
    assert result.report.after.batch_norms == 0
    assert distances(model(x), result.model(x)) < EXACT


class Narrowed(nn.Module):
    """A layer of the first channels of another, as many as the input has rows."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.behind = nn.Conv2d(4, 9, 1), nn.Conv2d(9, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.front(x)
        z: Tensor = torch.relu(self.behind(y)) + y.narrow(1, 0, x.shape[2]).mean(1, keepdim=True)
        return z


class Split(nn.Module):
    """The rest of the channels, behind as many as the input has rows, and the lower half of those."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.behind = nn.Conv2d(4, 9, 1), nn.Conv2d(9, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.front(x)
        _, rest = y.split([x.shape[2], 9 - x.shape[2]], 1)
        _, low = self.behind(y).split([1, x.shape[2] - 1], 2)
        z: Tensor = rest.mean((1, 2)) + low.mean((1, 2))
        return z


@pytest.mark.parametrize("make", [Narrowed, Split])
def test_as_many_channels_as_a_free_size_says_are_left_to_the_network(make: type[nn.Module], seed: int) -> None:
    model = settled(make())
    folded = refold.fold(model, (noise(*SHAPE),)).model
    for rows in (5, 3):
        x = noise(2, 4, rows, 6)
        assert distances(model(x), folded(x)) <= EXACT


N, M = sympy.symbols("n m", integer=True, positive=True)


@pytest.mark.parametrize(
    ("size", "known", "free"),
    [(4 * N, 4, ["n"]), (6 * N**2 * M, 6, ["m", "n", "n"]), (2**N, 1, ["2**n"]), (M / N, 1, ["1/n", "m"]), (N + 1, 1, ["n + 1"])],
)
def test_a_free_size_is_the_product_of_its_factors(size: Any, known: int, free: list[str]) -> None:
    traced = SimpleNamespace(node=SimpleNamespace(expr=size))
    assert _size(traced) == (known, tuple(free))
    assert known * math.prod(map(sympy.sympify, free)) == sympy.sympify(str(size))
