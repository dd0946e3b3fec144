"""Equations that are a matrix along one axis, against NumPy, and those that are something else."""

from __future__ import annotations

import numpy as np
import pytest

from refold.algebra import axis_product
from tests.algebra.oracle import numbers


@pytest.mark.parametrize("matrix", [0, 1])
@pytest.mark.parametrize("weight", ["oc", "co"])
@pytest.mark.parametrize(("x", "result"), [("bchw", "bohw"), ("bhwc", "bhwo"), ("c", "o"), ("...c", "...o"), ("bc", "bo")])
def test_a_matrix_along_an_axis(x: str, result: str, weight: str, matrix: int) -> None:
    shape = {"b": (2,), "c": (3,), "h": (4,), "w": (5,), ".": ()}
    value = numbers(1, *(size for letter in x for size in shape[letter]))
    kernel = numbers(2, *((6, 3) if weight == "oc" else (3, 6)))
    operands = (weight, x) if matrix == 0 else (x, weight)
    equation = f"{', '.join(operands)} -> {result}"
    found = axis_product(equation, matrix)
    assert found is not None
    axis = value.ndim - 1 - found.behind
    wanted = np.einsum(equation, *((kernel, value) if matrix == 0 else (value, kernel)))
    dense = kernel.T if found.transposed else kernel
    assert np.array_equal(np.moveaxis(np.tensordot(dense, value, (1, axis)), 0, axis), wanted)


@pytest.mark.parametrize(
    "equation",
    [
        "oc,bc", "oc,bhw->bhw", "oc,bohw->bohw", "oc,bchw->bohc", "oc,bchw->bhow", "oo,bo->bo", "oc,bcc->bo", "oc,bcb->bob", "c,bc->b",
        "oc,bc,b->o", "oc,bc->boc", "oc,c...->o...", "oci,bc->bo", "oc,bc->bc", "o.,bc->bo", "oc,bx->bo", "oc,boc->boo", "->",
    ],
)  # fmt: skip
def test_what_is_something_else(equation: str) -> None:
    assert axis_product(equation, 0) is None
