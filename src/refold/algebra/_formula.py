"""Expressions over affine convolutions: their shape is known at once, their numbers are worked out when asked.

A plan tries many sums and compositions and keeps few. A formula says what each would be without multiplying anything, and is then
evaluated some output channels at a time, so that folding a large network needs little memory beside its result.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeAlias

from array_api_compat import array_namespace, device

from refold.algebra import _kernels
from refold.algebra._affine import AffineConv, Array, Stencil
from refold.geometry import Window

BLOCK = 1 << 18
"""Numbers of a kernel that are worked out at a time: 2 MiB, about the size of a cache."""

UNIT = 2.0**-53
"""Unit roundoff of float64, the dtype of all arithmetic here."""

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
    @abstractmethod
    def rounding(self) -> float:
        """Unit roundoff of the coarsest dtype that its numbers were stored in: so well are they known."""

    @abstractmethod
    def gain(self, level: Array) -> Array:
        """No output channel moves by more where the input moves by up to `level` in each channel: (in,) to (out,)."""

    def swing(self, gap: Array) -> Array:
        """No output channel moves by more where some places of the input move by `gap`, (in,) with its signs, and others do not."""
        return self.gain(_absolute(gap))

    @property
    def slack(self) -> Array | None:
        """How far each output channel may lie from the layers that it is made of where constants were taken as one, (out,), or None."""
        return None

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

    def linear_part(self) -> Formula:
        """The same map without its bias, over an input continued by zeros where it was continued by constants."""
        return self._linear

    @cached_property
    def _linear(self) -> Formula:
        return self._linear_part()

    @abstractmethod
    def _linear_part(self) -> Formula:
        """`linear_part`, made anew; once for each formula, since formulas share their parts."""

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
    """A value that is given. `names` say where its numbers came from, `key` is equal for leaves of the same numbers.

    `rounding` is the unit roundoff of the dtype that they were stored in, whatever dtype they are in by now.
    """

    value: AffineConv
    names: tuple[str, ...] = ()
    origin: Hashable = None
    rounding: float = UNIT

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

    def gain(self, level: Array) -> Array:
        return _kernels.response(_absolute(_kernels.to_float64(self.value.kernel)), self.value.groups, level)

    def swing(self, gap: Array) -> Array:
        return _kernels.swing(_kernels.to_float64(self.value.kernel), self.value.groups, gap)

    @property
    def anywhere(self) -> Array:
        return self.value.kernel

    def leaves(self) -> Iterator[Leaf]:
        yield self

    def _linear_part(self) -> Formula:
        value = self.value
        bare = AffineConv(value.kernel, 0 * value.bias, value.windows, value.groups, value.mode)
        return Leaf(bare, self.names, None if self.origin is None else ("linear part", self.origin), self.rounding)

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
    def rounding(self) -> float:
        return max(self.left.rounding, self.right.rounding)

    @cached_property
    def key(self) -> Hashable:
        fill = None if self.fill is None else tuple(self.fill.tolist())
        return (self.symbol, self.left.key, self.right.key, self.stencil, fill)

    def _linear_part(self) -> Formula:
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

    def gain(self, level: Array) -> Array:
        return self.left.gain(level) + self.right.gain(level)

    def swing(self, gap: Array) -> Array:
        return self.left.swing(gap) + self.right.swing(gap)

    @cached_property
    def slack(self) -> Array | None:
        return _total(self.left.slack, self.right.slack)

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
    """`left(right(x))`.

    `gap` is how far the constant that left pads with lies from what right makes there, (middle,), where the two were taken as one.
    """

    symbol = "@"
    gap: Array | None = None

    @property
    def peak(self) -> float:
        return self.left.peak * self.right.peak * self.left.stencil.fan_in

    def gain(self, level: Array) -> Array:
        return self.left.gain(self.right.gain(level))

    def swing(self, gap: Array) -> Array:
        if self.right.stencil.moves_channels_alone:
            return self.left.swing(self.right.level(gap) - self.right.level(None))
        return self.left.gain(self.right.swing(gap))

    @cached_property
    def slack(self) -> Array | None:
        here = None if self.gap is None else self.left.swing(self.gap)
        before = None if self.right.slack is None else self.left.gain(self.right.slack)
        return _total(_total(self.left.slack, before), here)

    def _level(self, constant: Array | None) -> Array:
        between = self.right.level(constant)
        return self.left.level(None if is_zero(between) else between)

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


def is_zero(level: Array) -> bool:
    """Whether a constant a channel is zero in all of them."""
    xp = array_namespace(level)
    return not bool(xp.any(level != 0))


def _absolute(array: Array) -> Array:
    return array_namespace(array).abs(array)


def _total(one: Array | None, other: Array | None) -> Array | None:
    return other if one is None else one if other is None else one + other
