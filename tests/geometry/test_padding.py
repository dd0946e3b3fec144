"""Paddings by trying every one; receptive fields by following every tap."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.errors import GeometryError
from refold.geometry import ReceptiveField, Window, get_padding, receptive_field, same_padding

KERNELS, STRIDES, DILATIONS = range(1, 10), range(1, 7), range(1, 5)


def keeps(padding: int, kernel: int, stride: int, dilation: int, sizes: range) -> bool:
    """Whether a symmetric padding gives ceil(n / stride) positions for all the sizes, counted one by one."""
    span = dilation * (kernel - 1) + 1
    return all(len(range(0, n + 2 * padding - span + 1, stride)) == -(-n // stride) for n in sizes)


def brute_paddings(kernel: int, stride: int, dilation: int) -> list[int]:
    """Every symmetric padding that does what `get_padding` promises."""
    even = dilation * (kernel - 1) % 2 == 0
    sizes = range(1, 80) if even else range(stride, 80, stride)
    return [padding for padding in range(40) if keeps(padding, kernel, stride, dilation, sizes)]


def test_get_padding_is_the_solution_nearest_to_the_centre() -> None:
    for kernel in KERNELS:
        for stride in STRIDES:
            for dilation in DILATIONS:
                solutions = brute_paddings(kernel, stride, dilation)
                if not solutions:
                    assert stride == 1
                    assert dilation * (kernel - 1) % 2
                    with pytest.raises(GeometryError, match="same_padding"):
                        get_padding(kernel, stride, dilation)
                    continue
                reach = dilation * (kernel - 1)
                nearest = min(solutions, key=lambda padding: abs(2 * padding - reach))
                assert get_padding(kernel, stride, dilation) == (nearest, nearest)


def test_an_odd_reach_has_no_padding_for_every_size() -> None:
    assert not [p for p in range(40) if keeps(p, kernel=4, stride=2, dilation=1, sizes=range(1, 80))]


def test_the_padding_oracle_can_fail() -> None:
    assert brute_paddings(3, 2, 1) == [1]
    assert not keeps(3, kernel=4, stride=4, dilation=1, sizes=range(4, 80, 4))  # ((stride - 1) + dilation * (kernel - 1)) // 2


def test_no_symmetric_padding() -> None:
    with pytest.raises(
        GeometryError, match=r"no symmetric padding keeps the size under kernel 2, dilation 1 and stride 1.*same_padding\(\)"
    ):
        get_padding(2)


@pytest.mark.parametrize(
    ("arguments", "padding"),
    [
        ((3,), (1, 1)),
        ((3, 2), (1, 1)),
        ((3, (1, 2), 2), (2, 2)),
        (((7, 1),), (3, 0)),
        (([5, 3, 1], 2), (2, 1, 0)),
        (((9,),), (4,)),
        ((2, 2), (0, 0)),
        ((4, 2), (1, 1)),
    ],
)
def test_ints_and_tuples(arguments: tuple[Any, ...], padding: tuple[int, ...]) -> None:
    assert get_padding(*arguments) == padding


def brute_same(n: int, kernel: int, stride: int, dilation: int) -> int:
    """The least padding under which ceil(n / stride) positions fit, found by adding one item after another."""
    span = dilation * (kernel - 1) + 1
    total = 0
    while len(range(0, n + total - span + 1, stride)) < -(-n // stride):
        total += 1
    return total


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4))
def test_same_padding_is_the_least_that_keeps_the_size(n: int, kernel: int, stride: int, dilation: int) -> None:
    total = brute_same(n, kernel, stride, dilation)
    ((before, after),) = same_padding((n,), kernel, stride, dilation)
    assert before + after == total
    assert after - before in (0, 1)
    assert same_padding((n,), kernel, stride, dilation, "lower") == ((after, before),)
    assert Window(kernel, stride, dilation, before, after).output_size(n) == -(-n // stride)
    if stride == 1:
        assert same_padding((n,), kernel, 1, dilation, "torch") == ((before, after),)


def test_the_same_padding_oracle_can_fail() -> None:
    assert brute_same(224, 3, 2, 1) == 1
    assert brute_same(225, 3, 2, 1) == 2
    assert brute_same(8, 1, 4, 1) == 0


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 3))
def test_torch_same_reads_the_same_items(n: int, kernel: int, dilation: int) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = torch.arange(1.0, n + 1).view(1, 1, n)
    weight = torch.arange(1.0, kernel + 1).view(1, 1, kernel)
    (pair,) = same_padding((n,), kernel, dilation=dilation, convention="torch")
    padded = functional.conv1d(functional.pad(x, pair), weight, dilation=dilation)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'", UserWarning)  # torch pads by hand, and says so once
        expected = functional.conv1d(x, weight, dilation=dilation, padding="same")
    assert torch.equal(padded, expected)


def test_same_padding_of_several_axes() -> None:
    assert same_padding((224, 225), 3, 2) == ((0, 1), (1, 1))
    assert same_padding(7, (2, 3, 4)) == ((0, 1), (1, 1), (1, 2))


def test_same_padding_takes_three_conventions() -> None:
    with pytest.raises(GeometryError, match=r"`convention` \(='full'\) must be 'upper', 'lower' or 'torch'"):
        same_padding(8, 3, convention="full")  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match="takes stride 1 only, not 2; use convention 'upper' or 'lower'"):
        same_padding(8, 3, 2, convention="torch")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0,), r"`kernel_size` \(=0\) must be at least 1"),
        ((3, -1), r"`stride` \(=-1\) must be at least 1"),
        ((3, 1, True), r"`dilation` \(=True\) is a truth value"),
        ((3.0,), r"`kernel_size` \(=3.0\) must be a whole number"),
        (((3, 2.5),), r"`kernel_size` \(=2.5\) must be a whole number"),
        (((3, 3), (1, 1, 1)), r"one value for each axis is needed, but `kernel_size` has 2, `stride` has 3"),
        (((),), r"one value for each axis is needed, but `kernel_size` has 0"),
    ],
)
def test_sizes_that_are_none(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        get_padding(*arguments)


@given(
    st.lists(
        st.builds(
            Window,
            kernel=st.integers(1, 4),
            stride=st.integers(1, 3),
            dilation=st.integers(1, 2),
            before=st.integers(0, 3),
            after=st.integers(0, 3),
        ),
        max_size=4,
    )
)
def test_receptive_field_follows_every_tap(chain: list[Window]) -> None:
    def items(position: int) -> set[int]:
        reached = {position}
        for window in reversed(chain):
            reached = {window.stride * p + window.dilation * tap - window.before for p in reached for tap in range(window.kernel)}
        return reached

    field = receptive_field(chain)
    first, second = items(0), items(1)
    assert field.size == max(first) - min(first) + 1
    assert field.stride == min(second) - min(first)
    assert field.before == -min(first)


def test_receptive_field_of_a_network() -> None:
    assert receptive_field([]) == ReceptiveField(size=1, stride=1, before=0, after=0)
    assert receptive_field([Window(3, before=1, after=1)] * 5).size == 11
    with pytest.raises(GeometryError, match=r"a chain that upsamples \(by 2\) moves by a fraction of an item"):
        receptive_field([Window(2, upsample=2)])
