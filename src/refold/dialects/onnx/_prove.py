"""Runs the original nodes of a region, and the nodes that replace them, in float64 on random input, with the ONNX reference evaluator."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from onnx import NodeProto, TensorProto

from refold.dialects.onnx._constants import SIZES, STANDARD, Constants, evaluate, read_numbers, stand_in, wide_node, widened
from refold.dialects.onnx._elsewhere import Elsewhere, Examples
from refold.dialects.onnx._load import Source
from refold.dialects.onnx._reference import ConvOfMagnitudes
from refold.dialects.onnx._scopes import Scope
from refold.dialects.onnx._tensors import FLOATS, Array
from refold.dialects.onnx._write import Written
from refold.errors import FoldError
from refold.graph import Graph
from refold.maps import Scalar, as_moved
from refold.plan import Fold
from refold.trials import Shapes, Trials, run_trials, share, sizes_of
from refold.verification import RegionEvidence, does_not_run

WORKERS = 2
"""Regions that are run side by side; NumPy lets go of the interpreter while it computes."""
LARGEST = 1 << 20
"""Items up to which what a region reads is tried at other sizes of the inputs."""
SPELT = 64
"""Numbers of a constant up to which regions are told apart by each of them."""
STATED = ("Reshape", "Expand")
"""Operators whose shape may be written down as numbers that hold at the sizes of the example alone."""
WEIGHED = ("Conv", "ConvTranspose", "BatchNormalization", "MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "Sum", "Einsum")
"""Operators whose sizes do not hang on the floats that they read."""


def region_evidence(
    source: Source, top: Scope, constants: Constants, graph: Graph, written: Written, draft: Source, seed: int
) -> Iterator[RegionEvidence]:
    """Each fold, run both ways at the sizes that `refold.trials` gives; one that hangs on sizes of the inputs, at other sizes of those.

    The weights of the folded model are read from the `draft`, the file that was written of it.
    """
    owners = {scope.key(name): (scope, name) for scope in top.all() for name in scope.producers}
    stored = {tensor.name: tensor for tensor in draft.skeleton.graph.initializer}
    bench = _Bench(
        source,
        constants,
        graph,
        written,
        draft,
        stored,
        {key: position for position, key in enumerate(owners)},
        Elsewhere(source.skeleton),
        seed,
    )
    regions = {fold.value: _Region(bench, fold, *owners[fold.value]) for fold in written.folds}
    leaders = share({value: region.key for value, region in regions.items()}, {fold.value: fold.after.weights for fold in written.folds})
    waiting: deque[Future[RegionEvidence]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        for fold in written.folds:
            leader = leaders[fold.value]
            like = None if leader == fold.value else bench.name_of(leader)
            waiting.append(pool.submit(regions.pop(fold.value).prove, like))
            if len(waiting) > WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where regions are run."""

    source: Source
    constants: Constants
    graph: Graph
    written: Written
    draft: Source
    stored: Mapping[str, TensorProto]
    order: Mapping[str, int]
    elsewhere: Elsewhere
    seed: int

    def kernel(self, name: str) -> Array:
        """A weight of the folded model, as it lies in the file."""
        return np.asarray(self.draft.tensors.array(self.stored[name]))

    def name_of(self, value: str) -> str:
        return self.written.emitted[value][-1].name


@dataclass(eq=False)
class _Region:
    """The original nodes of a fold, in order, beside those that replace them, and the widened weights of both."""

    bench: _Bench
    fold: Fold
    scope: Scope
    value: str
    places: dict[tuple[tuple[int, ...], ...], Examples] = field(default_factory=dict)

    @cached_property
    def roots(self) -> dict[str, str]:
        """What the region reads: its names in the scope and in the neutral graph."""
        return {root.removeprefix(self.scope.prefix): root for root in self.fold.form}

    @cached_property
    def nodes(self) -> list[NodeProto]:
        return _region(self.value, self.scope, set(self.roots), self.bench.constants, self.bench.order)

    @property
    def new(self) -> Sequence[NodeProto]:
        """The nodes that replace it."""
        return self.bench.written.emitted[self.fold.value]

    @cached_property
    def read(self) -> list[str]:
        """The weights that the new nodes read."""
        return list(dict.fromkeys(name for node in self.new for name in node.input if name in self.bench.stored and name not in self.roots))

    @cached_property
    def asked(self) -> list[str]:
        """What else the new nodes read: sizes, that the region works out or that are constant."""
        made = {name for node in self.new for name in node.output}
        known = {*self.read, *self.roots, *made}
        return list(dict.fromkeys(name for node in self.new for name in node.input if name and name not in known))

    @cached_property
    def measured(self) -> list[str]:
        """What the region asks the shape or the type of and does not make."""
        made = {name for node in self.nodes for name in node.output} | set(self.roots)
        names = dict.fromkeys(name for node in self.nodes for name in node.input if name and name not in made)
        return [name for name in names if not self.bench.constants.has(name, self.scope)]

    @cached_property
    def examples(self) -> Shapes:
        return {root: self.bench.graph.values[root].example for root in self.fold.form}

    @cached_property
    def trials(self) -> Trials:
        """The sizes to run it at."""
        is_stated = any(node.op_type in STATED for node in self.nodes) or any(as_moved(mapped).steps for mapped in self.fold.form.values())
        if not self.measured and not is_stated:
            return sizes_of(self.bench.graph, self.fold.value, self.fold.form, self.fold.nodes)
        others = []
        for examples in self.bench.elsewhere.examples():
            changed = {root: examples.get(root) for root in self.fold.form}
            known = {root: shape for root, shape in changed.items() if shape is not None and math.prod(shape) <= LARGEST}
            if len(known) == len(changed) and all(self.scope.key(name) in examples for name in self.measured):
                self.places.setdefault(tuple(known.values()), examples)
                others.append((known,))
        return Trials(self.examples, tuple(others), [(root, self.bench.graph.values[root].shape) for root in self.fold.form])

    @cached_property
    def key(self) -> object:
        """Equal for regions that have the same operators and arguments on both sides and try the same sizes, whatever their numbers."""
        return repr(
            (
                self._told(self.nodes, {}),
                self._told(self.new, self.bench.stored),
                self.trials.spatial,
                self.scope.types[self.value].elem_type,
            )
        )

    def prove(self, like: str | None) -> RegionEvidence:
        """Run it both ways at the smallest size with both borders and a middle, and at all others unless those of `like` stand for them."""
        constants, scope, source = self.bench.constants, self.scope, self.bench.source
        constant = {name: constants.value(name, scope) for name in _constants_of(self.nodes, scope, constants)}
        stored = {name: self.bench.kernel(name) for name in self.read}
        weights, folded_weights = _widened(constant, self.nodes), _widened(stored, self.new)
        levels = {name for node in self.new[:-1] if node.op_type == "Pad" for name in node.input[2:3]}
        kernels = _kernels(self.new, stored)
        sizes = {
            name: array if name in kernels else _by_size(array, stored[name].dtype) * (1 + (name in levels))
            for name, array in folded_weights.items()
        }
        absolute = _absolute(self.new, kernels)
        known = {name: np.asarray(constants.value(name, scope)) for name in self.asked if constants.has(name, scope)}
        told: list[Exception] = []
        length, slack = _longest(self.fold, weights.values()), _slack(self.fold)
        name, operations = self.bench.name_of(self.fold.value), tuple(node.operation for node in self.fold.nodes)

        def run(shapes: Shapes) -> RegionEvidence | None:
            random = np.random.default_rng(self.bench.seed)
            inputs = {name: random.standard_normal(shapes[root]) for name, root in self.roots.items()}
            feeds = {**inputs, **weights, **self._stand_ins(shapes)}
            try:
                original, way = _run(self.nodes, feeds, self.value, source)
                worked_out = _worked_out(self.asked, self.nodes, feeds, source)
            except Exception as error:  # the evaluator's operators raise what they like
                told.append(error)
                return None
            given = {**inputs, **known, **worked_out}
            try:
                folded, _ = _run(self.new, {**given, **folded_weights}, self.value, source)
                by_size = {one: np.abs(feed) if feed.dtype.kind == "f" else feed for one, feed in given.items()}
                magnitude, _ = _run(absolute, {**by_size, **sizes}, self.value, source)
            except Exception as error:
                if not all(one.size for one in way):  # nothing is left of a value between, and the folded region says so
                    return None
                raise does_not_run(name, error) from error
            peak = max((float(np.abs(one).max(initial=0.0)) for one in (*way, *inputs.values())), default=0.0)
            return RegionEvidence(
                name, operations, original, folded, magnitude, peak, length, FLOATS[scope.types[self.value].elem_type], slack,
                tuple(shapes.values()), like=like,
            )  # fmt: skip

        stated = {root: self.bench.graph.values[root].shape for root in self.fold.form}
        others = self.trials.others if like is None else ()
        evidence = run_trials(run, (self.trials.base, self.examples), others, stated)
        if evidence is None:
            raise FoldError(
                f"the region of {self.fold.value} does not run in the ONNX reference evaluator ({told[-1]}); fold with verify=False"
            ) from told[-1]
        return evidence

    def _stand_ins(self, shapes: Shapes) -> dict[str, Array]:
        """Zeros for what the region only asks the shape or the type of."""
        examples = self.places.get(tuple(shapes.values()), {})
        return {name: stand_in(self.scope.typed(name), examples.get(self.scope.key(name))) for name in self.measured}

    def _told(self, nodes: Sequence[NodeProto], stored: Mapping[str, TensorProto]) -> list[object]:
        """Nodes by their operators and arguments: values of theirs by their places, constants by what operators may hang on."""
        places = {name: position for position, name in enumerate((*self.roots, *(name for node in nodes for name in node.output if name)))}
        told: list[object] = []
        for node in nodes:
            read = [places[name] if name in places else self._described(name, node, stored.get(name)) for name in node.input]
            attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
            told.append((node.domain, node.op_type, read, attributes, len(node.output)))
        return told

    def _described(self, name: str, node: NodeProto, tensor: TensorProto | None) -> object:
        constants = self.bench.constants
        if tensor is not None:
            shape, is_float = tuple(tensor.dims), tensor.data_type in FLOATS
        elif name and constants.has(name, self.scope) and (typed := self.scope.typed(name)) is not None:
            shape, is_float = typed.example, typed.elem_type in FLOATS
        else:
            return name
        if is_float and node.op_type in WEIGHED:
            return tuple(min(size, 2) if axis < 2 else size for axis, size in enumerate(shape))
        if math.prod(shape) > SPELT:
            return name
        return (self.bench.draft.tensors.array(tensor) if tensor is not None else constants.value(name, self.scope)).tolist()


def _slack(fold: Fold) -> Array:
    """What the constants that the fold takes as one may change of each output channel, as it spreads over the output."""
    total = np.zeros(())
    for mapped in map(as_moved, fold.form.values()):
        if not isinstance(mapped.inner, Scalar) and mapped.inner.slack is not None:
            slack = mapped.inner.slack
            total = total + (slack.max() if mapped.steps else slack.reshape(-1, *[1] * mapped.inner.stencil.rank))
    return total


def _longest(fold: Fold, weights: Iterable[Array]) -> int:
    """The longest sum on either side."""
    folded = sum(as_moved(mapped).longest + 1 for mapped in fold.form.values())
    original = max((array.size // max(1, min(array.shape[:2])) for array in weights if array.ndim > 1), default=1)
    return max(folded, original) + len(fold.nodes)


def name_of(fold: Fold, written: Written) -> str:
    """The name of the node that a fold became."""
    return written.emitted[fold.value][-1].name


def _run(nodes: Sequence[NodeProto], feeds: Mapping[str, Array], value: str, source: Source) -> tuple[Array, list[Array]]:
    """The value, and all that was worked out on the way to it."""
    names = [name for node in nodes for name in (node.output if node.op_type == "Split" else node.output[:1]) if name]
    results = [np.asarray(result) for result in evaluate(nodes, feeds, names, source.skeleton)]
    return results[names.index(value)], results


def _worked_out(names: Iterable[str], region: Sequence[NodeProto], feeds: Mapping[str, Array], source: Source) -> dict[str, Array]:
    """The sizes that the new nodes take from nodes of the region."""
    made = {name for node in region for name in node.output}
    wanted = [name for name in names if name in made]
    return dict(zip(wanted, evaluate(region, feeds, wanted, source.skeleton), strict=True)) if wanted else {}


def _widened(arrays: Mapping[str, Array], nodes: Sequence[NodeProto]) -> dict[str, Array]:
    """Arrays in float64, but for those that are only kernels of convolutions, which widen them as they go."""
    kernels = _kernels(nodes, arrays)
    return {name: array if name in kernels else widened(array) for name, array in arrays.items()}


def _kernels(nodes: Sequence[NodeProto], arrays: Iterable[str]) -> set[str]:
    """Those that are read as kernels of convolutions and as nothing else."""
    read = {name for node in nodes for place, name in enumerate(node.input) if node.op_type != "Conv" or place != 1}
    return set(arrays) - read


def _by_size(weight: Array, stored: np.dtype[Any]) -> Array:
    """A weight by that which its rounding is measured by.

    What lies below the smallest normal number of a type is rounded as that number is.
    """
    if weight.dtype.kind not in "fV":
        return weight
    size: Array = np.abs(weight)
    size += np.asarray(ml_dtypes.finfo(stored).smallest_normal, size.dtype)  # type: ignore[no-untyped-call]
    return size


def _absolute(nodes: Sequence[NodeProto], kernels: Set[str]) -> list[NodeProto]:
    """The nodes with a difference turned into a sum, and convolutions taking these kernels by their sizes.

    A level of padding in front of a kernel counts twice: it is rounded when it is stored, and so is the kernel that it meets.
    """
    result = []
    for place, node in enumerate(nodes):
        copy = NodeProto()
        copy.CopyFrom(wide_node(node))
        if copy.op_type == "Sub":
            copy.op_type = "Add"
        if copy.op_type == "Conv" and copy.input[1] in kernels:
            copy.op_type = ConvOfMagnitudes.__name__
        for attribute in copy.attribute:
            if copy.op_type == "Pad" and attribute.name == "value":
                attribute.f = abs(attribute.f) * (1 if place == len(nodes) - 1 else 2)
        result.append(copy)
    return result


def _region(value: str, scope: Scope, roots: set[str], constants: Constants, order: Mapping[str, int]) -> list[NodeProto]:
    """The nodes from the roots to the value, in order."""
    found: set[str] = set()
    stack = [value]
    while stack:
        name = stack.pop()
        if name in found or (name in roots and name != value) or constants.has(name, scope):
            continue
        found.add(name)
        node = scope.producers[name]
        numbers = read_numbers(node)
        stack.extend(numbers)
        stack.extend(one for asked in node.input if asked and asked not in numbers for one in _counted(asked, scope, constants))
    makers = (scope.producers[name] for name in sorted(found, key=lambda name: order[scope.key(name)]))
    return list({id(node): node for node in makers}.values())


def _counted(name: str, scope: Scope, constants: Constants) -> set[str]:
    """The whole numbers that others hang on which only shapes and constants decide; none where anything else does.

    What asks for the shape of a grid of indices must see it as large as it is at the sizes of the run.
    """
    found: set[str] = set()
    stack = [name]
    while stack:
        one = stack.pop()
        if one in found or constants.has(one, scope):
            continue
        node, typed = scope.producers.get(one), scope.typed(one)
        if node is None or typed is None or typed.elem_type in FLOATS or node.domain not in STANDARD or node.op_type not in SIZES:
            return set()
        found.add(one)
        stack.extend(asked for asked in node.input if asked and (asked in read_numbers(node) or not _is_float(asked, scope)))
    return found


def _is_float(name: str, scope: Scope) -> bool:
    typed = scope.typed(name)
    return typed is not None and typed.elem_type in FLOATS


def _constants_of(region: Sequence[NodeProto], scope: Scope, constants: Constants) -> list[str]:
    names = dict.fromkeys(name for node in region for name in node.input if name)
    return [name for name in names if constants.has(name, scope)]
