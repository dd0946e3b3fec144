"""The laws on values: sum and composition of affine convolutions whose numbers are at hand."""

from __future__ import annotations

from refold.algebra._affine import AffineConv, Obstruction, Sizes
from refold.algebra._combine import add as add_formulas
from refold.algebra._combine import compose as compose_formulas
from refold.algebra._formula import Formula, Leaf
from refold.errors import AlgebraError


def add(left: AffineConv, right: AffineConv, sizes: Sizes | None = None) -> AffineConv:
    """`left(x) + right(x)` as one map, in float64.

    `sizes` are the spatial sizes of x where they are known; without them the sum must be exact for every size.

    Raises `AlgebraError` where it is not.

    >>> import numpy as np
    >>> from refold.algebra import convolution
    >>> three, one = convolution(np.ones((2, 2, 3, 3)), padding=1), convolution(np.ones((2, 2, 1, 1)))
    >>> add(three, one).kernel[0, 0]
    array([[1., 1., 1.],
           [1., 2., 1.],
           [1., 1., 1.]])
    """
    return _value(add_formulas(Leaf(left), Leaf(right), _free(left, sizes)))


def compose(second: AffineConv, first: AffineConv, sizes: Sizes | None = None) -> AffineConv:
    """`second(first(x))` as one map, in float64.

    `sizes` are the spatial sizes of x where they are known; without them the composition must be exact for every size.

    Raises `AlgebraError` where it is not.

    >>> import numpy as np
    >>> from refold.algebra import convolution
    >>> pointwise, three = convolution(np.full((4, 2, 1), 2.0)), convolution(np.ones((3, 4, 3)), padding=1)
    >>> compose(three, pointwise).kernel.shape
    (3, 2, 3)
    """
    return _value(compose_formulas(Leaf(second), Leaf(first), _free(first, sizes)))


def _free(value: AffineConv, sizes: Sizes | None) -> Sizes:
    return (None,) * len(value.windows) if sizes is None else sizes


def _value(formula: Formula | Obstruction) -> AffineConv:
    if isinstance(formula, Obstruction):
        raise AlgebraError(str(formula))
    return formula.evaluate()
