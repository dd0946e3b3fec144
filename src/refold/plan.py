"""Decides what to fold: eliminates intermediate values wherever a law allows it and nothing gets dearer, and says why it left the rest.

Each linear value is a *form*, a sum of maps of other values. To eliminate a value is to put its form in the place of its name in every
form that reads it. A value is eliminated when that is exact and costs no more multiply-adds, no more weights and no more operators; this
is repeated until no value can go. Values are tried from the outputs back, so that the forms that read them are as full as they can be
(a low-rank branch, dear on its own, costs nothing once it joins the kernel beside it), and again until nothing changes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeAlias

from refold.algebra import Carried, Chain, Formula, Obstruction, Selection, Sum
from refold.graph import Graph, Linear, Opaque, Refusal, shared_folder
from refold.maps import Map, Moved, Scalar, Value, as_moved, compose_maps, sum_maps, without_bias

Form: TypeAlias = "Mapping[str, Map]"

KEPT = 1 << 12
"""Sums and compositions that are remembered: the same values are tried again and again, together with others."""

DEPTH = 6
"""How many values are tried together where the first alone is too dear."""


@dataclass(frozen=True, slots=True)
class Stage:
    """How values are tried: up to `depth` together; where nothing is saved, only those that at most `readers` nodes read."""

    depth: int
    readers: float


STAGES = (Stage(1, readers=1), Stage(1, readers=math.inf), Stage(DEPTH, readers=math.inf))
"""The next begins where the last finds nothing more; what it finds sends all back to the first.

What saves no operator may open the way to what does, as a convolution that becomes a term of the sum behind it. It may also close the way:
a batch norm that moves into both readers of its output leaves what stands in front of it with two readers, and can no longer join that.
"""


class Target(Protocol):
    """What the plan must know of the format that it will be written in."""

    def operators(self, formula: Formula, dimensions: int) -> int | None:
        """Operators that one map takes there on a value of so many dimensions, or None where it cannot be written."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a form costs: operators, multiply-adds at the example's sizes, numbers in kernels."""

    operators: int = 0
    multiply_adds: int = 0
    weights: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.operators + other.operators, self.multiply_adds + other.multiply_adds, self.weights + other.weights)

    def excess_over(self, other: Cost) -> str | None:
        """The first measure in which this cost is higher, in words."""
        for name, mine, theirs in (
            ("multiply-adds", self.multiply_adds, other.multiply_adds),
            ("weights", self.weights, other.weights),
            ("operators", self.operators, other.operators),
        ):
            if mine > theirs:
                return f"{mine:,} {name} instead of {theirs:,}"
        return None


@dataclass(frozen=True, slots=True)
class Fold:
    """One value that gets a new form: the linear nodes it replaces, in order, and what it costs before and after."""

    value: str
    form: Form
    nodes: tuple[Linear, ...]
    before: Cost
    after: Cost

    @property
    def laws(self) -> tuple[str, ...]:
        """The laws that the fold uses."""
        return tuple(sorted({law for mapped in self.form.values() for law in _laws(mapped)}))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fold, in the order of the graph, and what was refused."""

    folds: tuple[Fold, ...]
    refusals: tuple[Refusal, ...]


def make_plan(graph: Graph, target: Target) -> Plan:
    """Find every stretch of the graph that folds.

    Requires a graph in topological order; ensures that each fold is exact by the laws of the algebra, has fewer operators than the nodes
    it replaces and needs no more multiply-adds or weights.
    """
    return _Planner(graph, target).plan()


def cost_as_it_stands(node: Linear, graph: Graph) -> Cost:
    """What a node of the graph costs before anything is folded."""
    value = graph.values[node.output]
    work = sum(_multiply_adds(mapped, value, graph.values[root]) for root, mapped in node.terms.items())
    return Cost(node.operators, work, node.weights)


@dataclass(slots=True)
class _Planner:
    graph: Graph
    target: Target
    forms: dict[str, Form] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, Obstruction] = field(default_factory=dict)
    versions: Counter[str] = field(default_factory=Counter)
    tried: dict[tuple[str, Stage], tuple[object, ...]] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    measured: Counter[str] = field(default_factory=Counter)
    composed: Callable[[Map, Map, Value], Map | Obstruction] = field(default_factory=lambda: lru_cache(KEPT)(compose_maps))
    summed: Callable[[Map, Map, Value], Map | Obstruction] = field(default_factory=lambda: lru_cache(KEPT)(sum_maps))
    priced: Callable[[Map, str, str], Cost | Obstruction] = field(init=False)

    def __post_init__(self) -> None:
        self.priced = lru_cache(KEPT)(self._price)

    def plan(self) -> Plan:
        self.order = {name: position for position, name in enumerate(self.graph.nodes)}
        needed = self._needed()
        for node in self.graph.nodes.values():
            match node:
                case Linear() if node.output not in needed:
                    continue
                case Linear() if node.output in self.graph.kept:
                    for name in node.terms:
                        self.pinned.setdefault(name, f"{node.output} ({node.operation}) reads it too")
                case Linear():
                    self.forms[node.output] = node.terms
                    self.costs[node.output] = cost_as_it_stands(node, self.graph)
                    self.measured.update(_measured_by(node.terms))
                    for root in node.terms:
                        self.readers.setdefault(root, set()).add(node.output)
                case Opaque():
                    for name in node.inputs:
                        self.pinned.setdefault(name, f"{node.output} ({node.operation}) reads it too")
        for name in self.graph.outputs:
            self.pinned.setdefault(name, "it is an output of the model")
        while any(self._pass(stage) for stage in STAGES):
            pass
        folds = self._folds()
        return Plan(folds, (*self.graph.refusals, *self._refusals()))

    def _needed(self) -> set[str]:
        """Values that an output or an opaque node hangs on; a node that nothing needs must not stand in the way of a fold."""
        needed = set(self.graph.outputs)
        for node in reversed(list(self.graph.nodes.values())):
            if isinstance(node, Opaque):
                needed.update(node.inputs)
            elif node.output in needed:
                needed.update(node.terms)
        return needed

    def _pass(self, stage: Stage) -> bool:
        """Try every value once."""
        changed = False
        for name in reversed([name for name in self.graph.nodes if name in self.forms]):
            readers = self.readers.get(name, set())
            if name not in self.forms:
                continue
            measured = self._is_measured(name)
            state = (self.versions[name], measured, *((reader, self.versions[reader]) for reader in sorted(readers)))
            if not readers or self.tried.get((name, stage)) == state:
                continue
            self.tried[name, stage] = state
            changed |= self._bypass(name) if measured or name in self.pinned else self._eliminate(name, stage)
        return changed

    def _is_measured(self, name: str) -> bool:
        """Whether a rearrangement that is to be written asks for the shape of a value."""
        return self.measured[name] > 0

    def _eliminate(self, name: str, stage: Stage) -> bool:
        """Put the form of a value in the place of its name everywhere, if that is exact and no dearer.

        Where it is dearer, what the value reads and what stands beside it is tried along with it, up to a few values: a padding filled
        with a bias is dear alone and costs nothing once the convolution in front of it is gone too, and a concatenation goes whole.
        """
        forms = {reader: self.forms[reader] for reader in sorted(self.readers[name], key=self.order.__getitem__)}
        if len(forms) > 1 and any(_takes_part(form[name]) for form in forms.values()):
            self.reasons[name] = Obstruction(
                "selection", f"{len(forms)} nodes read it, some of them a part of its channels", "apply what is to merge before it is split"
            )
            return False
        before = sum((self.costs[reader] for reader in forms), Cost())
        gone: list[str] = []
        current: str | None = name
        while current is not None:
            before += self.costs[current]
            for reader, form in forms.items():
                if current in form:
                    changed = self._substitute(form, current)
                    if isinstance(changed, Obstruction):
                        if not gone:
                            self.reasons[name] = changed
                        return False
                    forms[reader] = changed
            gone.append(current)
            reason = self._dearer(forms, before, stage)
            if reason is None:
                self._accept(forms, gone)
                return True
            if len(gone) == 1:
                self.reasons[name] = reason
            current = self._next(gone, forms) if len(gone) < stage.depth else None
        return False

    def _dearer(self, forms: Mapping[str, Form], before: Cost, stage: Stage) -> Obstruction | None:
        after = Cost()
        for reader, form in forms.items():
            cost = self._cost(reader, form)
            if isinstance(cost, Obstruction):
                return cost
            after += cost
        saves_nothing = after.operators == before.operators and len(forms) > stage.readers
        dearer = after.excess_over(before) or (f"{after.operators:,} operators as before" if saves_nothing else None)
        if dearer is None:
            return None
        shared = f" since {len(forms)} nodes read it" if len(forms) > 1 else ""
        return Obstruction("cost", f"merged it would take {dearer}{shared}", "leave it: apart it is cheaper")

    def _next(self, gone: list[str], forms: Mapping[str, Form]) -> str | None:
        """A value that the last one reads, or else one beside it, that nothing else needs."""
        beside = (root for form in forms.values() for root in form)
        for root in (*self.forms[gone[-1]], *beside):
            taken = root in self.pinned or root in gone or root in forms or self._is_measured(root)
            if root in self.forms and not taken and self.readers[root] <= {*forms, *gone}:
                return root
        return None

    def _accept(self, forms: Mapping[str, Form], gone: list[str]) -> None:
        for reader, form in forms.items():
            self._set_form(reader, form)
        for name in gone:
            form = self.forms.pop(name)
            self.measured.subtract(_measured_by(form))
            for root in form:
                self.readers[root].discard(name)
            self.readers.pop(name, None)
            self.reasons.pop(name, None)

    def _bypass(self, name: str) -> bool:
        """Let the readers of a value that must stay read what it reads, one by one, where that saves an operator."""
        changed = False
        for reader in sorted(self.readers[name]):
            form = self._substitute(self.forms[reader], name)
            if isinstance(form, Obstruction):
                self.reasons.setdefault(name, form)
                continue
            cost = self._cost(reader, form)
            if isinstance(cost, Obstruction):
                continue
            before = self.costs[reader]
            if cost.excess_over(before) is None and cost.operators < before.operators:
                self._set_form(reader, form)
                changed = True
        if not changed:
            self.reasons.setdefault(
                name,
                Obstruction(
                    "use",
                    f"the value between is needed elsewhere: {self.pinned.get(name, 'its shape is asked for')}",
                    "let one node alone read it",
                ),
            )
        return changed

    def _set_form(self, name: str, form: Form) -> None:
        for root in self.forms[name]:
            self.readers[root].discard(name)
        for root in form:
            self.readers.setdefault(root, set()).add(name)
        self.measured.subtract(_measured_by(self.forms[name]))
        self.measured.update(_measured_by(form))
        self.forms[name] = form
        self.versions[name] += 1
        cost = self._cost(name, form)
        assert isinstance(cost, Cost)
        self.costs[name] = cost

    def _substitute(self, form: Form, name: str) -> Form | Obstruction:
        """The form with that of a value in the place of its name; terms keep their order."""
        outer = form[name]
        result: dict[str, Map] = {}
        for reading, mapped in form.items():
            terms = {reading: mapped} if reading != name else self.forms[name]
            for position, (root, inner) in enumerate(terms.items()):
                value = self.graph.values[root]
                composed: Map | Obstruction = inner
                if reading == name:
                    composed = self.composed(outer if position == 0 else without_bias(outer), inner, value)
                if not isinstance(composed, Obstruction) and root in result:
                    composed = self.summed(result[root], composed, value)
                if isinstance(composed, Obstruction):
                    return composed
                result[root] = composed
        return result

    def _cost(self, name: str, form: Form) -> Cost | Obstruction:
        """What a new form costs when written."""
        behind = {moved.after.rearrangement: moved.after for moved in map(as_moved, form.values()) if moved.after is not None}
        operators, work, weights = len(form) - 1 + sum(len(layout.steps) for layout in behind.values()), 0, 0
        for root, mapped in form.items():
            price = self.priced(mapped, root, name)
            if isinstance(price, Obstruction):
                return price
            operators, work, weights = operators + price.operators, work + price.multiply_adds, weights + price.weights
        return Cost(operators, work, weights)

    def _price(self, mapped: Map, root: str, name: str) -> Cost | Obstruction:
        """What one term of a form costs, all but what rearranges it behind its map, which several may share."""
        value, moved = self.graph.values[name], as_moved(mapped)
        work = _multiply_adds(mapped, value, self.graph.values[root])
        steps = 0 if moved.before is None else len(moved.before.steps)
        inner, dimensions = moved.inner, len(value.shape if moved.after is None else moved.after.rearrangement.inputs)
        if isinstance(inner, Scalar):
            return Cost(steps + int(inner.scale != 1.0) + int(inner.shift != 0.0), work)
        if isinstance(inner, Selection):
            return Obstruction(
                "writing",
                "only some parts of a concatenation merge, or channels are taken for which the merged map has no operator",
                "let all parts of a concatenation read the same value alike; leave what takes channels apart",
            )
        operators = self.target.operators(inner, dimensions)
        if operators is None and inner.fill is not None:
            return Obstruction(
                "writing",
                "the merged map would have to pad each channel with a constant of its own, for which there is no operator",
                "put the scale and shift behind the padded map, or pad with what the first map makes of zeros, as DBB and ECB do",
            )
        if operators is None:
            return Obstruction("writing", "the merged map has paddings that no single operator has", "pad alike in all branches")
        return Cost(steps + operators, work, inner.stencil.weights)

    def _folds(self) -> tuple[Fold, ...]:
        folds = []
        for name, form in self.forms.items():
            node = self.graph.nodes[name]
            assert isinstance(node, Linear)
            if form is node.terms and not node.operators > 1:
                continue
            nodes = self._between(name, form)
            before = sum((cost_as_it_stands(one, self.graph) for one in nodes), Cost())
            after = self._cost(name, form)
            if isinstance(after, Obstruction) or (len(form) == 1 and all(map(_is_identity, form.values()))):
                continue
            if after.operators < before.operators:
                folds.append(Fold(name, form, nodes, before, after))
            elif any("composition" in _laws(mapped) for mapped in form.values()):
                self.reasons[name] = Obstruction(
                    "cost", f"merged it would take {after.operators} operators, and apart it takes {before.operators}", "leave it as it is"
                )
        return tuple(folds)

    def _between(self, name: str, form: Form) -> tuple[Linear, ...]:
        """The linear nodes from the roots of a form to its value, in order."""
        found: set[str] = set()
        stack = [name]
        while stack:
            current = stack.pop()
            node = self.graph.nodes.get(current)
            if current in found or not isinstance(node, Linear) or (current in form and current != name):
                continue
            found.add(current)
            stack.extend(node.terms)
        return tuple(node for output in sorted(found, key=self.order.__getitem__) if isinstance(node := self.graph.nodes[output], Linear))

    def _refusals(self) -> list[Refusal]:
        refusals = []
        for name, reason in self.reasons.items():
            node = self.graph.nodes[name]
            if isinstance(node, Linear) and name in self.forms:
                readers = sorted(self.graph.nodes[reader].operation for reader in self.readers.get(name, ()))
                operation = f"{node.operation} → {readers[0]}" if readers else node.operation
                refusals.append(Refusal(shared_folder(node.sources) or name, operation, reason.law, reason.fact, reason.remedy))
        return refusals


def _measured_by(form: Form) -> Iterator[str]:
    """The values whose shape a form asks for, each as often as it does."""
    return (name for mapped in form.values() if isinstance(mapped, Moved) for step in mapped.steps for name in step.reads)


def _is_identity(mapped: Map) -> bool:
    return isinstance(mapped, Scalar) and mapped.is_identity


def _takes_part(mapped: Map) -> bool:
    """Whether a map reads some of the channels alone: to put another map in its place there would tear that one apart."""
    match mapped:
        case Selection():
            return len({one for one in mapped.sources if one is not None}) < mapped.channels
        case Sum():
            return _takes_part(mapped.left) and _takes_part(mapped.right)
        case Chain():
            return _takes_part(mapped.right)
        case Carried() | Moved():
            return _takes_part(mapped.inner)
    return False


def _multiply_adds(mapped: Map, output: Value, root: Value) -> int:
    moved = as_moved(mapped)
    mapped, items = moved.inner, math.prod(output.example)
    if moved.after is not None:
        items *= math.prod(step.mean_of for step in moved.after.steps)
    if isinstance(mapped, Scalar):
        return 0 if mapped.is_identity else items
    if isinstance(mapped, Selection):
        return 0
    stencil = mapped.stencil
    if stencil.is_upsampled:
        return math.prod(root.example) * stencil.out_channels // stencil.groups * math.prod(stencil.taps)
    return items * stencil.fan_in


def _laws(mapped: Map) -> set[str]:
    """The laws by which a map was made of others."""
    match mapped:
        case Sum():
            return {"sum", *_laws(mapped.left), *_laws(mapped.right)}
        case Chain():
            return {"composition", *_laws(mapped.left), *_laws(mapped.right)}
        case Carried():
            return {"rearrangement", *_laws(mapped.inner)}
        case Moved():
            return {"rearrangement", *_laws(mapped.inner)}
    return set()
