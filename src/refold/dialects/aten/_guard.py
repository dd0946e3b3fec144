"""Holds a folded network to the sizes it was traced for, so that another size is an error and not a wrong result.

Tracing follows one path through a model. Where the path hangs on a size (a branch, a reshape, a size that could not be left free) torch
notes a condition; the folded network checks those that tell paths apart.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

_SIZE = re.compile(r"(L(?:\[(?:'[^']*'|\d+)\])+)\.size\(\)\[(\d+)\]")
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.USub: operator.neg,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": max, "min": min, "abs": abs, "float": float, "math.trunc": math.trunc, "math.floor": math.floor, "math.ceil": math.ceil,
    "math.sqrt": math.sqrt,
}  # fmt: skip

Tree: TypeAlias = "int | float | str | tuple[Any, ...]"
"""A number, the position of a size as text, or a function and its arguments."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that must hold between sizes of the inputs; `places` says which input and axis each size of `tree` is."""

    tree: Tree
    text: str
    places: tuple[tuple[str, int], ...]

    def holds(self, sizes: Sequence[int]) -> bool:
        """Whether it does for these sizes, in the order of `places`."""
        try:
            return bool(_value(self.tree, sizes))
        except ZeroDivisionError:  # sizes below all that the model takes
            return False


def fixed_size(name: str, axis: int, size: int) -> Condition:
    """The condition that an axis has one size."""
    return Condition((operator.eq, "0", size), f"axis {axis} of `{name}` is {size}", ((name, axis),))


def more_than_one(name: str, axis: int) -> Condition:
    """The condition that an axis is not of size one, which torch takes for granted of every size that is free."""
    return Condition((operator.gt, "0", 1), f"axis {axis} of `{name}` is more than 1", ((name, axis),))


def read_condition(source: str, inputs: Mapping[str, str], *, doubtful: bool = False) -> Condition | None:
    """What torch notes, as in `L['x'].size()[2] <= 100`, or None where it tells no paths apart or holds more than arithmetic.

    `inputs` names the input that each `L[...]` is. Notes that a size is not 0 or 1 are left out: torch makes them of every size; so are
    notes that a size is some number, which `fixed_size` gives for those that matter. `doubtful` gives those of the first kind, and none
    else: now and then a model does hang on one.
    """
    places: dict[tuple[str, int], str] = {}

    def name(match: re.Match[str]) -> str:
        place = (inputs.get(match[1], ""), int(match[2]))
        return places.setdefault(place, f"s{len(places)}")

    expression = _SIZE.sub(name, source).replace("torch.sym_", "")
    text = _SIZE.sub(lambda match: f"{inputs.get(match[1], match[1])}.shape[{match[2]}]", source).replace("torch.sym_", "")
    try:
        tree = _tree(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError):
        return None
    if not places or any(not place for place, _ in places) or not isinstance(tree, tuple) or _tells_nothing(tree) is not doubtful:
        return None
    return Condition(tree, text, tuple(places))


class SizeGuard(nn.Module):
    """Stands first in the graph and reads the inputs that its conditions speak of, each under its name in `names`."""

    _is_impure = True  # it makes nothing, and must stay all the same when torch drops what nothing reads

    def __init__(self, conditions: Sequence[Condition], names: Sequence[str]) -> None:
        super().__init__()
        self.conditions = tuple(conditions)
        self.names = tuple(names)

    def forward(self, *inputs: torch.Tensor) -> None:
        """Raise `ValueError` where a condition does not hold."""
        shapes = dict(zip(self.names, (x.shape for x in inputs), strict=True))
        for condition in self.conditions:
            sizes = [shapes[name][axis] for name, axis in condition.places]
            if not condition.holds(sizes):
                actual = ", ".join(f"axis {axis} of `{name}` is {size}" for (name, axis), size in zip(condition.places, sizes, strict=True))
                raise ValueError(
                    f"{actual}, but the network was traced for inputs where {condition.text}; "
                    "give such inputs, or fold again with example inputs of the new sizes"
                )

    def extra_repr(self) -> str:
        """The conditions, as a module's print shows them."""
        return "; ".join(condition.text for condition in self.conditions)


def _tree(node: ast.AST) -> Tree:
    """Sums, products and comparisons of sizes; `ValueError` for anything else."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if re.fullmatch(r"s\d+", name):
            return name[1:]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return (_OPERATORS[type(op)], _tree(left), _tree(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return (operator.neg, _tree(operand))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
            return (_OPERATORS[type(op)], _tree(left), _tree(right))
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


def _tells_nothing(tree: tuple[Any, ...]) -> bool:
    """Whether a condition is one that torch makes of any size, and no path through the model hangs on.

    Such are: that something is not 0 or 1; that one size is one number; that two products of sizes differ, asked to tell strides apart.
    Whether the difference of two sizes is 0 or more is none of them: that is how a model compares one size with the other.
    """
    compare, left, *rest = tree
    right = rest[0] if rest else None
    if compare is operator.eq:
        return isinstance(left, str) and isinstance(right, int)
    if compare is operator.ne:
        plain = isinstance(left, str) and (isinstance(right, str) or right not in (0, 1))
        return not (plain or _has(tree, operator.mod) or (right == 0 and _compares_two(left)))
    least = {operator.ge: (0, 1, 2), operator.gt: (0, 1) if isinstance(left, str) else (0,)}
    is_noise = right in least.get(compare, ()) and not _compares_two(left)
    return is_noise or compare not in (operator.ge, operator.gt, operator.le, operator.lt)


def _has(tree: Tree, act: Callable[..., Any]) -> bool:
    return isinstance(tree, tuple) and (tree[0] is act or any(_has(one, act) for one in tree[1:]))


def _compares_two(tree: Tree) -> bool:
    """Whether something is a difference in which two different sizes stand."""
    return isinstance(tree, tuple) and tree[0] is operator.add and _has(tree, operator.neg) and len(_sizes(tree)) > 1


def _sizes(tree: Tree) -> set[str]:
    if isinstance(tree, str):
        return {tree}
    return set().union(*map(_sizes, tree[1:])) if isinstance(tree, tuple) else set()
