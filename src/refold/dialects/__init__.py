"""Outside formats, one room each: the only places that name an operator of theirs."""

from __future__ import annotations

import os
from typing import Any


def is_onnx(model: Any) -> bool:
    """Whether the ONNX dialect reads a model: a path, an `onnx.ModelProto` or an `onnx_ir.Model`; the packages are not loaded to know."""
    return isinstance(model, (str, os.PathLike)) or type(model).__module__.partition(".")[0] in ("onnx", "onnx_ir")
