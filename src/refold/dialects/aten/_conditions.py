"""Relations between sizes of the inputs: read from what torch notes while it traces, worked out, and said in words."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

from refold.dialects.aten._words import Tree, allowed_sizes, both, either, sentence

Place: TypeAlias = "tuple[str, int]"
"""An input and one of its axes."""

Shapes: TypeAlias = "dict[str, tuple[int, ...]]"
"""The sizes of the inputs, by name."""

LONG = 120
"""Letters beyond which a condition is said by what it allows."""
LOOKED_AT = 64
"""Sizes that are looked at for that, or twice that of the example."""

_SIZE = re.compile(r"(L(?:\[(?:'[^']*'|\d+)\])+)\.size\(\)\[(\d+)\]")


def _choose(condition: Any, first: Any, second: Any) -> Any:
    return first if condition else second


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
    ast.LShift: operator.lshift, ast.RShift: operator.rshift, ast.USub: operator.neg, ast.Not: operator.not_,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.And: both, ast.Or: either,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": max, "min": min, "abs": abs, "float": float, "round": round,
    **{f"math.{name}": getattr(math, name) for name in ("trunc", "floor", "ceil", "sqrt", "log2", "exp", "log", "sin", "cos", "tan")},
}  # fmt: skip
_NUMBERS = {"math.inf": math.inf, "math.nan": math.nan}
_OPPOSITE = {
    operator.eq: operator.ne, operator.ne: operator.eq, operator.lt: operator.ge, operator.ge: operator.lt, operator.gt: operator.le,
    operator.le: operator.gt,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that must hold between sizes of the inputs; `places` says which input and axis each size of `tree` is.

    `is_shared` says that the original does not take the sizes that break it either, or that they are taken for another reason, as far as
    that was tried; `is_implied` that they break a plainer condition too, as far as that was looked at. `is_assumed` says that tracing took
    it for granted and the model never asked.
    """

    tree: Tree
    text: str
    places: tuple[Place, ...]
    is_shared: bool = False
    is_implied: bool = False
    is_assumed: bool = False

    def holds(self, sizes: Sequence[int]) -> bool:
        """Whether it does for these sizes, in the order of `places`."""
        try:
            return bool(_value(self.tree, sizes))
        except (ZeroDivisionError, ValueError, OverflowError, TypeError):  # sizes below all that the model takes
            return False

    def holds_at(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Whether it does for inputs of these shapes."""
        return self.holds([shapes[name][axis] for name, axis in self.places])

    @property
    def numbers(self) -> set[int]:
        """The whole numbers that it is made of."""
        return _numbers(self.tree)


Conditions: TypeAlias = "tuple[Condition, ...]"
"""Conditions that allow the sizes for which all of them hold."""


def allows(conditions: Iterable[Condition], shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether all conditions hold for inputs of these shapes.

    >>> allows([fixed_size("x", 1, 3), more_than("x", 2, 1)], {"x": (2, 3, 1)})
    False
    """
    return all(one.holds_at(shapes) for one in conditions)


def not_among(conditions: Conditions, others: Iterable[Condition]) -> list[Condition]:
    """The conditions that are none of the others.

    >>> [one.text for one in not_among((fixed_size("x", 1, 3), more_than("x", 2, 1)), [fixed_size("x", 1, 3)])]
    ['axis 2 of `x` is more than 1']
    """
    known = {(other.tree, other.places) for other in others}
    return [one for one in conditions if (one.tree, one.places) not in known]


def fixed_size(name: str, axis: int, size: int) -> Condition:
    """The condition that an axis has one size.

    >>> fixed_size("x", 1, 3).text
    'axis 1 of `x` is 3'
    """
    return _condition((operator.eq, "0", size), ((name, axis),))


def more_than(name: str, axis: int, size: int) -> Condition:
    """The condition that an axis is longer than that, as torch takes for granted of every size that is free: that it is more than 1."""
    return _condition((operator.gt, "0", size), ((name, axis),))


def at_most(name: str, axis: int, size: int) -> Condition:
    """The condition that an axis is no longer than that."""
    return _condition((operator.le, "0", size), ((name, axis),))


def or_point(condition: Condition, sizes: Sequence[int]) -> Condition:
    """A condition that allows one more choice of sizes, one for each of its axes.

    >>> or_point(read_condition("L['x'].size()[0] != L['x'].size()[2]", {"L['x']": "x"}), [1, 1]).holds([1, 1])
    True
    """
    sides = [(operator.eq, str(position), size) for position, size in enumerate(sizes)]
    return _condition((either, condition.tree, sides[0] if len(sides) == 1 else (both, *sides)), condition.places)


def or_at(condition: Condition, shapes: Shapes) -> Condition:
    """The condition, allowing inputs of these shapes as well.

    >>> or_at(more_than("x", 0, 1), {"x": (1, 3)}).text
    'axis 0 of `x` is more than 1 or axis 0 of `x` is 1'
    """
    return condition if condition.holds_at(shapes) else or_point(condition, [shapes[name][axis] for name, axis in condition.places])


def where_broken(broken: Sequence[Condition], condition: Condition) -> Condition:
    """The condition that another one holds wherever one of those that are `broken` does not.

    >>> single = read_condition("L['x'].size()[0] != 1", {"L['x']": "x"})
    >>> where_broken([single], at_most("x", 2, 20)).text
    'axis 0 of `x` is not 1 or axis 2 of `x` is at most 20'
    """
    places = tuple(dict.fromkeys(place for one in (*broken, condition) for place in one.places))
    *firsts, last = (_moved(one.tree, [places.index(place) for place in one.places]) for one in (*broken, condition))
    return _condition((either, firsts[0] if len(firsts) == 1 else (both, *firsts), last), places)


def _moved(tree: Tree, positions: Sequence[int]) -> Tree:
    """The same formula of sizes that stand at these positions."""
    if isinstance(tree, str):
        return str(positions[int(tree)])
    return (tree[0], *(_moved(part, positions) for part in tree[1:])) if isinstance(tree, tuple) else tree


def read_condition(source: str, inputs: Mapping[str, str]) -> Condition | None:
    """What torch notes, as in `L['x'].size()[2] <= 100`, or None where it holds more than arithmetic of sizes.

    `inputs` names the input that each `L[...]` is.

    >>> read_condition("(L['x'].size()[2] % 4) == 0", {"L['x']": "x"}).text
    'axis 2 of `x` is a multiple of 4'
    """
    places: dict[Place, str] = {}

    def name(match: re.Match[str]) -> str:
        place = (inputs.get(match[1], ""), int(match[2]))
        return places.setdefault(place, f"s{len(places)}")

    expression = _SIZE.sub(name, source).replace("torch.sym_", "").replace("torch._sym_", "math.")
    try:
        tree = _tree(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return None
    if not places or any(not place for place, _ in places) or not isinstance(tree, tuple):
        return None
    return _condition(tree, tuple(places))


def places_in(source: str, inputs: Mapping[str, str]) -> list[Place]:
    """The sizes that a note speaks of, of inputs that have a name."""
    found = ((inputs.get(match[1], ""), int(match[2])) for match in _SIZE.finditer(source))
    return list(dict.fromkeys(place for place in found if place[0]))


def is_trivial(condition: Condition) -> bool:
    """Whether a condition holds of every size there is, 0 among them."""
    match condition.tree:
        case (operator.ge, str(), int(bound)):
            return bound <= 0
        case (operator.le, int(bound), str()):
            return bound <= 0
        case (operator.ge | operator.le | operator.eq, str(one), str(other)):
            return one == other
    return False


def without_weaker(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions without those of one axis being longer than some size that another one asks to be longer still.

    >>> [one.text for one in without_weaker([more_than("x", 2, 1), more_than("x", 2, 2)])]
    ['axis 2 of `x` is more than 2']
    """
    longest: dict[Place, int] = {}
    for condition in conditions:
        match condition.tree:
            case (operator.gt, str(), int(size)):
                longest[condition.places[0]] = max(size, longest.get(condition.places[0], size))

    def is_weaker(condition: Condition) -> bool:
        match condition.tree:
            case (operator.gt, str(), int(size)):
                return size < longest[condition.places[0]]
        return False

    return tuple(condition for condition in conditions if not is_weaker(condition))


def by_what_they_allow(conditions: Sequence[Condition], example: Mapping[str, Sequence[int]]) -> tuple[Condition, ...]:
    """The conditions, those of many words said by the sizes that all of them leave each axis, the others being as in the example."""

    def leaves(place: Place, size: int) -> bool:
        sizes = {one: example[one[0]][one[1]] for condition in conditions for one in condition.places} | {place: size}
        return all(condition.holds([sizes[one] for one in condition.places]) for condition in conditions if place in condition.places)

    @cache
    def said(place: Place) -> str:
        name, axis = place
        most = max(2 * example[name][axis], LOOKED_AT)
        sizes = [size for size in range(1, most + 1) if leaves(place, size)]
        return "" if len(sizes) == most else f"axis {axis} of `{name}` is {allowed_sizes(sizes, most)}"

    result = []
    for condition in conditions:
        texts = [said(place) for place in condition.places] if len(condition.text) > LONG else []
        if any(texts):
            condition = replace(condition, text=f"{' and '.join(sorted(filter(None, texts)))}, the other sizes being as in the example")
        result.append(condition)
    return tuple(result)


def _condition(tree: Tree, places: tuple[Place, ...]) -> Condition:
    return Condition(tree, sentence(tree, [f"axis {axis} of `{name}`" for name, axis in places]), places)


def _tree(node: ast.AST) -> Tree:
    """Sums, products and comparisons of sizes; `ValueError` for anything else."""
    match node:
        case ast.Constant(value=bool(value)):
            return int(value)
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if re.fullmatch(r"s\d+", name):
            return name[1:]
        case ast.Attribute() if ast.unparse(node) in _NUMBERS:
            return _NUMBERS[ast.unparse(node)]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return (_OPERATORS[type(op)], _tree(left), _tree(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            inner = _tree(operand)
            if isinstance(op, ast.USub) and isinstance(inner, (int, float)):
                return -inner
            if isinstance(op, ast.Not) and isinstance(inner, tuple) and inner[0] in _OPPOSITE:
                return (_OPPOSITE[inner[0]], *inner[1:])
            return (_OPERATORS[type(op)], inner)
        case ast.BoolOp(op=op, values=values):
            return (_OPERATORS[type(op)], *map(_tree, values))
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _OPERATORS for op in ops):
            sides = [_tree(one) for one in (left, *others)]
            links = [(_OPERATORS[type(op)], one, other) for op, one, other in zip(ops, sides, sides[1:], strict=False)]
            return links[0] if len(links) == 1 else (both, *links)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return (_choose, _tree(test), _tree(body), _tree(orelse))
        case ast.Call(func=func, args=args, keywords=[]) if ast.unparse(func) in _FUNCTIONS:
            return (_FUNCTIONS[ast.unparse(func)], *map(_tree, args))
        case _:
            raise ValueError(f"{ast.dump(node)} is more than arithmetic of sizes")


def _value(tree: Tree, sizes: Sequence[int]) -> Any:
    if isinstance(tree, (int, float)):
        return tree
    if isinstance(tree, str):
        return sizes[int(tree)]
    act, *arguments = tree
    return act(*[_value(argument, sizes) for argument in arguments])


def _numbers(tree: Tree) -> set[int]:
    match tree:
        case int():
            return {tree}
        case (_, *parts):
            return set().union(*map(_numbers, parts))
    return set()
