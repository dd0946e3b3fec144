"""The laws on formulas: when a sum or a composition of two is one formula, and what stands in the way where it is not.

A constant that was stored in a dtype is known no better than its roundings. Where a layer pads with what the layer in front of it makes
of zeros, and both were worked out and stored apart, they differ by a few roundings and are *taken as one*. What that may change is
carried along with the formula as its `slack`, so that nothing behind it can make more of it than roundings are.
"""

from __future__ import annotations

import math
from dataclasses import replace

from array_api_compat import array_namespace

from refold.algebra._affine import Array, Mode, Obstruction, Sizes, Stencil
from refold.algebra._formula import UNIT, Chain, Formula, Sum, is_zero

DEEPEST = 100
"""Operations within one another up to which a formula is made: working it out takes a few frames of the interpreter for each."""

LARGEST = 1 << 10
"""Values that a formula is made of up to which it is made: in a chain of skip connections they double with each."""

ROUNDINGS = 16
"""Roundings by which two constants may differ that are one: those of two shifts of a batch norm, which are each a sum with eps, a root, a
reciprocal, two products and a difference, up to the next power of two."""

COARSEST = 2.0**-24
"""The coarsest unit roundoff, that of float32, by which constants are taken as one: a few of float16 are a difference that shows."""


def add(left: Formula, right: Formula, sizes: Sizes) -> Formula | Obstruction:
    """The sum of two maps of one root: `left(x) + right(x)`.

    Exact when both move alike, take equally many positions (for every input, or for the sizes at hand) and, where both read outside
    the border, see the same there.
    """
    law = "sum"
    if _is_too_much(left, right):
        return _too_much(law)
    a, b = left.stencil, right.stencil
    if a.rank != b.rank:
        return Obstruction(law, f"one map has {a.rank} spatial axes, the other {b.rank}", "fold them apart")
    if (a.in_channels, a.out_channels) != (b.in_channels, b.out_channels):
        return Obstruction(
            law, f"channels {a.in_channels} → {a.out_channels} and {b.in_channels} → {b.out_channels} differ", "fold them apart"
        )
    for axis, (one, other, n) in enumerate(zip(a.windows, b.windows, sizes, strict=True)):
        if not one.aligned(other, n):
            known = "every size" if n is None else f"size {n}"
            return Obstruction(
                law,
                f"on axis {axis} the windows do not take the same positions at {known}: kernel {one.kernel}, stride {one.stride}, "
                f"padding ({one.before}, {one.after}) against kernel {other.kernel}, stride {other.stride}, "
                f"padding ({other.before}, {other.after})",
                "give both the same stride and paddings that keep them centred on each other"
                + (", or trace with a fixed size" if n is None else ""),
            )
    outside = (a.reads_outside(sizes), b.reads_outside(sizes))
    mode, fill = (a.mode, left.fill) if outside[0] else (b.mode, right.fill)
    if all(outside):
        if a.mode != b.mode:
            return Obstruction(law, f"one map continues its input by {a.mode}, the other by {b.mode}", "use one padding mode for both")
        if not _same_level(left.fill, right.fill):
            return Obstruction(law, "the two maps pad their input with different constants", "pad both with the same value")
    windows = tuple(one.union(other, n) for one, other, n in zip(a.windows, b.windows, sizes, strict=True))
    stencil = Stencil(a.in_channels, a.out_channels, math.gcd(a.groups, b.groups), windows, mode if any(outside) else "constant")
    return _within_roundings(Sum(left, right, stencil, fill if any(outside) else None), law)


def compose(second: Formula, first: Formula, sizes: Sizes) -> Formula | Obstruction:
    """The map `second(first(x))`.

    Exact when second never reads outside first's output, or reads there what first makes of the continuation of x.
    """
    law = "composition"
    if _is_too_much(second, first):
        return _too_much(law)
    b, a = second.stencil, first.stencil
    if a.rank != b.rank:
        return Obstruction(law, f"the first map has {a.rank} spatial axes, the second {b.rank}", "let both act along the same axis")
    if a.out_channels != b.in_channels:
        return Obstruction(law, f"the first map gives {a.out_channels} channels, the second takes {b.in_channels}", "fold them apart")
    for window_b, window_a in zip(b.windows, a.windows, strict=True):
        if window_b.upsample > 1 and not window_a.is_point:
            return Obstruction(law, f"a transposed convolution of stride {window_b.upsample} follows a window", "keep the two apart")
    if b.is_upsampled and not is_zero(first.level(None)):
        return Obstruction(
            law,
            "a transposed convolution puts zeros between its items, where the first map would put its bias",
            "use a first map without bias",
        )
    middle = a.output_sizes(sizes)
    mode: Mode = a.mode
    fill, gap = first.fill, None
    if b.reads_outside(middle):
        continued = _continue_through(second, first, sizes, middle)
        if isinstance(continued, Obstruction):
            return continued
        mode, fill, gap = continued
    windows = tuple(window_a.then(window_b) for window_a, window_b in zip(a.windows, b.windows, strict=True))
    stencil = Stencil(a.in_channels, b.out_channels, math.gcd(a.groups, b.groups), windows, mode)
    if (mode != "constant" or fill is not None) and not stencil.reads_outside(sizes):
        stencil, fill = replace(stencil, mode="constant"), None
    return _within_roundings(Chain(second, first, stencil, fill, gap), law)


def _continue_through(
    second: Formula, first: Formula, sizes: Sizes, middle: Sizes
) -> tuple[Mode, Array | None, Array | None] | Obstruction:
    """How x must go on so that first's output goes on as second pads it, and how far from that it still is."""
    law = "composition"
    b, a = second.stencil, first.stencil
    pads = ", ".join(f"({window.before}, {window.after})" for window in b.windows)
    if b.mode != "constant":
        for axis, (outer, inner) in enumerate(zip(b.windows, a.windows, strict=True)):
            outside = outer.reads_before() or outer.reads_after(middle[axis])
            if inner.upsample > 1 or (outside and not inner.is_point):
                return Obstruction(
                    law,
                    f"the second map pads by {pads} with {b.mode} values of a map that is not pointwise on axis {axis} (taps {a.taps})",
                    "pad once, in front of both",
                )
        if a.reads_outside(sizes) and a.mode != b.mode:
            return Obstruction(
                law, f"the first map continues its input by {a.mode}, the second by {b.mode}", "use one padding mode for both"
            )
        return b.mode, None, None
    for axis, (window, n) in enumerate(zip(a.windows, sizes, strict=True)):
        inside_before = b.windows[axis].reads_before() and window.before < window.span - window.stride
        inside_after = b.windows[axis].reads_after(middle[axis]) and window.after < window.span - 1
        if inside_after and n is not None:
            inside_after = window.stride * window.output_size(n) - window.before < window.places(n)
        if inside_before or inside_after:
            return Obstruction(
                law,
                f"the second map pads by {pads} where the first, of taps {a.taps}, still reads its input on axis {axis}",
                "move the padding in front of the first map",
            )
    wanted = second.fill
    unit = _unit(second, first)
    if a.reads_outside(sizes):
        if a.mode != "constant":
            return Obstruction(
                law, f"the first map continues its input by {a.mode}, the second by a constant", "pad once, in front of both"
            )
        made = first.level(first.fill)
        if _same_level(made, wanted, unit):
            return "constant", first.fill, _gap(made, wanted)
    else:
        bias = first.level(None)
        if _same_level(bias, wanted, unit):
            return "constant", None, _gap(bias, wanted)
        if a.moves_channels_alone:
            solved = _solve_diagonal(first, bias, wanted)
            if solved is not None:
                return "constant", solved, None
    return Obstruction(
        law,
        f"the second map pads by {pads} with {'zeros' if wanted is None else 'a constant'}, where the first map's bias would stand",
        "pad with the first map's bias, as DBB and ECB do, or pad in front of both",
    )


def _solve_diagonal(first: Formula, bias: Array, wanted: Array | None) -> Array | None:
    """The constant that `first`, which scales and shifts each channel by itself, turns into what is wanted."""
    xp = array_namespace(bias)
    scale = first.block(None, {}).kernel.reshape(-1)
    missing = -bias if wanted is None else wanted - bias
    idle = (scale == 0) & (missing == 0)
    solved = xp.where(idle, missing, missing / xp.where(scale == 0, xp.ones_like(scale), scale))
    return solved if bool(xp.all((scale != 0) | idle)) and bool(xp.all(xp.isfinite(solved))) else None


def _is_too_much(left: Formula, right: Formula) -> bool:
    return max(left.depth, right.depth) >= DEEPEST or left.size + right.size > LARGEST


def _too_much(law: str) -> Obstruction:
    fact = f"the merged map would be made of more than {DEEPEST} operations within one another, or of more than {LARGEST:,} values"
    return Obstruction(law, fact, "fold the result again")


def _unit(*formulas: Formula) -> float:
    """The unit roundoff by which the constants of formulas are compared."""
    coarsest = max(formula.rounding for formula in formulas)
    return coarsest if coarsest <= COARSEST else UNIT


def _same_level(one: Array | None, other: Array | None, unit: float = UNIT) -> bool:
    """Whether two constants a channel are one, but for the roundings of the sums that they were worked out by.

    A rounding is as large as the largest of the channels makes it: the terms of a sum that all but cancelled are gone. Zeros that no one
    worked out have none, and infinite constants (the padding of a max pooling) are one only where they are equal.
    """
    if one is None or other is None:
        given = other if one is None else one
        return given is None or is_zero(given)
    xp = array_namespace(one, other)
    scale = xp.max(xp.maximum(xp.abs(one), xp.abs(other)))
    if not bool(xp.isfinite(scale)):
        return bool(xp.all(one == other))
    return bool(xp.max(xp.abs(one - other)) <= ROUNDINGS * unit * scale)


def _gap(made: Array, wanted: Array | None) -> Array | None:
    """How far two constants a channel that were taken as one are apart, None where that is what sums in float64 leave."""
    return None if wanted is None or _same_level(made, wanted) else wanted - made


def _within_roundings(formula: Formula, law: str) -> Formula | Obstruction:
    """The formula, if what was taken as one in it moves its output by no more than roundings of what it makes of its border would."""
    slack = formula.slack
    if slack is None:
        return formula
    xp = array_namespace(slack)
    moved, scale, unit = xp.max(slack).tolist(), xp.max(xp.abs(formula.level(formula.fill))).tolist(), _unit(formula)
    if moved <= ROUNDINGS * unit * scale:
        return formula
    return Obstruction(
        law,
        f"a constant that is padded with and what stands there otherwise differ by roundings, of which the merged map would make "
        f"{moved:.2g} where it gives up to {scale:.2g}, more than {ROUNDINGS} roundings of {unit:.2g}",
        "pad with the very number that the layer in front makes of zeros",
    )
