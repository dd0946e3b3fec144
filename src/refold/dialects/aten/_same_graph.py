"""Whether two traces of a model, at unlike sizes, are one graph: the same operators on the same values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputSpec
from torch.utils import _pytree as pytree

from refold.dialects.aten._sizes import fixed

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_NUMBERS = (int, float, *_SYMBOLIC)


def is_same_graph(known: ExportedProgram, other: ExportedProgram) -> bool:
    """Whether `known`, run at the sizes that `other` was traced for, does what `other` does.

    Numbers that `known` computes from sizes are worked out with the sizes of `other`, node by node: two axes as long as each other in one
    trace need not be so in the other. False says only that it was not found out.
    """
    try:
        return _Pairs(known, other).match()
    except Exception:  # arithmetic that torch cannot do on symbols; the two are not known to be one
        return False


class _Pairs:
    """Nodes of one program beside those of the other, in the order in which they run."""

    def __init__(self, known: ExportedProgram, other: ExportedProgram) -> None:
        self.programs = known, other
        self.pairs: dict[fx.Node, fx.Node] = {}
        self.numbers: dict[fx.Node, Any] = {}

    def match(self) -> bool:
        known, other = self.programs
        if known.call_spec.out_spec != other.call_spec.out_spec:
            return False
        if [(spec.kind, spec.target) for spec in known.graph_signature.output_specs] != [
            (spec.kind, spec.target) for spec in other.graph_signature.output_specs
        ]:
            return False
        mine, theirs = [*_running(known)], [*_running(other)]
        return len(mine) == len(theirs) and all(self._pair(one, its) for one, its in zip(mine, theirs, strict=True))

    def _pair(self, one: fx.Node, its: fx.Node) -> bool:
        self.pairs[one] = its
        if one.op != its.op:
            return False
        if one.op == "placeholder":
            return self._is_same_input(one, its)
        if one.op == "get_attr":
            known, other = self.programs
            return _is_same_tensor(getattr(known.graph_module, str(one.target)), getattr(other.graph_module, str(its.target)))
        if one.op == "call_function" and one.target is not its.target:
            return False
        leaves, structure = pytree.tree_flatten((one.args, dict(one.kwargs)))
        their_leaves, their_structure = pytree.tree_flatten((its.args, dict(its.kwargs)))
        return structure == their_structure and all(map(self._is_same, leaves, their_leaves))

    def _is_same(self, mine: Any, theirs: Any) -> bool:
        mine, theirs = _behind(mine), _behind(theirs)
        if isinstance(mine, fx.Node) and not _is_number(mine):
            return self.pairs.get(mine) is theirs
        if isinstance(theirs, fx.Node):
            if not _is_number(theirs):
                return False
            theirs = theirs.meta["val"]
        return _is_same_value(self._number(mine) if isinstance(mine, fx.Node) else mine, theirs)

    def _number(self, node: fx.Node) -> Any:
        """What the first program computes from sizes, for those of the second."""
        if node not in self.numbers:
            args = [self._argument(one) for one in node.args]
            if node.target is torch.ops.aten.sym_size.int:
                tensor, axis = args
                self.numbers[node] = tensor.shape[axis]
            elif node.target is torch.ops.aten.sym_numel.default:
                self.numbers[node] = args[0].numel()
            else:
                act: Callable[..., Any] = node.target  # type: ignore[assignment]
                self.numbers[node] = act(*args)
        return self.numbers[node]

    def _argument(self, argument: Any) -> Any:
        """What an argument of such a computation is in the second program."""
        if not isinstance(argument, fx.Node):
            return argument
        return self._number(argument) if _is_number(argument) else self.pairs[_behind(argument)].meta["val"]

    def _is_same_input(self, one: fx.Node, its: fx.Node) -> bool:
        known, other = self.programs
        mine, theirs = _spec(known, one), _spec(other, its)
        if (mine.kind, mine.target, mine.arg.name) != (theirs.kind, theirs.target, theirs.arg.name):
            return False
        return mine.target is None or _is_same_tensor(_held(known, mine.target), _held(other, mine.target))


def _running(program: ExportedProgram) -> Iterator[fx.Node]:
    """The nodes that outputs depend on, without arithmetic of sizes, and all inputs."""
    needed: set[fx.Node] = set()
    for node in reversed(program.graph.nodes):
        if node.op == "output" or node in needed:
            needed.update(node.all_input_nodes)
    for node in program.graph.nodes:
        if node.op in ("output", "placeholder") or (node in needed and not _is_number(node) and _behind(node) is node):
            yield node


def _behind(value: Any) -> Any:
    """What a slice of all there is was taken of: torch leaves it out where the size is a number."""
    while isinstance(value, fx.Node) and value.target is torch.ops.aten.slice.Tensor and not value.kwargs:
        source, *options = value.args
        usual = (0, 0, sys.maxsize, 1)
        if (*options, *usual[len(options) :])[1:] != usual[1:]:
            break
        value = source
    return value


def _is_number(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), _NUMBERS)


def _spec(program: ExportedProgram, node: fx.Node) -> InputSpec:
    specs: Sequence[InputSpec] = program.graph_signature.input_specs
    return next(spec for spec in specs if spec.arg.name == node.name)


def _held(program: ExportedProgram, name: str) -> Any:
    return program.state_dict[name] if name in program.state_dict else program.constants[name]


def _is_same_tensor(mine: Any, theirs: Any) -> bool:
    if mine is theirs:
        return True
    if not isinstance(mine, torch.Tensor) or not isinstance(theirs, torch.Tensor):
        return False
    alike = (mine.shape, mine.dtype, mine.device) == (theirs.shape, theirs.dtype, theirs.device)
    return alike and (mine.data_ptr() == theirs.data_ptr() or bool(torch.equal(mine, theirs)))


def _is_same_value(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, _SYMBOLIC) or isinstance(theirs, _SYMBOLIC):
        return type(_plain(mine)) is type(_plain(theirs)) and bool(_expression(mine) == _expression(theirs))
    return type(mine) is type(theirs) and (repr(mine) == repr(theirs) if isinstance(mine, (float, complex)) else bool(mine == theirs))


def _plain(value: Any) -> Any:
    """A number of the class that a symbol stands for."""
    kinds = {torch.SymInt: 0, torch.SymFloat: 0.0, torch.SymBool: False}
    return kinds.get(type(value), value)


def _expression(value: Any) -> Any:
    """The formula of a number that depends on sizes; a number that does not stays one."""
    if not isinstance(value, _SYMBOLIC):
        return value
    known = fixed(value) if isinstance(value, torch.SymInt) else None
    return value.node.expr if known is None else known
