"""Products of a large matrix of narrow numbers and a few columns in float64; the matrix is widened block by block.

    rows @ columns  =  sum over slices s of  widen(rows[:, s]) @ columns[s]

A block stays in a cache, and its products are small enough for BLAS to take no threads: regions are proven side by side already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refold.dialects.onnx._tensors import Array

SLICE = 512
"""Columns of the matrix that are summed in one product."""
SLICES = 8
"""Slices that are widened and multiplied together at the most."""
BLOCK = 1 << 17
"""Numbers of the matrix that are widened at a time: 1 MiB of float64."""
PRODUCT = 1 << 18
"""Multiply-adds up to which OpenBLAS runs a product on the thread that asks for it."""
LEAST = 2.0**-100
"""Smallest number of a column, other than 0, whose products in float32 lose nothing but rounding."""


def widened_product(rows: Array, columns: Array) -> Array:
    """`rows @ columns` in the dtype of the columns.

    >>> widened_product(np.ones((1, 3), np.float32), np.ones((3, 2))).tolist()
    [[3.0, 3.0]]
    """

    def widen(part: Array, block: Array) -> None:
        block[...] = part

    return _product(rows, columns, columns.dtype, widen)


def magnitude_product(rows: Array, columns: Array, floor: float) -> Array:
    """`(|rows| + floor) @ columns` for columns that are not negative: never more than that, and less by at most 2**-12 of it.

    It is summed in float32 where that has the range. A sum of k products of numbers that are not negative is off by at most k + 2 roundings
    of itself (Higham, section 3.1; two are those of the column and the product), and for each product by what lies below the smallest
    normal number; both are taken off.
    """
    added = floor * columns.sum(0)
    if rows.dtype.itemsize > 4 or not bool(np.all((columns == 0) | (columns >= LEAST))):
        return np.asarray(_product(rows, columns, columns.dtype, _absolute) + added)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = _product(rows, columns, np.dtype(np.float32), _absolute)
        limits = np.finfo(np.float32)
        lost = len(columns) * float(limits.smallest_subnormal)
        result: Array = (1 - (SLICE + 3) * float(limits.eps) / 2) * sums - lost + added
    beyond = ~(np.isfinite(result) & (lost <= 2.0**-13 * result)).all(1)
    if beyond.any():
        result[beyond] = _product(rows[beyond], columns, columns.dtype, _absolute) + added
    return result


def _absolute(part: Array, block: Array) -> None:
    if part.dtype == block.dtype:
        np.abs(part, out=block)
    else:
        block[...] = part
        np.abs(block, out=block)


def _product(rows: Array, columns: Array, dtype: np.dtype[Any], fill: Callable[[Array, Array], None]) -> Array:
    """The product: `fill` puts each block into a dtype, in which slices are multiplied; their products are added in that of the columns."""
    count, positions = len(rows), columns.shape[1]
    total = np.zeros((count, positions), columns.dtype)
    given = columns.astype(dtype, copy=False)
    for start, slices, length in _chunks(rows.shape[1]):
        stop = start + slices * length
        step = max(1, min(BLOCK // (slices * length), PRODUCT // max(1, length * positions), count))
        factors = np.ascontiguousarray(given[start:stop].reshape(slices, length, positions).transpose(0, 2, 1))
        block, products = np.empty((slices, step, length), dtype), np.empty((slices, positions, step), dtype)
        for first in range(0, count, step):
            part = rows[first : first + step, start:stop]
            taken = block[:, : len(part)]
            fill(part.reshape(len(part), slices, length).transpose(1, 0, 2), taken)
            found = np.matmul(factors, taken.transpose(0, 2, 1), out=products[:, :, : len(part)])
            total[first : first + step] += found.sum(0, dtype=columns.dtype).T
    return total


def _chunks(length: int) -> Iterator[tuple[int, int, int]]:
    """Where to begin, how many slices to take and how long each: parts of about as many slices, and what is left of the last."""
    whole, rest = divmod(length, SLICE)
    parts = -(-whole // SLICES)
    start = 0
    for part in range(parts):
        slices = whole * (part + 1) // parts - whole * part // parts
        yield start, slices, SLICE
        start += slices * SLICE
    if rest:
        yield start, 1, rest
