"""The mutants of a module: each is its syntax tree with one small change, of the kinds that slip into code by hand.

What no reader of the code would call a change of what it computes is left alone: annotations, decorators, docstrings, asserts, the texts
of messages, and `strict=` of a `zip`.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

ARITHMETIC: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.Div),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
FUNCTIONS = {"any": "all", "min": "max", "minimum": "maximum", "floor": "ceil", "gcd": "lcm"}
FUNCTIONS |= {there: here for here, there in FUNCTIONS.items()} | {"reversed": "list"}

SKIPPED_FIELDS = {"annotation", "returns", "decorator_list"}
SKIPPED_NODES = (ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module: the statement that it is in, before and after, and the lines that run it.

    `scope` is the function or class around it, `number` tells it from others that read alike, `position` is its place among all of the
    module, both from 0. `at_import` says that it runs when the module is imported.
    """

    module: str
    scope: str
    before: str
    after: str
    number: int
    position: int
    lines: range
    at_import: bool

    @property
    def key(self) -> str:
        """What names it for as long as its statement stands, wherever the lines around it go."""
        again = f" [{self.number + 1}]" if self.number else ""
        return f"{self.module}:{self.scope}: {self.before} → {self.after}{again}"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node stands: in a field of its parent, within a statement, within a function or class."""

    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST
    statement: ast.AST
    scope: tuple[str, ...]
    function: ast.AST | None

    def put(self, node: ast.AST | None) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def mutants_of(module: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its source."""
    mutants, seen, headlines = [], Counter[tuple[str, ...]](), dict[int, str]()
    places = list(_places(ast.parse(source)))
    for place in places:
        headlines.setdefault(id(place.statement), _headline(place.statement))
    for position, (place, changed) in enumerate(_changed(places)):
        shown = changed if place.node is place.statement else place.statement
        after = "pass" if isinstance(changed, ast.Pass) else _headline(shown or place.statement)
        name = (".".join(place.scope), headlines[id(place.statement)], after)
        mutants.append(Mutant(module, *name, seen[name], position, _lines(place.statement), place.function is None))
        seen[name] += 1
    return mutants


def mutated_tree(mutant: Mutant, source: str) -> ast.Module:
    """The tree of the module with one mutant in it."""
    tree = ast.parse(source)
    for position, _ in enumerate(_changed(list(_places(tree)))):
        if position == mutant.position:
            return ast.fix_missing_locations(tree)
    raise LookupError(f"{mutant.module} has no mutant {mutant.position}")


def drawn(mutants: Iterable[Mutant], seed: int) -> list[Mutant]:
    """The mutants in a random order that depends on the seed and on each by itself, so that one more hardly changes a draw."""
    return sorted(mutants, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())


def _changed(places: Sequence[_Place]) -> Iterator[tuple[_Place, ast.AST | None]]:
    """Each place and what may stand there, which does until the next is asked for."""
    for place in places:
        for changed in _changes(place):
            place.put(changed)
            yield place, changed
            place.put(place.node)


def _places(
    parent: ast.AST, statement: ast.AST | None = None, function: ast.AST | None = None, scope: tuple[str, ...] = ()
) -> Iterator[_Place]:
    for field, value in ast.iter_fields(parent):
        if field in SKIPPED_FIELDS or _is_words(parent, field):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, SKIPPED_NODES) or _is_left(child):
                continue
            own = child if isinstance(child, ast.stmt | ast.match_case) else statement
            inner = parent if isinstance(parent, ast.FunctionDef) and field == "body" else function
            names = (*scope, child.name) if isinstance(child, ast.FunctionDef | ast.ClassDef) else scope
            if own is not None:
                yield _Place(parent, field, index, child, own, names, inner)
            yield from _places(child, own, inner, names)


def _is_words(parent: ast.AST, field: str) -> bool:
    """Whether a field holds what is said rather than done: the error of a `raise`."""
    return isinstance(parent, ast.Raise) and field in {"exc", "cause"}


def _is_left(node: ast.AST) -> bool:
    match node:
        case ast.Expr(ast.Constant()):
            return True
        case ast.keyword("strict"):
            return True
        case ast.AnnAssign(annotation=ast.Name("TypeAlias")):
            return True
        case ast.If(ast.Name("TYPE_CHECKING")):
            return True
    return False


def _changes(place: _Place) -> Iterator[ast.AST | None]:
    """What may stand in the place of a node."""
    node, field = place.node, place.field
    match node:
        case ast.BinOp() | ast.AugAssign():
            for operator in ARITHMETIC.get(type(node.op), ()):
                yield _with(node, op=operator())
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield operand
        case ast.BoolOp(op, values):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for left in range(len(values)):
                rest = [value for position, value in enumerate(values) if position != left]
                yield rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.Compare(ops=ops):
            for position, comparison in enumerate(ops):
                for other in COMPARISONS[type(comparison)]:
                    yield _with(node, ops=[*ops[:position], other(), *ops[position + 1 :]])
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1 if isinstance(value, int) or value in (0, 1) else value * 2)
        case ast.Call(ast.Name(name)) if name in FUNCTIONS:
            yield _with(node, func=ast.Name(FUNCTIONS[name], ast.Load()))
        case ast.Call(ast.Attribute(attr=name)) if name in FUNCTIONS and name != "reversed":
            yield _with(node, func=_with(node.func, attr=FUNCTIONS[name]))
        case ast.Slice():
            for bound in ("lower", "upper", "step"):
                if getattr(node, bound) is not None:
                    yield _with(node, **{bound: None})
        case ast.Return(ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Break():
            yield ast.Continue()
        case ast.Expr() | ast.Raise() | ast.Continue() | ast.Delete():
            yield ast.Pass()
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Assign) and _is_bound_elsewhere(node, place.function)):
        yield ast.Pass()
    if field == "test" and isinstance(place.parent, ast.If | ast.IfExp):
        yield from (ast.Constant(True), ast.Constant(False))
    if field in {"ifs", "guard"}:
        yield ast.Constant(True)


def _is_bound_elsewhere(node: ast.Assign, function: ast.AST | None) -> bool:
    """Whether a function goes on without an assignment: it is to a part of something, or to a name that is given more than once."""
    if function is None:
        return False
    targets = {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    given = Counter(name.id for name in ast.walk(function) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))
    given.update(one.arg for one in ast.walk(function) if isinstance(one, ast.arg))
    return not isinstance(node.targets[0], ast.Name | ast.Tuple) or all(given[name] > 1 for name in targets)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _headline(statement: ast.AST) -> str:
    """A statement as one line, without what stands in its block."""
    shown = copy.copy(statement)
    for name, value in (("body", [ast.Pass()]), ("orelse", []), ("handlers", []), ("finalbody", []), ("decorator_list", []), ("cases", [])):
        if isinstance(getattr(shown, name, None), list):
            setattr(shown, name, value)
    return " ".join(ast.unparse(ast.fix_missing_locations(shown)).removesuffix("pass").split()).strip()


def _lines(statement: ast.AST) -> range:
    """The lines of a statement, without those of its block."""
    if isinstance(statement, ast.match_case):
        return range(statement.pattern.lineno, statement.body[0].lineno)
    assert isinstance(statement, ast.stmt)
    block: Sequence[ast.stmt] = getattr(statement, "body", ())
    end = block[0].lineno if block else (statement.end_lineno or statement.lineno) + 1
    return range(statement.lineno, max(end, statement.lineno + 1))
