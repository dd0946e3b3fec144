"""Arithmetic of kernels as arrays: regroup, place, compose. Shapes are trusted here; the laws have checked them.

A kernel is (out, in / groups, *taps). Everything is written out of place but for sums into arrays made here, so that gradients pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from array_api_compat import array_namespace, device

from refold.algebra._affine import Array


def to_float64(array: Array) -> Array:
    """The array in float64, the dtype of all arithmetic here."""
    xp = array_namespace(array)
    return xp.astype(array, xp.float64)


def regroup(kernel: Array, groups: int, coarser: int) -> Array:
    """The same map with fewer groups: blocks on the diagonal, zeros beside them. `coarser` divides `groups`."""
    ratio = groups // coarser
    if ratio == 1:
        return kernel
    xp = array_namespace(kernel)
    out, fan, *taps = kernel.shape
    ones = [1] * len(taps)
    blocks = xp.reshape(kernel, (coarser, ratio, out // groups, 1, fan, *taps))
    diagonal = xp.reshape(xp.eye(ratio, dtype=kernel.dtype, device=device(kernel)), (1, ratio, 1, ratio, 1, *ones))
    return xp.reshape(blocks * diagonal, (out, ratio * fan, *taps))


def dense_rows(kernel: Array, groups: int, rows: range) -> Array:
    """Some output channels of the map with one group: (len(rows), in, *taps)."""
    part = kernel[rows.start : rows.stop, ...]
    if groups == 1:
        return part
    xp = array_namespace(kernel)
    out, fan, *taps = kernel.shape
    place = {"device": device(kernel)}
    group_of_row = xp.arange(rows.start, rows.stop, **place) // (out // groups)
    chosen = xp.astype(group_of_row[:, None] == xp.arange(groups, **place)[None, :], part.dtype)
    spread = xp.reshape(chosen, (len(rows), groups, 1, *([1] * len(taps)))) * xp.reshape(part, (len(rows), 1, fan, *taps))
    return xp.reshape(spread, (len(rows), groups * fan, *taps))


def empty_kernel(like: Array, shape: Sequence[int]) -> Array:
    """Zeros in float64 where `like` lives."""
    xp = array_namespace(like)
    return xp.zeros(tuple(shape), dtype=xp.float64, device=device(like))


def place(outer: Array, inner: Array, positions: tuple[slice, ...]) -> None:
    """Add the taps of `inner` at their positions among those of `outer`, an array made here."""
    view = outer[(slice(None), slice(None), *positions)]
    view += inner


def scale_outputs(kernel: Array, scale: Array) -> Array:
    """Each output channel times its own number; `scale` is (out,)."""
    return kernel * scale[(slice(None), *([None] * (kernel.ndim - 1)))]


def scale_inputs(kernel: Array, groups: int, scale: Array) -> Array:
    """Each input channel times its own number; `scale` is (in,)."""
    xp = array_namespace(kernel)
    out, fan, *taps = kernel.shape
    blocks = xp.reshape(kernel, (groups, out // groups, fan, *taps))
    return xp.reshape(blocks * xp.reshape(scale, (groups, 1, fan, *([1] * len(taps)))), (out, fan, *taps))


def response(kernel: Array, groups: int, level: Array) -> Array:
    """What the kernel makes of an input that is one constant in each channel; `level` is (in,), the result (out,)."""
    xp = array_namespace(kernel)
    out, fan, *taps = kernel.shape
    gains = xp.sum(xp.reshape(kernel, (groups, out // groups, fan, math.prod(taps))), axis=3)
    return xp.reshape(xp.sum(gains * xp.reshape(level, (groups, 1, fan)), axis=2), (out,))


def swing(kernel: Array, groups: int, gap: Array) -> Array:
    """The most that the kernel makes of an input that is `gap` (in,) at some of its taps and zero at the others: (out,)."""
    xp = array_namespace(kernel)
    out, fan, *taps = kernel.shape
    each = xp.reshape(kernel, (groups, out // groups, fan, math.prod(taps))) * xp.reshape(gap, (groups, 1, fan, 1))
    return xp.reshape(xp.sum(xp.abs(xp.sum(each, axis=2)), axis=2), (out,))


def compose(second: Array, first: Array, groups: int, taps: Sequence[int], steps: Sequence[tuple[int, int]]) -> Array:
    """The kernel of `second` after `first`, both with the same groups.

    `steps` gives for each axis how far apart the taps of second and of first lie among the result's `taps`.
    """
    xp = array_namespace(second, first)
    out, middle, *second_taps = second.shape
    _, fan, *first_taps = first.shape
    left = xp.reshape(second, (groups, out // groups, middle, *second_taps))
    right = xp.reshape(first, (groups, middle, fan * math.prod(first_taps)))
    result: Any = empty_kernel(second, (out, fan, *taps))
    for tap in itertools.product(*map(range, second_taps)):
        part = xp.reshape(xp.matmul(left[(slice(None), slice(None), slice(None), *tap)], right), (out, fan, *first_taps))
        positions = tuple(
            slice(t * far, t * far + near * (size - 1) + 1, near) for t, (far, near), size in zip(tap, steps, first_taps, strict=True)
        )
        place(result, part, positions)
    return result
