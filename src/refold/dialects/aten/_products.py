"""Products of an activation and a constant matrix, along whichever axis they are written."""

from __future__ import annotations

from torch.fx import Node

from refold import algebra
from refold.algebra import Obstruction
from refold.dialects.aten._reading import Call, Reading, reads
from refold.dialects.aten._sizes import shape_of


@reads("aten.addmm.default")
def _addmm(call: Call) -> Reading | Obstruction | None:
    """y = beta b + alpha x W."""
    if not call.is_activation(call["mat1"]) or isinstance(call["alpha"], Node) or isinstance(call["beta"], Node):
        return None
    bias, weight = call["self"], call["mat2"]
    if bias not in call.constants or weight not in call.constants or len(bias.meta["val"].shape) != 1:
        return None
    alpha, beta = call["alpha"], call["beta"]
    kernel, offset = call.constants.value(weight).T, call.constants.value(bias)
    value = algebra.linear(kernel if alpha == 1 else alpha * kernel.double(), offset if beta == 1 else beta * offset.double())
    return Reading({call["mat1"]: call.leaf(value, (weight, bias), alpha, beta)}, kernel.numel())


@reads("aten.mm.default", "aten.matmul.default")
def _matmul(call: Call) -> Reading | Obstruction | None:
    """y = x W, over the last axis; y = W x, over the one before."""
    left, right = call["self"], call["mat2"] if "mat2" in call.arguments else call["other"]
    x, weight = (right, left) if left in call.constants else (left, right)
    return _product(call, x, weight, behind=int(x is right), transposed=x is left)


@reads("aten.einsum.default")
def _einsum(call: Call) -> Reading | Obstruction | None:
    """y = the sum along one axis of x and a matrix, in the place of that axis."""
    operands = call["tensors"]
    constant = [place for place, one in enumerate(operands) if one in call.constants]
    if len(operands) != 2 or len(constant) != 1:
        return None
    found = algebra.axis_product(call["equation"], constant[0])
    if found is None:
        return None
    return _product(call, operands[1 - constant[0]], operands[constant[0]], behind=found.behind, transposed=found.transposed)


def _product(call: Call, x: object, weight: object, *, behind: int, transposed: bool) -> Reading | None:
    if not call.is_activation(x) or not isinstance(weight, Node) or weight not in call.constants:
        return None
    if weight.meta["val"].ndim != 2 or x.meta["val"].ndim < 2:
        return None
    held = call.constants.value(weight)
    kernel = held.T if transposed else held
    sizes = shape_of(x.meta["val"])
    if len(sizes) <= behind or sizes[-1 - behind] != kernel.shape[1]:  # an axis of one item is repeated, and a free one may be
        return None
    value = algebra.convolution(kernel.reshape(*kernel.shape, *[1] * behind))
    return Reading({x: call.leaf(value, (weight,), behind, transposed)}, kernel.numel())
