"""Expressions over affine convolutions: their shape and the laws they obey are known at once, their numbers are worked out when asked.

A plan tries many sums and compositions and keeps few. A formula says what each would be without multiplying anything, and is then
evaluated some output channels at a time, so that folding a large network needs little memory beside its result.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, TypeAlias

from array_api_compat import array_namespace, device

from refold.algebra import _kernels
from refold.algebra._affine import AffineConv, Array, Mode, Obstruction, Sizes, Stencil
from refold.geometry import Window

BLOCK = 1 << 18
"""Numbers of a kernel that are worked out at a time: 2 MiB, about the size of a cache."""

DEEPEST = 100
"""Operations within one another up to which a formula is made: working it out takes a few frames of the interpreter for each."""

LARGEST = 1 << 10
"""Values that a formula is made of up to which it is made: in a chain of skip connections they double with each."""

Memo: TypeAlias = "dict[int, AffineConv]"


class Formula(ABC):
    """An affine convolution that is not worked out yet."""

    stencil: Stencil
    fill: Array | None

    def level(self, constant: Array | None) -> Array:
        """The output, (out,) in float64, for an input that is one constant in each channel: (in,), or None for zeros."""
        return self._bias if constant is None else self._level(constant)

    @cached_property
    def _bias(self) -> Array:
        return self._level(None)

    @abstractmethod
    def _level(self, constant: Array | None) -> Array:
        """`level`, worked out anew."""

    @abstractmethod
    def block(self, rows: range | None, memo: Memo) -> AffineConv:
        """The value in float64: whole, or for some output channels with the groups spread out to one."""

    @property
    @abstractmethod
    def peak(self) -> float:
        """No number of the kernel is larger in absolute value. A bound, NaN or infinite where a leaf is not finite."""

    @property
    def depth(self) -> int:
        """Operations that lie within one another."""
        return 0

    @property
    def size(self) -> int:
        """Values that it is made of, each as often as it is worked out."""
        return 1

    @property
    @abstractmethod
    def anywhere(self) -> Array:
        """Some array of the library and on the device where the numbers live."""

    @abstractmethod
    def linear_part(self) -> Formula:
        """The same map without its bias, over an input continued by zeros where it was continued by constants."""

    @abstractmethod
    def leaves(self) -> Iterator[Leaf]:
        """The values it is made of, from the outermost operation in."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Equal for formulas that make the same numbers of the same values."""

    def evaluate(self, dtype: object | None = None) -> AffineConv:
        """Work the numbers out in float64 and round them once, to `dtype` (float64 where it is None)."""
        if dtype is None:
            return self.block(None, {})
        stencil = self.stencil
        rows = max(1, BLOCK // max(1, stencil.fan_in))
        if stencil.groups > 1 or rows >= stencil.out_channels:
            whole = self.block(None, {})
            xp = array_namespace(whole.kernel)
            return AffineConv(
                xp.astype(whole.kernel, dtype), xp.astype(whole.bias, dtype), whole.windows, whole.groups, whole.mode, whole.fill
            )
        memo: Memo = {}
        kernel: Array = None
        bias: Array = None
        for start in range(0, stencil.out_channels, rows):
            part = self.block(range(start, min(start + rows, stencil.out_channels)), memo)
            if kernel is None:
                xp, place = array_namespace(part.kernel), {"dtype": dtype, "device": device(part.kernel)}
                kernel = xp.empty((stencil.out_channels, stencil.in_channels, *stencil.taps), **place)
                bias = xp.empty((stencil.out_channels,), **place)
            stop = start + part.out_channels
            kernel[start:stop, ...] = part.kernel
            bias[start:stop] = part.bias
        return AffineConv(kernel, bias, stencil.windows, 1, stencil.mode, self.fill)


@dataclass(frozen=True, eq=False)
class Leaf(Formula):
    """A value that is given. `names` say where its numbers came from, `key` is equal for leaves of the same numbers."""

    value: AffineConv
    names: tuple[str, ...] = ()
    origin: Hashable = None

    @cached_property
    def stencil(self) -> Stencil:  # type: ignore[override]
        return self.value.stencil

    @property
    def fill(self) -> Array | None:  # type: ignore[override]
        return None if self.value.fill is None else _kernels.to_float64(self.value.fill)

    @property
    def key(self) -> Hashable:
        return id(self.value) if self.origin is None else (self.origin, self.stencil)

    @cached_property
    def peak(self) -> float:
        kernel = self.value.kernel
        xp = array_namespace(kernel)
        return max(float(xp.max(kernel)), -float(xp.min(kernel)))

    @property
    def anywhere(self) -> Array:
        return self.value.kernel

    def leaves(self) -> Iterator[Leaf]:
        yield self

    def linear_part(self) -> Formula:
        value = self.value
        bare = AffineConv(value.kernel, 0 * value.bias, value.windows, value.groups, value.mode)
        return Leaf(bare, self.names, None if self.origin is None else ("linear part", self.origin))

    def _level(self, constant: Array | None) -> Array:
        bias = _kernels.to_float64(self.value.bias)
        if constant is None:
            return bias
        return bias + _kernels.response(_kernels.to_float64(self.value.kernel), self.value.groups, constant)

    def block(self, rows: range | None, memo: Memo) -> AffineConv:
        value = self.value
        kernel = value.kernel if rows is None else _kernels.dense_rows(value.kernel, value.groups, rows)
        bias = value.bias if rows is None else value.bias[rows.start : rows.stop]
        groups = value.groups if rows is None else 1
        return AffineConv(_kernels.to_float64(kernel), _kernels.to_float64(bias), value.windows, groups, value.mode, self.fill)


@dataclass(frozen=True, eq=False)
class _Pair(Formula):
    """Two formulas and what their combination is."""

    left: Formula
    right: Formula
    stencil: Stencil
    fill: Array | None
    symbol: ClassVar[str]

    @cached_property
    def depth(self) -> int:
        return 1 + max(self.left.depth, self.right.depth)

    @cached_property
    def size(self) -> int:
        return self.left.size + self.right.size

    @cached_property
    def key(self) -> Hashable:
        fill = None if self.fill is None else tuple(self.fill.tolist())
        return (self.symbol, self.left.key, self.right.key, self.stencil, fill)

    def linear_part(self) -> Formula:
        return type(self)(self.left.linear_part(), self.right.linear_part(), self.stencil, None)

    @property
    def anywhere(self) -> Array:
        return self.left.anywhere

    def leaves(self) -> Iterator[Leaf]:
        yield from self.left.leaves()
        yield from self.right.leaves()


@dataclass(frozen=True, eq=False)
class Sum(_Pair):
    """`left(x) + right(x)`: kernels laid on the union of their taps."""

    symbol = "+"

    @property
    def peak(self) -> float:
        return self.left.peak + self.right.peak

    def _level(self, constant: Array | None) -> Array:
        return self.left.level(constant) + self.right.level(constant)

    def block(self, rows: range | None, memo: Memo) -> AffineConv:
        parts = [self.left.block(rows, memo), self.right.block(rows, memo)]
        groups = 1 if rows is not None else self.stencil.groups
        windows = self.stencil.windows
        bias = parts[0].bias + parts[1].bias
        kernels = [_kernels.regroup(part.kernel, part.groups, groups) for part in parts]
        full = [part.windows == windows for part in parts]
        if any(full):
            # A block is an array of its own, so the other is added into it.
            base = full.index(True)
            total = kernels[base]
            places = [1 - base]
        else:
            total = _kernels.empty_kernel(kernels[0], (parts[0].out_channels, self.stencil.in_channels // groups, *self.stencil.taps))
            places = [0, 1]
        for i in places:
            positions = tuple(own.taps_within(outer) for own, outer in zip(parts[i].windows, windows, strict=True))
            _kernels.place(total, kernels[i], positions)
        return AffineConv(total, bias, windows, groups, self.stencil.mode, self.fill)


@dataclass(frozen=True, eq=False)
class Chain(_Pair):
    """`left(right(x))`."""

    symbol = "@"

    @property
    def peak(self) -> float:
        return self.left.peak * self.right.peak * self.left.stencil.fan_in

    def _level(self, constant: Array | None) -> Array:
        between = self.right.level(constant)
        return self.left.level(None if _is_zero(between) else between)

    def block(self, rows: range | None, memo: Memo) -> AffineConv:
        second, first, stencil = self.left, self.right, self.stencil
        if second.stencil.moves_channels_alone:
            outer, inner = _whole(second, memo), first.block(rows, memo)
            chosen = slice(None) if rows is None else slice(rows.start, rows.stop)
            scale = outer.kernel.reshape(-1)[chosen]
            kernel = _kernels.scale_outputs(inner.kernel, scale)
            bias = outer.bias[chosen] + scale * inner.bias
            return AffineConv(kernel, bias, stencil.windows, inner.groups, stencil.mode, self.fill)
        outer = second.block(rows, memo)
        between = first.level(None)
        bias = outer.bias + _kernels.response(outer.kernel, outer.groups, between)  # also of zeros: gradients pass to them
        if first.stencil.moves_channels_alone:
            scale = _whole(first, memo).kernel.reshape(-1)
            kernel, groups = _kernels.scale_inputs(outer.kernel, outer.groups, scale), outer.groups
        else:
            inner = _whole(first, memo)
            groups = math.gcd(outer.groups, inner.groups)
            kernel = _kernels.compose(
                _kernels.regroup(outer.kernel, outer.groups, groups),
                _kernels.regroup(inner.kernel, inner.groups, groups),
                groups,
                stencil.taps,
                [
                    _tap_steps(b, a, joined)
                    for b, a, joined in zip(second.stencil.windows, first.stencil.windows, stencil.windows, strict=True)
                ],
            )
        return AffineConv(kernel, bias, stencil.windows, groups, stencil.mode, self.fill)


def _whole(formula: Formula, memo: Memo) -> AffineConv:
    found = memo.get(id(formula))
    if found is None:
        found = memo[id(formula)] = formula.block(None, memo)
    return found


def _tap_steps(second: Window, first: Window, joined: Window) -> tuple[int, int]:
    far = first.stride * second.dilation // joined.dilation if second.kernel > 1 else 1
    near = first.dilation // joined.dilation if first.kernel > 1 else 1
    return far, near


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
    return Sum(left, right, stencil, fill if any(outside) else None)


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
    if b.is_upsampled and not _is_zero(first.level(None)):
        return Obstruction(
            law,
            "a transposed convolution puts zeros between its items, where the first map would put its bias",
            "use a first map without bias",
        )
    middle = a.output_sizes(sizes)
    mode: Mode = a.mode
    fill = first.fill
    if b.reads_outside(middle):
        continued = _continue_through(second, first, sizes, middle)
        if isinstance(continued, Obstruction):
            return continued
        mode, fill = continued
    windows = tuple(window_a.then(window_b) for window_a, window_b in zip(a.windows, b.windows, strict=True))
    stencil = Stencil(a.in_channels, b.out_channels, math.gcd(a.groups, b.groups), windows, mode)
    if not stencil.reads_outside(sizes):
        stencil, fill = replace(stencil, mode="constant"), None
    return Chain(second, first, stencil, fill)


def _continue_through(second: Formula, first: Formula, sizes: Sizes, middle: Sizes) -> tuple[Mode, Array | None] | Obstruction:
    """How x must go on so that first's output goes on as second pads it."""
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
        return b.mode, None
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
    if a.reads_outside(sizes):
        if a.mode != "constant":
            return Obstruction(
                law, f"the first map continues its input by {a.mode}, the second by a constant", "pad once, in front of both"
            )
        if _same_level(first.level(first.fill), wanted):
            return "constant", first.fill
    else:
        bias = first.level(None)
        if _same_level(bias, wanted):
            return "constant", None
        if a.moves_channels_alone:
            solved = _solve_diagonal(first, bias, wanted)
            if solved is not None:
                return "constant", solved
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


def _is_zero(level: Array) -> bool:
    xp = array_namespace(level)
    return not bool(xp.any(level != 0))


def _same_level(one: Array | None, other: Array | None) -> bool:
    """Whether two constants a channel are one, but for the last bits of the float64 sums that they were worked out by.

    Infinite ones (the padding of a max pooling) are one only where they are equal.
    """
    if one is None or other is None:
        given = other if one is None else one
        return given is None or _is_zero(given)
    xp = array_namespace(one, other)
    scale = xp.max(xp.maximum(xp.abs(one), xp.abs(other)))
    if not bool(xp.isfinite(scale)):
        return bool(xp.all(one == other))
    return bool(xp.max(xp.abs(one - other)) <= 2.0**-49 * scale)
