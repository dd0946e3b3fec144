"""Counts the operators and tensors of an ONNX model."""

from __future__ import annotations

import math

from onnx import ModelProto

from refold.census import Census
from refold.dialects.onnx._constants import STANDARD
from refold.dialects.onnx._load import every_node, every_tensor
from refold.dialects.onnx._tensors import Tensors

CONVOLUTIONS = ("Conv", "ConvTranspose")
LINEARS = ("Gemm", "MatMul")
ADDITIONS = ("Add", "Sub", "Sum")


def count(skeleton: ModelProto, tensors: Tensors, multiply_adds: int) -> Census:
    """Count the operators of all graphs and functions, those that only hold a tensor left out, and the tensors that the model stores."""
    kinds = [node.op_type for node in every_node(skeleton) if not (node.op_type == "Constant" and node.domain in STANDARD)]
    stored = list(every_tensor(skeleton))
    return Census(
        operators=len(kinds),
        convolutions=sum(kind in CONVOLUTIONS for kind in kinds),
        linears=sum(kind in LINEARS for kind in kinds),
        batch_norms=kinds.count("BatchNormalization"),
        additions=sum(kind in ADDITIONS for kind in kinds),
        parameters=sum(math.prod(tensor.dims) for tensor in stored),
        weight_bytes=sum(tensors.nbytes(tensor) for tensor in stored),
        multiply_adds=multiply_adds,
    )
