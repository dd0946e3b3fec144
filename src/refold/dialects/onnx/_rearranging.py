"""What the ONNX operators that only rearrange a tensor do to it, and how they are written again on another one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto

from refold.algebra import Obstruction, Rearrangement
from refold.dialects.onnx._call import Call, Reading, reads
from refold.dialects.onnx._scopes import Equalities, Size
from refold.dialects.onnx._tensors import Array
from refold.maps import IDENTITY, Layout, Moved, Step

Factors = tuple[int, tuple[str, ...]]


@reads("Transpose")
def _transpose(call: Call) -> Reading | Obstruction | None:
    """y = x, its axes in another order."""
    typed = call.typed(call.x)
    if typed is None or not call.is_activation(call.x):
        return None
    shape = call.equalities.shape(typed)
    order = [int(axis) % len(shape) for axis in call.get("perm", range(len(shape))[::-1])]
    for size, axis in zip(call.output.shape, order, strict=True):
        call.equalities.equate(size, shape[axis])
    return _reading(call, Rearrangement.permutation([_factors(size, call.equalities) for size in shape], order))


@reads("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(call: Call) -> Reading | Obstruction | None:
    """y = x, its items in the same order under another shape."""
    typed = call.typed(call.x)
    if typed is None or not call.is_activation(call.x):
        return None
    mine, result = call.equalities.shape(typed), call.equalities.shape(call.output)
    stated = call.value(call.input(1)).reshape(-1) if call.node.op_type == "Reshape" and call.is_constant(call.input(1)) else ()
    copied = [axis for axis, size in enumerate(stated) if size == 0 and not call.get("allowzero", 0)]
    for axis in copied:
        call.equalities.equate(result[axis], mine[axis])
    _solve(mine, call.equalities.shape(call.output), call.equalities)
    shape, wanted = ([_factors(call.equalities.find(size), call.equalities) for size in sizes] for sizes in (mine, result))
    return _reading(call, Rearrangement.reshape(shape, wanted))


@reads("GlobalAveragePool", "ReduceMean")
def _mean(call: Call) -> Reading | Obstruction | None:
    """y = the mean of x over some axes."""
    typed = call.typed(call.x)
    if typed is None or not call.is_activation(call.x):
        return None
    ndim = len(typed.shape)
    axes, keeps = list(range(2, ndim)), True
    if call.node.op_type == "ReduceMean":
        if call.input(1) and not call.is_constant(call.input(1)):
            return None
        given = call.value(call.input(1)).reshape(-1).tolist() if call.input(1) else call.get("axes", ())
        axes, keeps = sorted({int(axis) % ndim for axis in given}), bool(call.get("keepdims", 1))
        if not axes:
            return None
    shape = call.equalities.shape(typed)
    left = [size for axis, size in enumerate(shape) if axis not in axes] if not keeps else [
        1 if axis in axes else size for axis, size in enumerate(shape)
    ]  # fmt: skip
    for size, known in zip(call.output.shape, left, strict=True):
        call.equalities.equate(size, known)
    done = Rearrangement.mean([_factors(size, call.equalities) for size in shape], axes, keeps=keeps)
    return _reading(call, done, math.prod(typed.example[axis] for axis in axes))


def _reading(call: Call, done: Rearrangement | None, mean_of: int = 1) -> Reading | None:
    if done is None:
        return None
    x, output = call.x, call.node.output[0]
    asked = [name for name in call.node.input[1:] if name and not call.is_constant(name)]
    if done.is_identity:
        return Reading({x: IDENTITY})
    stated = _stated(call) if asked and call.node.op_type == "Reshape" else None
    if stated is not None:
        asked = []
    is_flexible = not asked and (call.node.op_type != "Squeeze" or bool(call.input(1)) or "axes" in call.attributes)
    keys = tuple(call.scope.key(name) for name in asked)
    step = Step(call.scope.key(output), done, call.output.example, keys, is_flexible, mean_of=mean_of, stated=stated)
    return Reading({x: Moved(IDENTITY, None, Layout((step,), done))})


def _stated(call: Call) -> tuple[int, ...] | None:
    """The shape of a Reshape in numbers, 0 for a size that it takes over from the same axis; None where it has another free one."""
    typed = call.typed(call.x)
    assert typed is not None
    given, result = call.equalities.shape(typed), call.equalities.shape(call.output)
    sizes = [
        size if isinstance(size, int) else 0 if axis < len(given) and given[axis] == size else None for axis, size in enumerate(result)
    ]
    known = [size for size in sizes if size is not None]
    return tuple(known) if len(known) == len(sizes) else None


def _factors(size: Size, equalities: Equalities) -> Factors:
    """A size as the factors that it is known to be a product of."""
    if isinstance(size, int):
        return size, ()
    name = str(size)
    return equalities.products.get(name, (1, (name,)))


def _solve(shape: Sequence[Size], result: Sequence[Size], equalities: Equalities) -> None:
    """Learn the one size of a reshaped value that is not among those of the value: the items that the others leave."""
    left, free = _product([_factors(size, equalities) for size in shape])
    given = set(free)
    unknown = [size for size in result if isinstance(size, str) and not set(_factors(size, equalities)[1]) <= given]
    if len(unknown) != 1:
        return
    known, names = _product([_factors(size, equalities) for size in result if size != unknown[0]])
    rest = Counter(free)
    rest.subtract(names)
    if known and left % known == 0 and min(rest.values(), default=0) >= 0:
        factors = (left // known, tuple(sorted(rest.elements())))
        if factors[1] == () or (factors[0] == 1 and len(factors[1]) == 1):
            equalities.equate(unknown[0], factors[1][0] if factors[1] else factors[0])
        else:
            equalities.products[unknown[0]] = factors


def _product(sizes: Sequence[Factors]) -> Factors:
    known = 1
    free: list[str] = []
    for number, names in sizes:
        known *= number
        free += names
    return known, tuple(sorted(free))


def write_step(step: Step, original: NodeProto, x: str, output: str, shape: Array | None, store: Callable[[Array], str]) -> NodeProto:
    """Write an operator again, with x for what it read; `shape` are the constant sizes that it states, `store` names those of a new one."""
    node = NodeProto()
    node.CopyFrom(original)
    node.input[0] = x
    node.output[:] = [output]
    if node.op_type != "Reshape" or (step.resized is None and step.stated is None):
        return node
    sizes = np.array(shape if step.stated is None else step.stated, np.int64).reshape(-1)
    if step.resized is not None and sizes[step.resized[0]] != -1:
        sizes[step.resized[0]] = step.resized[1]
    node.input[1] = store(sizes)
    if shape is None:
        kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return node
