"""Forward may read its own parameters: the numbers are those that the network holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import refold
from refold.dialects.aten._numbers import _is_single
from tests.dialects.aten.nets import fold_exactly


class Gated(nn.Module):
    """Two branches; `rule` makes the output of them and of what the module holds."""

    flag: Tensor
    times: Tensor

    def __init__(self, alpha: float, rule: Callable[[Gated, Tensor], Tensor]) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.narrow = nn.Conv2d(4, 4, 1, bias=False)
        self.alpha = nn.Parameter(torch.full((1,), alpha))
        self.register_buffer("flag", torch.tensor(alpha > 0))
        self.register_buffer("times", torch.tensor(2))
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)


def truth(m: Gated, x: Tensor) -> Tensor:
    y: Tensor = m.wide(x) + m.alpha * m.narrow(x) if m.alpha else m.wide(x) + m.narrow(x)
    return y


def comparison(m: Gated, x: Tensor) -> Tensor:
    y: Tensor = m.wide(x) + (m.narrow(x) if 2 * m.alpha.abs() + 1 > 2 else x)
    return y


def item(m: Gated, x: Tensor) -> Tensor:
    y: Tensor = m.wide(x) + m.alpha.item() * m.narrow(x)
    return y


def number(m: Gated, x: Tensor) -> Tensor:
    y: Tensor = m.wide(x) + float(m.alpha) * m.narrow(x)
    return y


def buffer(m: Gated, x: Tensor) -> Tensor:
    y: Tensor = m.wide(x) + m.narrow(x) if m.flag else m.wide(x) + x
    return y


def option(m: Gated, x: Tensor) -> Tensor:
    y: Tensor = m.wide(x) + m.alpha.add(1, alpha=2) * m.narrow(x)
    return y


def loop(m: Gated, x: Tensor) -> Tensor:
    for _ in range(m.times):
        x = x + m.narrow(x)
    return x


@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("rule", [truth, comparison, item, number, buffer, option, loop])
def test_numbers_are_read_while_tracing(rule: Callable[[Gated, Tensor], Tensor], alpha: float) -> None:
    torch.manual_seed(0)
    model = Gated(alpha, rule).double().eval()
    result = fold_exactly(model, torch.randn(2, 4, 7, 8, dtype=torch.float64))
    assert result.report.after.convolutions == 1
    assert type(model.alpha.data) is Tensor


@pytest.mark.parametrize(("shape", "single"), [((), True), ((1,), True), ((1, 1), True), ((2,), False), ((1, 3), False), ((0,), False)])
def test_only_what_holds_one_number_is_known(shape: tuple[int, ...], single: bool) -> None:
    """Values of whole weights would be a copy of the network."""
    assert _is_single(torch.zeros(shape)) == single


def test_what_hangs_on_the_input_is_still_refused_with_its_own_message() -> None:
    model = Gated(1.0, lambda m, x: m.wide(x) if 2 * m.alpha > 0 and x.sum() > 0 else x)
    with pytest.raises(refold.FoldError, match=r"cannot trace the model: GuardOnDataDependent.*take data-dependent control flow out"):
        refold.fold(model, (torch.randn(2, 4, 7, 8),))


def first_call(m: Gated, x: Tensor) -> Tensor:
    y: Tensor = m.wide(x) if m.times > 2 else m.narrow(x)
    m.times.fill_(3)
    return y


def counted(m: Gated, x: Tensor) -> Tensor:
    m.times += 1
    y: Tensor = m.wide(x) if m.times > 4 else m.narrow(x)
    return y


def replaced(m: Gated, x: Tensor) -> Tensor:
    y: Tensor = m.wide(x) if m.times.item() > 2 else m.narrow(x)
    m.times = m.times + 1
    return y


@pytest.mark.parametrize("rule", [first_call, counted, replaced])
def test_a_number_that_forward_also_writes_to_is_not_taken_as_known(rule: Callable[[Gated, Tensor], Tensor]) -> None:
    """The next call would take the other branch, and a folded network would not."""
    with pytest.raises(refold.FoldError, match="forward reads the number in `times` and writes to it, so that each call is another"):
        refold.fold(Gated(1.0, rule), (torch.randn(2, 4, 7, 8),))


def test_a_number_drawn_at_random_is_not_taken_as_known() -> None:
    model = Gated(1.0, lambda m, x: m.wide(x) if torch.rand_like(m.alpha) > 0.5 else m.narrow(x))
    with pytest.raises(refold.FoldError, match="GuardOnDataDependent"):
        refold.fold(model, (torch.randn(2, 4, 7, 8),))


def with_a_size(m: Gated, x: Tensor) -> Tensor:
    y: Tensor = m.wide(x) * (2 if m.alpha * x.shape[2] > 9 else 3)
    return y


def test_a_number_that_hangs_on_a_size_is_known_for_that_size_alone() -> None:
    model = Gated(1.5, with_a_size).double().eval()
    tall, low = (torch.randn(2, 4, rows, 8, dtype=torch.float64) for rows in (8, 4))
    folded = refold.fold(model, (tall,)).model
    torch.testing.assert_close(folded(tall), model(tall))
    with pytest.raises(ValueError, match="axis 2 of `x` is 4"):
        folded(low)


def by_its_overload(m: Gated, x: Tensor) -> Tensor:
    torch.ops.aten.add_.Tensor(m.times, 1)
    y: Tensor = m.wide(x) if m.times > 4 else m.narrow(x)
    return y


def by_an_option(m: Gated, x: Tensor) -> Tensor:
    F.leaky_relu(m.alpha, 0.5, True)
    y: Tensor = m.wide(x) if m.alpha < -1 else m.narrow(x)
    return y


@pytest.mark.parametrize("rule", [by_its_overload, by_an_option])
def test_a_write_is_seen_by_what_it_changes(rule: Callable[[Gated, Tensor], Tensor]) -> None:
    with pytest.raises(refold.FoldError, match="writes to it, so that each call is another"):
        refold.fold(Gated(-2.0, rule), (torch.randn(2, 4, 7, 8),))


def test_what_is_written_to_a_copy_is_no_write_to_the_parameter() -> None:
    def rule(m: Gated, x: Tensor) -> Tensor:
        copy = m.alpha.clone()
        copy += 1
        y: Tensor = m.wide(x) + m.narrow(x) if copy > 2 else m.wide(x)
        return y

    result = fold_exactly(Gated(1.5, rule).double().eval(), torch.randn(2, 4, 7, 8, dtype=torch.float64))
    assert result.report.after.convolutions == 1
