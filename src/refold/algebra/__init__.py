"""Affine convolutions and their laws: every linear layer is one value, closed under sum and composition.

`AffineConv` is the value, `Stencil` its shape without numbers, `Formula` an expression over values that is worked out when asked.
The constructors turn layers into values; `add` and `compose` are the laws.
"""

from refold.algebra._affine import AffineConv, Array, Mode, Obstruction, Sizes, Stencil
from refold.algebra._combine import add as add_formulas
from refold.algebra._combine import compose as compose_formulas
from refold.algebra._einsum import axis_product
from refold.algebra._formula import Chain, Formula, Leaf, Sum
from refold.algebra._laws import add, compose
from refold.algebra._make import (
    average_pool,
    batch_norm,
    convolution,
    identity,
    linear,
    scale_and_shift,
    transposed_convolution,
    transposed_geometry,
    transposed_kernel,
    window,
)
from refold.algebra._placed import Carried, move_back, move_forward
from refold.algebra._rearrangement import Rearrangement
from refold.algebra._selection import Selection

__all__ = [
    "AffineConv",
    "Array",
    "Carried",
    "Chain",
    "Formula",
    "Leaf",
    "Mode",
    "Obstruction",
    "Rearrangement",
    "Selection",
    "Sizes",
    "Stencil",
    "Sum",
    "add",
    "add_formulas",
    "average_pool",
    "axis_product",
    "batch_norm",
    "compose",
    "compose_formulas",
    "convolution",
    "identity",
    "linear",
    "move_back",
    "move_forward",
    "scale_and_shift",
    "transposed_convolution",
    "transposed_geometry",
    "transposed_kernel",
    "window",
]
