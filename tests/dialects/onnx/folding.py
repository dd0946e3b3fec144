"""Folds a small model and checks what came of it: its operators, its numbers, and that nothing is left to fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

import refold
from refold.folding import FoldResult
from tests.dialects.onnx.models import kinds, random, run_reference

Shape = Sequence[int | str | None]
"""Sizes of a value, some free."""


def written(result: FoldResult) -> ModelProto:
    """The folded model, checked in full."""
    import onnx_ir as ir

    proto = ir.to_proto(result.model)
    assert isinstance(proto, ModelProto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def folded(model: ModelProto, expected: Sequence[str], feeds: dict[str, Any] | None = None) -> ModelProto:
    """The folded model, of these operators, the same function, and with nothing left to fold."""
    result = refold.fold(model, feeds)
    new = written(result)
    assert kinds(new) == list(expected)
    if feeds is not None:
        for mine, theirs in zip(run_reference(model, feeds), run_reference(new, feeds), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    assert refold.check(new) == ()
    return new


def x_of(*shape: int) -> dict[str, Any]:
    return {"x": random(*shape, seed=5)}
