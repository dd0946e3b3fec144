"""What counts as a size: whole numbers that are not truth values."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from refold.errors import GeometryError


def whole(name: str, value: SupportsIndex, at_least: int | None = None) -> int:
    """`value` as an int, or a `GeometryError` in the caller's words.

    >>> whole("stride", 2, at_least=1)
    2
    """
    if isinstance(value, bool):
        raise GeometryError(f"`{name}` (={value}) is a truth value; give a whole number")
    try:
        number = operator.index(value)
    except TypeError:
        raise GeometryError(f"`{name}` (={value!r}) must be a whole number; give an int, not {type(value).__name__}") from None
    if at_least is not None and number < at_least:
        raise GeometryError(f"`{name}` (={number}) must be at least {at_least}")
    return number
