"""Formulas: evaluation in blocks, levels, linear parts and keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refold.algebra import (
    AffineConv,
    Formula,
    Leaf,
    Mode,
    Obstruction,
    Sizes,
    Sum,
    _kernels,
    add_formulas,
    compose_formulas,
    convolution,
    linear,
    scale_and_shift,
)
from refold.geometry import Window
from tests.algebra.drawn import expressions
from tests.algebra.oracle import apply, numbers, probe, tensor


@given(expressions(), st.integers(1, 60))
def test_evaluation_in_blocks_is_evaluation_at_once(drawn: tuple[Formula, Sizes], numbers_at_a_time: int) -> None:
    formula, _ = drawn
    whole = formula.evaluate()
    with mock.patch("refold.algebra._formula.BLOCK", numbers_at_a_time):
        parts = formula.evaluate(np.float64)
    assert parts.stencil == whole.stencil
    assert np.array_equal(parts.kernel, whole.kernel)
    assert np.array_equal(parts.bias, whole.bias)


@given(expressions())
def test_a_level_is_what_a_constant_becomes(drawn: tuple[Formula, Sizes]) -> None:
    formula, _ = drawn
    value = formula.evaluate()
    level = numbers(7, value.in_channels)
    inside = replace(value, windows=tuple(replace(window, before=0, after=0) for window in value.windows), mode="constant", fill=None)
    sizes = [window.span for window in value.windows]
    x = torch.from_numpy(level).reshape(1, -1, *([1] * len(sizes))).expand(1, -1, *sizes)
    assert torch.equal(apply(inside, x).flatten(1)[0], tensor(formula.level(level)))
    assert torch.equal(apply(inside, 0 * x).flatten(1)[0], tensor(formula.level(None)))
    assert not torch.equal(apply(inside, x + 1).flatten(1)[0], tensor(formula.level(level))) or not value.kernel.any() or _cancels(value)


def _cancels(value: AffineConv) -> bool:
    """Whether ones in every channel make no difference."""
    return not value.kernel.reshape(value.out_channels, -1).sum(1).any()


def as_formula(result: object) -> Formula:
    """The formula that a law gave."""
    assert isinstance(result, Formula)
    return result


def test_a_formula_is_evaluated_in_blocks_to_the_dtype_that_is_asked_for() -> None:
    first = AffineConv(np.asarray(numbers(1, 6, 4, 3), dtype=np.float32), np.zeros(6, np.float32), (Window(3),), 1)
    second = AffineConv(numbers(2, 8, 3, 1), numbers(3, 8), (Window(1),), 2)
    formula = as_formula(compose_formulas(Leaf(second), Leaf(first), (None,)))
    calls = []
    original = type(formula).block

    def counted(self: Formula, rows: range | None, memo: dict[int, AffineConv]) -> AffineConv:
        calls.append(rows)
        return original(self, rows, memo)

    with mock.patch("refold.algebra._formula.BLOCK", 36), mock.patch.object(type(formula), "block", counted):
        value = formula.evaluate(np.float32)
    assert calls == [range(3), range(3, 6), range(6, 8)]
    assert value.kernel.dtype == value.bias.dtype == np.float32
    assert np.array_equal(value.kernel, formula.evaluate().kernel)


def test_the_comparison_of_blocks_can_fail() -> None:
    leaf = Leaf(convolution(numbers(1, 6, 2, 3)))
    with mock.patch("refold.algebra._formula.BLOCK", 6), mock.patch("refold.algebra._kernels.dense_rows", lambda kernel, *_: kernel[:1]):
        assert not np.array_equal(leaf.evaluate(np.float64).kernel, leaf.evaluate().kernel)


def test_the_linear_part_of_a_fill() -> None:
    value = convolution(numbers(1, 2, 2, 3), numbers(2, 2), padding=1, fill=np.array([3.0, 5.0]))
    part = Leaf(value).linear_part().evaluate()
    x, y = probe(3, 2, (6,)), probe(4, 2, (6,))
    assert part.fill is None
    assert torch.equal(apply(part, x), apply(value, x) - apply(value, 0 * x))
    assert torch.equal(apply(value, x + y), apply(value, x) + apply(part, y))
    assert not torch.equal(apply(replace(value, bias=0 * value.bias), x), apply(part, x))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_the_linear_part_keeps_a_padding_mode_that_is_linear(mode: Mode) -> None:
    value = convolution(numbers(1, 2, 2, 3), numbers(2, 2), padding=1, mode=mode)
    part = Leaf(value).linear_part().evaluate()
    x = probe(3, 2, (6,))
    assert torch.equal(apply(part, x), apply(value, x) - apply(value, 0 * x))


def test_keys_are_equal_for_the_same_numbers_alone() -> None:
    value, other = convolution(numbers(1, 2, 2, 3), padding=1), convolution(numbers(2, 2, 2, 1))
    one, again, strange = Leaf(value, origin="a"), Leaf(value, origin="a"), Leaf(other, origin="b")
    assert one.key == again.key != strange.key
    assert Leaf(value).key == Leaf(value).key != Leaf(replace(value)).key
    assert Leaf(value, origin="a").key != Leaf(replace(value, windows=(Window(3),)), origin="a").key
    sums = [as_formula(add_formulas(*pair, (None,))) for pair in ((one, strange), (again, strange), (strange, one))]
    assert sums[0].key == sums[1].key != sums[2].key
    assert sums[0].key != as_formula(compose_formulas(one, strange, (None,))).key
    assert one.linear_part().key == again.linear_part().key != one.key
    assert sums[0].linear_part().key == sums[1].linear_part().key != sums[0].key


def test_keys_tell_apart_what_the_size_makes_of_the_same_values() -> None:
    """A module called at two sizes: the union of its branches takes another padding at each."""
    conv = Leaf(convolution(numbers(1, 2, 2, 3), stride=3, padding=[(2, 0)]), origin="conv")
    pool = Leaf(convolution(numbers(2, 2, 2, 2), stride=3), origin="pool")
    made = {n: as_formula(add_formulas(conv, pool, (n,))) for n in (8, 9)}
    assert made[9].stencil != made[8].stencil
    assert made[9].key != made[8].key
    assert made[9].key == as_formula(add_formulas(conv, pool, (9,))).key


def test_keys_tell_apart_constants() -> None:
    """At one size nothing is read outside; at another the shift needs a fill."""
    norm = Leaf(scale_and_shift(numbers(1, 2), numbers(2, 2), 1), origin="norm")
    conv = Leaf(AffineConv(numbers(3, 2, 2, 1), numbers(4, 2), (Window(1, 3, after=1),)), origin="conv")
    inside, outside = (as_formula(compose_formulas(conv, norm, (n,))) for n in (7, 9))
    assert inside.stencil == outside.stencil
    assert inside.fill is None
    assert outside.fill is not None
    assert inside.key != outside.key


def test_leaves_come_from_the_outermost_in() -> None:
    a, b, c = (Leaf(convolution(numbers(i, 2, 2, 1))) for i in range(3))
    formula = as_formula(add_formulas(as_formula(compose_formulas(a, b, (None,))), c, (None,)))
    assert list(formula.leaves()) == [a, b, c]


@given(expressions())
def test_no_number_of_a_kernel_is_above_its_peak(drawn: tuple[Formula, Sizes]) -> None:
    formula, _ = drawn
    largest = float(abs(formula.evaluate().kernel).max())
    assert largest <= formula.peak
    assert formula.peak == largest or not isinstance(formula, Leaf)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_peak_of_what_is_not_finite_is_not(bad: float) -> None:
    kernel = numbers(1, 2, 2, 3)
    kernel[1, 0, 2] = bad
    broken, whole = Leaf(convolution(kernel)), Leaf(convolution(numbers(2, 2, 2, 1)))
    for formula in (broken, as_formula(compose_formulas(whole, broken, (None,))), as_formula(compose_formulas(broken, whole, (None,)))):
        assert not np.isfinite(formula.peak)


def test_a_formula_makes_its_linear_part_once() -> None:
    """Formulas share parts: made anew for each of those who ask, linear parts of deep sums are all that planning does."""
    total: Formula = Leaf(convolution(np.ones((2, 2, 1))))
    for _ in range(9):
        doubled = add_formulas(total, total, (None,))
        assert isinstance(doubled, Formula)
        total = doubled
    part = total.linear_part()
    assert part is total.linear_part()
    assert isinstance(part, Sum)
    assert part.left is part.right


def grown(grow: Callable[[Formula], Formula | Obstruction]) -> Formula:
    """What a formula comes to by an operation again and again, until it is refused."""
    formula: Formula = Leaf(linear(np.eye(2)))
    while not isinstance(result := grow(formula), Obstruction):
        formula = result
    assert "made of more than 100 operations within one another, or of more than 1,024 values" in result.fact
    return formula


def test_a_formula_grows_as_deep_and_as_large_as_it_can_be_worked_out() -> None:
    one = Leaf(linear(np.eye(2)))
    for law in (compose_formulas, add_formulas):
        assert grown(lambda formula, law=law: law(one, formula, ())).depth == 100  # type: ignore[misc]
        assert grown(lambda formula, law=law: law(formula, one, ())).depth == 100  # type: ignore[misc]
        assert grown(lambda formula, law=law: law(formula, formula, ())).size == 1024  # type: ignore[misc]


def test_a_formula_is_as_large_as_the_values_that_it_is_made_of() -> None:
    one = Leaf(linear(np.eye(2)))
    two = add_formulas(one, one, ())
    assert isinstance(two, Formula)
    three = compose_formulas(one, two, ())
    assert isinstance(three, Formula)
    assert [(each.size, each.depth, len(list(each.leaves()))) for each in (one, two, three)] == [(1, 0, 1), (2, 1, 2), (3, 2, 3)]


def test_a_kernel_that_has_its_groups_already_is_not_copied() -> None:
    kernel = numbers(1, 4, 2, 3)
    assert _kernels.regroup(kernel, 2, 2) is kernel
    assert _kernels.regroup(kernel, 2, 1).shape == (4, 4, 3)
    assert np.shares_memory(_kernels.dense_rows(kernel, 1, range(1, 3)), kernel)
    assert np.array_equal(_kernels.dense_rows(kernel, 1, range(1, 3)), kernel[1:3])
