"""Products block by block are the products; sums of magnitudes are bounds from below, in whatever type they were added up."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from refold.dialects.onnx import _blocks
from refold.dialects.onnx._blocks import SLICE, magnitude_product, widened_product
from refold.dialects.onnx._tensors import Array

LENGTHS = (1, 3, SLICE - 1, SLICE, SLICE + 1, 9 * SLICE + 5)
KINDS = (np.float32, np.float16, ml_dtypes.bfloat16)


def drawn(count: int, length: int, positions: int, dtype: Any = np.float32) -> tuple[Array, Array]:
    random = np.random.default_rng(count * length + positions)
    return random.standard_normal((count, length)).astype(dtype), random.standard_normal((length, positions))


def exact(rows: Array, columns: Array, floor: float) -> Array:
    """The sum of magnitudes with 11 bits more than float64 has."""
    return (np.abs(rows.astype(np.longdouble)) + floor) @ columns.astype(np.longdouble)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", KINDS)
def test_a_product_block_by_block_is_the_product(length: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for count, positions, block in itertools.product((1, 7, 60), (0, 1, 9), (1, 1 << 12, 1 << 17)):
        monkeypatch.setattr(_blocks, "BLOCK", block)
        rows, columns = drawn(count, length, positions, dtype)
        found = widened_product(rows, columns)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, rows.astype(np.float64) @ columns, rtol=1e-13, atol=1e-11)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [*KINDS, np.float64])
def test_a_sum_of_magnitudes_is_never_more_and_hardly_less(length: int, dtype: Any) -> None:
    floor = float(ml_dtypes.finfo(dtype).smallest_normal)  # type: ignore[no-untyped-call]
    rows, columns = drawn(40, length, 9, dtype)
    columns = np.abs(columns)
    found, known = magnitude_product(rows, columns, floor), exact(rows, columns, floor)
    assert (found <= known * (1 + 1e-14)).all()
    assert (found >= known * (1 - 2.0**-13)).all()


@pytest.mark.parametrize("length", LENGTHS)
def test_roundings_that_all_go_upwards_do_not_lift_it(length: int) -> None:
    """Each column is just beyond the middle between two numbers of float32, so that it is rounded up, and so are the products."""
    columns = np.full((length, 3), 1 + 2.0**-24 + 2.0**-40)
    rows = np.full((5, length), -(1 + 2.0**-23), np.float32)
    assert (columns.astype(np.float32) > columns).all()
    assert (magnitude_product(rows, columns, 0.0) <= exact(rows, columns, 0.0)).all()


@pytest.mark.parametrize(
    ("weight", "column"),
    [(3e38, 10.0), (3e38, 1e200), (1.0, 1e-200), (1e-45, 1.0), (1e-45, 0.4), (1e-38, 2.0**-99), (0.0, 1.0), (1e-30, 1e-12)],
)
def test_numbers_that_float32_cannot_multiply(weight: float, column: float) -> None:
    """Where a product would leave its range, the sum is that of float64, or what may have been lost is taken off."""
    floor = float(np.finfo(np.float32).smallest_normal)
    rows, columns = np.full((4, 700), weight, np.float32), np.full((700, 2), column)
    found, known = magnitude_product(rows, columns, floor), exact(rows, columns, floor)
    assert np.isfinite(found).all()
    assert (found <= known * (1 + 1e-14)).all()
    assert (found >= known * (1 - 2.0**-12)).all()


def test_a_column_that_is_negative_is_taken_as_it_is() -> None:
    rows, columns = drawn(3, 5, 2)
    np.testing.assert_allclose(magnitude_product(rows, columns, 0.0), exact(rows, columns, 0.0).astype(np.float64), rtol=1e-12)


def test_no_product_is_large_enough_for_threads_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two regions are proven side by side; threads of BLAS below them get in each other's way, many times over on a busy machine."""
    asked: list[int] = []
    matmul = np.matmul

    def counted(one: Array, other: Array, **given: Any) -> Any:
        asked.append(one.shape[-2] * one.shape[-1] * other.shape[-1])
        return matmul(one, other, **given)

    monkeypatch.setattr(np, "matmul", counted)
    widened_product(*drawn(300, 9 * 512, 9))
    widened_product(*drawn(300, 700, 100))
    assert asked
    assert max(asked) <= _blocks.PRODUCT
