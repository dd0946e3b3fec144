"""Products of an activation and a constant matrix, along whichever axis they are written."""

from __future__ import annotations

import numpy as np

from refold import algebra
from refold.algebra import Obstruction
from refold.dialects.onnx._call import Call, Reading, Terms, reads
from refold.maps import Scalar


@reads("Gemm")
def _gemm(call: Call) -> Reading | Obstruction | None:
    """y = alpha x W + beta c."""
    x, weight, addend = call.x, call.input(1), call.input(2)
    if not call.is_activation(x) or call.get("transA", 0):
        return None
    if not call.is_constant(weight):
        return call.made_at_run_time(weight, "weight")
    held, transposed = call.value(weight), bool(call.get("transB", 0))
    kernel = held if transposed else held.T
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if alpha != 1.0:
        kernel = alpha * kernel.astype(np.float64)
    terms: Terms = {}
    offset = None
    if addend and call.is_constant(addend):
        level = np.asarray(call.value(addend), np.float64) * beta
        if level.size not in (1, kernel.shape[0]) or (level.ndim == 2 and level.shape[0] != 1):
            return None
        offset = np.broadcast_to(level.reshape(-1), (kernel.shape[0],)).astype(np.float64)
    elif addend:
        if not call.is_activation(addend) or not call.keeps_shape(addend) or addend == x:
            return None
        terms[addend] = Scalar(beta)
    value = algebra.linear(kernel, offset)
    terms[x] = call.leaf(value, (weight, addend if offset is not None else ""), alpha, beta, transposed)
    return Reading(terms, kernel.size)


@reads("MatMul")
def _matmul(call: Call) -> Reading | Obstruction | None:
    """y = x W, over the last axis; y = W x, over the one before."""
    left, right = call.x, call.input(1)
    if call.is_constant(left):
        return _product(call, right, left, behind=1, transposed=False)
    return _product(call, left, right, behind=0, transposed=True)


@reads("Einsum")
def _einsum(call: Call) -> Reading | Obstruction | None:
    """y = the sum along one axis of x and a matrix, in the place of that axis."""
    operands = list(call.node.input)
    constant = [place for place, name in enumerate(operands) if call.is_constant(name)]
    found = algebra.axis_product(call.get("equation", ""), constant[0]) if len(operands) == 2 and len(constant) == 1 else None
    if found is None:
        return None
    return _product(call, operands[1 - constant[0]], operands[constant[0]], behind=found.behind, transposed=found.transposed)


def _product(call: Call, x: str, weight: str, *, behind: int, transposed: bool) -> Reading | None:
    typed = call.typed(x)
    if not call.is_activation(x) or not call.is_constant(weight) or typed is None or len(typed.shape) < 2:
        return None
    held = call.value(weight)
    if held.ndim != 2:
        return None
    kernel = held.T if transposed else held
    value = algebra.convolution(kernel.reshape(*kernel.shape, *[1] * behind))
    return Reading({x: call.leaf(value, (weight,), behind, transposed)}, kernel.size)
