"""`Window` against an oracle that lists every place each position reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refold.errors import GeometryError
from refold.geometry import Window


def reads(window: Window, position: int) -> list[int]:
    """Places that one position reads, place 0 being the first of the input."""
    return [window.stride * position + window.dilation * tap - window.before for tap in range(window.kernel)]


def brute_positions(window: Window, n: int) -> int:
    """Positions whose taps all lie on the input or its padding, found by trying one after another."""
    end = (n - 1) * window.upsample + 1 + window.after
    positions = 0
    while reads(window, positions)[-1] < end:
        positions += 1
    return positions


def brute_reads_after(window: Window, n: int) -> bool:
    places = (n - 1) * window.upsample + 1
    return any(place >= places for place in reads(window, brute_positions(window, n) - 1))


@st.composite
def windows(draw: st.DrawFn, upsample: int = 3, negative: bool = True) -> Window:
    low = -3 if negative else 0
    return Window(
        kernel=draw(st.integers(1, 5)),
        stride=draw(st.integers(1, 4)),
        dilation=draw(st.integers(1, 3)),
        before=draw(st.integers(low, 5)),
        after=draw(st.integers(low, 5)),
        upsample=draw(st.integers(1, upsample)),
    )


lengths = st.integers(1, 40)


def fits(window: Window, n: int) -> bool:
    return window.places(n) + window.excess >= 0


@given(windows(), lengths)
def test_output_size_counts_the_positions_that_fit(window: Window, n: int) -> None:
    if fits(window, n):
        assert window.output_size(n) == brute_positions(window, n)
    else:
        assert brute_positions(window, n) == 0
        with pytest.raises(GeometryError, match="does not fit"):
            window.output_size(n)


def test_the_position_oracle_can_fail() -> None:
    assert brute_positions(Window(3, stride=2), 7) == 3
    assert brute_positions(Window(3, stride=2), 8) != Window(3, stride=2, after=1).output_size(8)


@given(windows(), lengths)
def test_reads_before_and_after(window: Window, n: int) -> None:
    assume(fits(window, n))
    assert window.reads_before() == (min(reads(window, 0)) < 0)
    assert window.reads_after(n) == brute_reads_after(window, n)


@given(windows())
def test_reads_after_some_size(window: Window) -> None:
    sizes = [n for n in range(1, 60) if fits(window, n)]
    assert window.reads_after() == any(brute_reads_after(window, n) for n in sizes)


def test_the_border_oracle_can_fail() -> None:
    assert brute_reads_after(Window(3, stride=2, before=1, after=1), 7)
    assert not brute_reads_after(Window(3, stride=2, before=1, after=1), 8)


@given(windows(), windows(upsample=1))
def test_then_reads_what_the_second_reads_of_the_first(first: Window, second: Window) -> None:
    both = first.then(second)
    for position in range(4):
        needed = {place for middle in reads(second, position) for place in reads(first, middle)}
        taken = reads(both, position)
        assert needed <= set(taken)
        assert (min(needed), max(needed)) == (taken[0], taken[-1])
    assert both.kernel == 1 or both.dilation == math.gcd(*(place - taken[0] for place in needed))


@given(windows(), windows(upsample=1), lengths)
def test_then_takes_as_many_positions_as_the_chain(first: Window, second: Window, n: int) -> None:
    assume(fits(first, n) and fits(second, first.output_size(n)))
    assert first.then(second).output_size(n) == second.output_size(first.output_size(n))


@given(windows(), windows(upsample=1), windows(upsample=1))
def test_then_is_associative(a: Window, b: Window, c: Window) -> None:
    assert a.then(b).then(c) == a.then(b.then(c))


@given(windows())
def test_a_point_changes_nothing(window: Window) -> None:
    assume(window.kernel > 1 or window.dilation == 1)  # one tap lies no distance from itself
    assert Window(1).then(window) == window
    assert window.then(Window(1)) == window


def test_an_upsampling_window_follows_a_point_only() -> None:
    assert Window(1).then(Window(3, upsample=2)) == Window(3, upsample=2)
    with pytest.raises(GeometryError, match=r"upsampling window \(upsample 2\) can follow a point only"):
        Window(3).then(Window(3, upsample=2))


@given(windows(), windows())
def test_aligned_windows_take_equally_many_positions(a: Window, b: Window) -> None:
    alike = a.stride == b.stride and a.upsample == b.upsample
    sizes = [n for n in range(1, 40) if fits(a, n) and fits(b, n)]
    same = alike and all(brute_positions(a, n) == brute_positions(b, n) for n in sizes)
    if a.aligned(b):
        assert same
    elif same:
        assert math.gcd(a.stride, a.upsample) > 1  # sizes that no input has could tell them apart
    for n in sizes[:5]:
        assert a.aligned(b, n) == (alike and brute_positions(a, n) == brute_positions(b, n))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Window, Window, int | None]:
    """Two windows that can be joined, at every size or at the drawn one."""
    a = draw(windows())
    n = draw(st.none() | lengths)
    kernel, dilation, before = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(-3, 5))
    span = dilation * (kernel - 1) + 1
    b = Window(kernel, a.stride, dilation, before, a.excess + span - before, a.upsample)
    if n is not None:
        assume(fits(a, n))
        spare = (a.places(n) + a.excess) % a.stride
        shift = draw(st.integers(-spare, a.stride - 1 - spare))
        b = Window(kernel, a.stride, dilation, before, b.after + shift, a.upsample)
    return a, b, n


@given(pairs())
def test_union_holds_both_windows_and_nothing_beyond(pair: tuple[Window, Window, int | None]) -> None:
    a, b, n = pair
    joined = a.union(b, n)
    ours, theirs = reads(a, 0), reads(b, 0)
    assert set(ours) | set(theirs) <= set(reads(joined, 0))
    assert (reads(joined, 0)[0], reads(joined, 0)[-1]) == (min(ours + theirs), max(ours + theirs))
    assert joined.kernel == 1 or joined.dilation == math.gcd(*(place - reads(joined, 0)[0] for place in ours + theirs))
    for size in [n] if n is not None else [size for size in range(1, 40) if fits(a, size)]:
        assert brute_positions(joined, size) == brute_positions(a, size) == brute_positions(b, size)
    for window, places in ((a, ours), (b, theirs)):
        assert reads(joined, 0)[window.taps_within(joined)] == places


def test_the_union_oracle_can_fail() -> None:
    a, b = Window(3, before=1, after=1), Window(1)
    assert reads(a.union(b), 0)[slice(0, 1)] != reads(b, 0)
    assert reads(a.union(b), 0)[b.taps_within(a.union(b))] == reads(b, 0)


def test_union_at_a_known_size_keeps_a_symmetric_padding() -> None:
    stem, skip = Window(3, stride=2, before=1, after=1), Window(1, stride=2)
    assert not stem.aligned(skip.then(Window(1, after=1)))
    joined = stem.union(Window(1, stride=2, after=-1), n=8)
    assert (joined.before, joined.after) == (1, 1)


def test_union_refuses_windows_that_move_apart() -> None:
    with pytest.raises(GeometryError, match="do not take the same positions"):
        Window(3, before=1, after=1).union(Window(3))


def test_taps_that_do_not_lie_within() -> None:
    with pytest.raises(GeometryError, match="do not all lie among those of"):
        Window(3, before=1, after=1).taps_within(Window(1))
    with pytest.raises(GeometryError, match="do not all lie among those of"):
        Window(1).taps_within(Window(2, dilation=2, before=1, after=1))
    with pytest.raises(GeometryError, match="do not all lie among those of"):
        Window(2, dilation=3).taps_within(Window(4, dilation=2))


BAD_SIZES: list[tuple[Any, str]] = [
    (0, r"`kernel` \(=0\) must be at least 1"),
    (-2, r"`kernel` \(=-2\) must be at least 1"),
    (True, r"`kernel` \(=True\) is a truth value; give a whole number"),
    (2.5, r"`kernel` \(=2.5\) must be a whole number; give an int, not float"),
    ("3", r"`kernel` \(='3'\) must be a whole number; give an int, not str"),
]


@pytest.mark.parametrize(("size", "text"), BAD_SIZES)
def test_sizes_that_are_none(size: Any, text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        Window(size)


@pytest.mark.parametrize("name", ["stride", "dilation", "upsample"])
def test_every_step_is_at_least_one(name: str) -> None:
    with pytest.raises(GeometryError, match=rf"`{name}` \(=0\) must be at least 1"):
        Window(3, **{name: 0})


@pytest.mark.parametrize("name", ["before", "after"])
def test_paddings_are_whole_numbers(name: str) -> None:
    with pytest.raises(GeometryError, match=rf"`{name}` \(=0.5\) must be a whole number"):
        Window(3, **{name: 0.5})  # type: ignore[arg-type]


def test_a_length_is_a_whole_number() -> None:
    with pytest.raises(GeometryError, match=r"`n` \(=-1\) must be at least 0"):
        Window(1).output_size(-1)
    with pytest.raises(GeometryError, match=r"`n` \(=4.0\) must be a whole number"):
        Window(1).output_size(4.0)  # type: ignore[arg-type]


@given(windows(negative=False), lengths)
def test_output_size_is_that_of_torch(window: Window, n: int) -> None:
    torch = pytest.importorskip("torch")
    assume(fits(window, n))
    x = torch.zeros(1, 1, window.places(n) + window.before + window.after)
    y = torch.nn.functional.conv1d(x, torch.ones(1, 1, window.kernel), stride=window.stride, dilation=window.dilation)
    assert window.output_size(n) == y.shape[-1]


@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    padding=st.integers(0, 3),
    extra=st.integers(0, 3),
    n=lengths,
)
def test_a_transposed_convolution_is_an_upsampling_window(
    kernel: int, stride: int, dilation: int, padding: int, extra: int, n: int
) -> None:
    torch = pytest.importorskip("torch")
    assume(extra < max(stride, dilation))
    reach = dilation * (kernel - 1)
    window = Window(kernel, dilation=dilation, before=reach - padding, after=reach - padding + extra, upsample=stride)
    assume((n - 1) * stride - 2 * padding + reach + extra + 1 > 0)
    y = torch.nn.functional.conv_transpose1d(
        torch.zeros(1, 1, n), torch.ones(1, 1, kernel), stride=stride, dilation=dilation, padding=padding, output_padding=extra
    )
    assert window.output_size(n) == y.shape[-1]
