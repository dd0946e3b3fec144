"""Arithmetic of sizes in words."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

Tree: TypeAlias = "int | float | str | tuple[Any, ...]"
"""A number, the position of a size as text, or a function and its arguments."""

LISTED = 8
"""Sizes that are listed one by one."""


def either(*values: Any) -> bool:
    """Whether one of them is true."""
    return any(values)


def both(*values: Any) -> bool:
    """Whether all of them are true."""
    return all(values)


def allowed_sizes(sizes: Sequence[int], most: int = 0) -> str:
    """Sizes in words: a row of them, the multiples of one, or one by one; `most` is up to where they were looked at.

    >>> allowed_sizes([13, 14, 15, 16]), allowed_sizes([32, 64, 96]), allowed_sizes([8, 12, 16, 20]), allowed_sizes([3, 5, 9])
    ('13 to 16', 'a multiple of 32', 'a multiple of 4 from 8 on', '3, 5 or 9')
    """
    if not sizes:
        return "no other"
    if len(sizes) == 1:
        return str(sizes[0])
    first, last = sizes[0], sizes[-1]
    if list(sizes) == list(range(first, last + 1)):
        return f"at least {first}" if last == most else f"{first} to {last}"
    step = sizes[1] - first
    if len(sizes) > 2 and first % step == 0 and list(sizes) == list(range(first, last + 1, step)):
        return f"a multiple of {step}{f' from {first} on' if first > step else ''}"
    listed = [str(size) for size in sizes[:LISTED]]
    more = " and so on" if len(sizes) > LISTED else ""
    return f"{', '.join(listed[:-1])} or {listed[-1]}{more}"


_VERBS = {
    operator.eq: "is", operator.ne: "is not", operator.le: "is at most", operator.lt: "is less than", operator.ge: "is at least",
    operator.gt: "is more than",
}  # fmt: skip
_MIRRORED = {operator.le: operator.ge, operator.ge: operator.le, operator.lt: operator.gt, operator.gt: operator.lt}


def sentence(tree: Tree, names: Sequence[str]) -> str:
    """A condition in words."""
    match tree:
        case (act, int() | float() as number, other) if act in _VERBS and not isinstance(other, (int, float)):
            return sentence((_MIRRORED.get(act, act), other, number), names)
        case (operator.eq, (operator.mod, size, divisor), 0):
            return f"{_words(size, names)} is a multiple of {_words(divisor, names)}"
        case (operator.ne, (operator.mod, size, divisor), 0):
            return f"{_words(size, names)} is not a multiple of {_words(divisor, names)}"
        case (act, left, right) if act in _VERBS:
            return f"{_words(left, names)} {_VERBS[act]} {_words(right, names)}"
        case (act, *parts) if act in (both, either):
            return (" and " if act is both else " or ").join(sentence(part, names) for part in parts)
        case (operator.not_, inner):
            return f"it is not so that {sentence(inner, names)}"
    return f"{_words(tree, names)} is not 0"


def _words(tree: Tree, names: Sequence[str]) -> str:
    """A number in words; what is made of several stands in brackets."""
    match tree:
        case int() | float():
            return f"{tree:g}" if isinstance(tree, float) else str(tree)
        case str():
            return names[int(tree)]
        case (operator.neg, inner):
            return f"minus {_words(inner, names)}"
        case (operator.add, (operator.neg, left), right):
            return f"({_words(right, names)} minus {_words(left, names)})"
        case (operator.add, left, (operator.neg, right)):
            return f"({_words(left, names)} minus {_words(right, names)})"
        case (operator.add, left, (operator.mul, -1, right)):
            return f"({_words(left, names)} minus {_words(right, names)})"
        case (operator.add, int(number), right) if number < 0:
            return f"({_words(right, names)} minus {-number})"
        case (act, left, right) if act in _BETWEEN:
            return f"({_words(left, names)} {_BETWEEN[act]} {_words(right, names)})"
        case (act, *parts) if act in _VERBS or act in (both, either, operator.not_):
            return f"whether {sentence(tree, names)}"
        case (act, *parts):
            return f"{_NAMES.get(act, getattr(act, '__name__', 'a function'))} of {' and '.join(_words(part, names) for part in parts)}"
    raise AssertionError("a tree is a number, a size or a function of both")


_BETWEEN = {
    operator.add: "plus", operator.sub: "minus", operator.mul: "times", operator.truediv: "divided by",
    operator.floordiv: "divided, without rest, by", operator.mod: "modulo", operator.pow: "to the power of",
    operator.and_: "bitwise and", operator.or_: "bitwise or", operator.xor: "bitwise xor", operator.lshift: "shifted left by",
    operator.rshift: "shifted right by",
}  # fmt: skip
_NAMES: dict[Any, str] = {
    max: "the largest", min: "the smallest", abs: "the size", float: "the value", round: "the rounded value",
    math.trunc: "the whole part", math.floor: "the floor", math.ceil: "the ceiling", math.sqrt: "the square root",
}  # fmt: skip
