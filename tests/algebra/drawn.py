"""What the tests of the algebra draw: windows, values, pairs of operands, whole expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from refold.algebra import (
    AffineConv,
    Formula,
    Leaf,
    Mode,
    Obstruction,
    Sizes,
    add_formulas,
    compose_formulas,
    scale_and_shift,
)
from refold.errors import GeometryError
from refold.geometry import Window
from tests.algebra.oracle import MODES, numbers

CHANNELS = (2, 4, 6)
EXPRESSION_MODES: tuple[Mode, ...] = ("constant", "replicate")


@st.composite
def windows(draw: st.DrawFn, *, upsample: int = 1, kernel: int = 4, low: int = -2, high: int = 3) -> Window:
    """One axis, padded and cropped in every way."""
    return Window(
        kernel=draw(st.integers(1, kernel)),
        stride=draw(st.sampled_from((1, 1, 1, 2, 3))),
        dilation=draw(st.sampled_from((1, 1, 2, 3))),
        before=draw(st.integers(low, high)),
        after=draw(st.integers(low, high)),
        upsample=draw(st.integers(1, upsample)),
    )


def divisors(*channels: int) -> list[int]:
    """Group counts that divide all of them."""
    return [g for g in range(1, min(channels) + 1) if all(c % g == 0 for c in channels)]


@st.composite
def values(
    draw: st.DrawFn,
    shape: tuple[Window, ...],
    in_channels: int,
    out_channels: int,
    *,
    modes: Sequence[Mode] = MODES,
    biased: bool | None = None,
) -> AffineConv:
    """An affine convolution of given windows and channels, integers for its numbers."""
    seed = draw(st.integers(0, 2**16))
    groups = draw(st.sampled_from(divisors(in_channels, out_channels)))
    mode = draw(st.sampled_from(modes))
    has_bias = draw(st.booleans()) if biased is None else biased
    fill = numbers(seed + 2, in_channels) if mode == "constant" and draw(st.booleans()) else None
    if any(window.upsample > 1 for window in shape):
        mode, fill = "constant", None
    kernel = numbers(seed, out_channels, in_channels // groups, *(window.kernel for window in shape))
    return AffineConv(kernel, numbers(seed + 1, out_channels) * has_bias, shape, groups, mode, fill)


@st.composite
def partners(draw: st.DrawFn, window: Window) -> Window:
    """A window that mostly takes the same positions as another."""
    if draw(st.integers(0, 9)) == 0:
        return draw(windows())
    kernel, dilation = draw(st.integers(1, 4)), draw(st.sampled_from((1, 1, 2, 3)))
    span = dilation * (kernel - 1) + 1
    before = draw(st.integers(-2, 3))
    off = draw(st.sampled_from((0, 0, 0, 1, -1)))
    return Window(kernel, window.stride, dilation, before, window.excess + span - before + off, window.upsample)


@st.composite
def sums(draw: st.DrawFn) -> tuple[AffineConv, AffineConv, Sizes]:
    """Two maps of one root and its sizes."""
    rank = draw(st.sampled_from((0, 1, 1, 1, 2)))
    upsample = draw(st.sampled_from((1, 1, 1, 3)))
    first = tuple(draw(windows(upsample=upsample)) for _ in range(rank))
    second = tuple(draw(partners(window)) for window in first)
    channels = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    left, right = draw(values(first, *channels)), draw(values(second, *channels))
    if draw(st.booleans()) and right.mode != left.mode and not any(window.upsample > 1 for window in second):
        right = replace(right, mode=left.mode, fill=left.fill)
    elif draw(st.booleans()) and right.mode == left.mode:
        right = replace(right, fill=left.fill)
    return left, right, tuple(draw(st.one_of(st.none(), st.integers(1, 9))) for _ in range(rank))


@st.composite
def chains(draw: st.DrawFn) -> tuple[AffineConv, AffineConv, Sizes]:
    """Two maps, the second of the first, and the sizes of the root."""
    rank = draw(st.sampled_from((0, 1, 1, 1, 2)))
    plain = st.builds(Window, st.just(1), st.just(1), st.integers(1, 2))
    inner = tuple(draw(st.one_of(windows(upsample=draw(st.sampled_from((1, 1, 1, 2)))), plain)) for _ in range(rank))
    outer = tuple(draw(windows(upsample=draw(st.sampled_from((1, 1, 1, 2))))) for _ in range(rank))
    if draw(st.integers(0, 2)) == 0:
        outer = tuple(replace(window, before=min(window.before, 0), after=min(window.after, 0)) for window in outer)
    channels = [draw(st.sampled_from(CHANNELS)) for _ in range(3)]
    first, second = draw(values(inner, channels[0], channels[1])), draw(values(outer, channels[1], channels[2]))
    bend = draw(st.integers(0, 4))
    if second.mode == "constant" and not any(window.upsample > 1 for window in outer):
        level = Leaf(first).level(None if first.fill is None else first.fill)
        if bend == 1:
            second = replace(second, fill=level)
        elif bend == 2:
            second = replace(second, fill=first.bias)
        elif bend == 3 and channels[0] == channels[1]:
            kernel = np.ones((channels[1], 1, *(window.kernel for window in inner))) * np.exp2(numbers(1, channels[1])).reshape(
                -1, 1, *([1] * rank)
            )
            first = replace(first, kernel=kernel, groups=channels[1])
    elif bend == 4 and second.mode != "constant" and not any(window.upsample > 1 for window in inner):
        first = replace(first, mode=second.mode, fill=None)
    return first, second, tuple(draw(st.one_of(st.none(), st.integers(1, 9))) for _ in range(rank))


def grown(draw: st.DrawFn, formula: Formula, sizes: Sizes) -> Formula | Obstruction:
    """One more layer behind, in front of or beside what there is."""
    stencil = formula.stencil
    rank = stencil.rank
    new = draw(st.sampled_from(CHANNELS))
    match draw(st.sampled_from(("behind", "scaled", "in front", "beside"))):
        case "behind":
            layer = draw(
                values(tuple(draw(windows(kernel=3, low=-1, high=1)) for _ in range(rank)), stencil.out_channels, new, biased=False)
            )
            return compose_formulas(Leaf(layer), formula, sizes)
        case "scaled":
            scaled = scale_and_shift(numbers(new, stencil.out_channels), numbers(new + 1, stencil.out_channels), rank)
            return compose_formulas(Leaf(scaled), formula, sizes)
        case "in front":
            point = draw(values((Window(1),) * rank, stencil.in_channels, stencil.in_channels, biased=False))
            return compose_formulas(formula, Leaf(point), sizes)
        case _:
            shape = tuple(draw(partners(window)) for window in stencil.windows)
            branch = replace(draw(values(shape, stencil.in_channels, stencil.out_channels, modes=(stencil.mode,))), fill=formula.fill)
            return add_formulas(formula, Leaf(branch), sizes)


@st.composite
def expressions(draw: st.DrawFn) -> tuple[Formula, Sizes]:
    """Several layers folded into one formula, over sizes that they fit."""
    rank = draw(st.sampled_from((0, 1, 1, 2)))
    sizes: Sizes = tuple(draw(st.one_of(st.none(), st.integers(5, 12))) for _ in range(rank))
    shape = tuple(draw(windows(kernel=3, low=-1, high=2)) for _ in range(rank))
    formula: Formula = Leaf(draw(values(shape, *(draw(st.sampled_from(CHANNELS)) for _ in range(2)), modes=EXPRESSION_MODES)))
    for _ in range(draw(st.integers(1, 4))):
        try:
            result = grown(draw, formula, sizes)
        except GeometryError:  # the drawn window does not fit a static size
            continue
        if not isinstance(result, Obstruction):
            formula = result
    return formula, sizes
