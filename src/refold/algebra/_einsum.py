"""Einstein sums of a tensor and a constant matrix, as products along one axis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AxisProduct:
    """A product along one axis with `behind` axes behind it; `transposed` where the matrix is (in, out), not (out, in)."""

    behind: int
    transposed: bool


def axis_product(equation: str, matrix: int) -> AxisProduct | None:
    """What a sum of two operands is, of which the one at place `matrix` is a matrix; None where it moves axes or sums over more.

    >>> axis_product("bchw,oc->bohw", matrix=1)
    AxisProduct(behind=2, transposed=False)
    >>> axis_product("...i,ij->...j", matrix=1)
    AxisProduct(behind=0, transposed=True)
    """
    given, arrow, result = equation.replace(" ", "").partition("->")
    operands = given.split(",")
    if not arrow or len(operands) != 2:
        return None
    weight, x = operands[matrix], operands[1 - matrix].replace("...", ".")
    result = result.replace("...", ".")
    if len(set(weight)) != 2 or len(weight) != 2 or len(set(x)) != len(x) or "." in weight:
        return None
    for position, transposed in ((1, False), (0, True)):
        inner, outer = weight[position], weight[1 - position]
        if inner in x and outer not in x and x.replace(inner, outer) == result:
            behind = x[x.index(inner) + 1 :]
            return None if "." in behind else AxisProduct(len(behind), transposed)
    return None
