"""How coarsely each output of a model is rounded: by the narrowest floats that are worked out on the way to it."""

from __future__ import annotations

from onnx import NodeProto

from refold.dialects.onnx._constants import MOVES, STANDARD
from refold.dialects.onnx._scopes import Scope
from refold.dialects.onnx._tensors import FLOATS
from refold.verification import coarsest


def roundings(top: Scope) -> dict[str, float]:
    """The unit roundoff of each output: the largest of any floats from which it is worked out, 0 where none are.

    What is only read or moved, as an input in float32 that is cast to float64, is rounded nowhere. Whole numbers pass no rounding on: they
    are equal or not.
    """
    units: dict[str, float] = {}
    inner: dict[int, list[Scope]] = {}
    for node, scope in top.within:
        inner.setdefault(id(node), []).append(scope)
    for node in top.graph.node:
        within = inner.get(id(node), [])
        read = {*node.input, *(name for scope in within for name in scope.captured())}
        passed = max((units.get(name, 0.0) for name in read), default=0.0)
        for one in (one for scope in within for one in scope.all()):
            passed = max([passed, *(_unit(one, name) for name in one.producers)])
        for name in filter(None, node.output):
            own = _unit(top, name)
            units[name] = coarsest(own, passed) if not own or _is_rounded(node, top, own) else passed
    return {output.name: units.get(output.name, 0.0) for output in top.graph.output}


def _is_rounded(node: NodeProto, scope: Scope, own: float) -> bool:
    """Whether an operator rounds what it gives: a cast where it narrows, and what does not only move numbers."""
    if node.domain not in STANDARD or node.op_type not in (*MOVES, "Constant"):
        return True
    return node.op_type in ("Cast", "CastLike") and _unit(scope, node.input[0]) < own


def _unit(scope: Scope, name: str) -> float:
    """The unit roundoff of a value, 0 of one that holds no floats."""
    typed = scope.typed(name)
    return FLOATS.get(typed.elem_type, 0.0) if typed is not None else 0.0
