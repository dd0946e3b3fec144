"""Holds the arguments of a folded network to how they were nested when it was traced: lists, tuples and dicts, and what is in them.

The graph knows the leaves of its arguments alone. A longer list, or a dict with one more key, would pass with what is new in it unread. The
check stands in the code of the module, so that copies of the module have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree


def code_generator(names: Sequence[str], in_spec: pytree.TreeSpec, out_spec: pytree.TreeSpec | None) -> _PyTreeCodeGen:
    """What writes the code of a module whose forward takes arguments of these names, nested as `in_spec` says."""
    info = _PyTreeInfo(list(names), in_spec, out_spec)
    return _PyTreeCodeGen(info) if all(one.is_leaf() for one in _arguments(in_spec)) else _HoldingCodeGen(info)


class _HoldingCodeGen(_PyTreeCodeGen):
    def additional_globals(self) -> list[tuple[str, Any]]:
        return [*super().additional_globals(), ("hold_structure", hold_structure)]

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str, *, expanded_def: bool = False) -> str:
        has_leaves = bool(free_vars)  # without any, torch binds nothing
        definition = super().gen_fn_def(free_vars, maybe_return_annotation, expanded_def=expanded_def)
        return definition if has_leaves else definition + self._check()

    def gen_var_bindings(self, fn_args: list[str], free_vars: list[str], expanded_def: bool) -> str:
        return self._check() + super().gen_var_bindings(fn_args, free_vars, expanded_def)

    def _check(self) -> str:
        names = [name for name in self.pytree_info.orig_args if name != "self"]
        return f"\n    hold_structure(self._in_spec, {names}, [{', '.join(names)}])"


def hold_structure(in_spec: pytree.TreeSpec, names: Sequence[str], values: Sequence[Any]) -> None:
    """Raise `ValueError` where an argument is nested otherwise than `in_spec` says.

    >>> spec = pytree.tree_structure((([1.0, 2.0],), {}))
    >>> hold_structure(spec, ["xs"], [[3.0, 4.0]])
    >>> hold_structure(spec, ["xs"], [[3.0]])
    Traceback (most recent call last):
        ...
    ValueError: `xs` is a list of 1, but the network was traced for inputs where it is a list of 2; give that, or fold again with it
    """
    for name, expected, value in zip(names, _arguments(in_spec), values, strict=True):
        if expected.is_leaf() or isinstance(value, fx.Proxy):  # the guard of sizes holds leaves; a trace by fx nests as it was told to
            continue
        actual = pytree.tree_structure(value)
        if actual != expected:
            raise ValueError(
                f"`{name}` is {_told(actual)}, but the network was traced for inputs where it is {_told(expected)}; "
                "give that, or fold again with it"
            )


def _arguments(in_spec: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    """The structures of the arguments one by one, those given by keyword last."""
    positional, keyword = in_spec.children()
    return [*positional.children(), *keyword.children()]


def _told(structure: pytree.TreeSpec) -> str:
    """A structure in words, with what is nested in it."""
    if structure.is_leaf():
        return "one value"
    inner = [_told(one) for one in structure.children()]
    nested = f" ({', '.join(inner)})" if any(one != "one value" for one in inner) else ""
    if isinstance(structure.type, type) and issubclass(structure.type, dict):
        return f"a {structure.type.__name__} of {', '.join(map(repr, structure.context)) or 'nothing'}{nested}"
    return f"a {structure.type.__name__} of {len(inner)}{nested}"
