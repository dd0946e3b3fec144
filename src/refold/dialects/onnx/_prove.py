"""Runs the original nodes of a region, and the nodes that replace them, in float64 on random input, with the ONNX reference evaluator."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import NodeProto, TensorProto

from refold.dialects.onnx._constants import SIZES, STANDARD, Constants, evaluate, read_numbers, stand_in, wide_node, widened
from refold.dialects.onnx._load import Source
from refold.dialects.onnx._scopes import Scope
from refold.dialects.onnx._tensors import FLOATS, Array
from refold.dialects.onnx._write import Written
from refold.errors import FoldError
from refold.graph import Graph
from refold.maps import Scalar, Value, as_moved
from refold.plan import Fold
from refold.verification import RegionEvidence, does_not_run

Shapes = Mapping[str, tuple[int, ...]]


WORKERS = 2
"""Regions that are run side by side; NumPy lets go of the interpreter while it computes."""


def region_evidence(
    source: Source, top: Scope, constants: Constants, graph: Graph, written: Written, seed: int
) -> Iterator[RegionEvidence]:
    """Each fold, run both ways."""
    owners = {scope.key(name): (scope, name) for scope in top.all() for name in scope.producers}
    stored = {tensor.name: tensor for tensor in written.skeleton.graph.initializer}
    bench = _Bench(source, constants, graph, written, stored, {key: position for position, key in enumerate(owners)}, seed)
    waiting: deque[Future[RegionEvidence]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        for fold in written.folds:
            waiting.append(pool.submit(bench.run_both, fold, *owners[fold.value]))
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
    stored: Mapping[str, TensorProto]
    order: Mapping[str, int]
    seed: int

    def run_both(self, fold: Fold, scope: Scope, value: str) -> RegionEvidence:
        """One fold, run both ways at the smallest sizes at which every border case occurs, or at those of the example.

        The latter where the original region does not run at the smallest, as with a slice that ends at a fixed place.
        """
        roots = {root.removeprefix(scope.prefix): root for root in fold.form}
        region = _region(value, scope, set(roots), self.constants, self.order)
        weights = {name: widened(self.constants.value(name, scope)) for name in _constants_of(region, scope, self.constants)}
        new = self.written.emitted[fold.value]
        read = dict.fromkeys(name for node in new for name in node.input if name in self.stored and name not in roots)
        stored = {name: np.asarray(self.written.tensors.array(self.stored[name])) for name in read}
        folded_weights = {name: widened(array) for name, array in stored.items()}
        made = {name for node in new for name in node.output}
        asked = dict.fromkeys(name for node in new for name in node.input if name and name not in (*read, *roots, *made))
        folded_weights |= {name: np.asarray(self.constants.value(name, scope)) for name in asked if self.constants.has(name, scope)}
        measured = _measured(region, set(roots), scope, self.constants)
        example = {root: self.graph.values[root].example for root in fold.form}
        failure: Exception | None = None
        broken: Exception | None = None
        evidence: RegionEvidence | None = None
        is_stated = any(as_moved(mapped).steps for mapped in fold.form.values())
        for shapes in (example,) if measured or is_stated else (_small_shapes(self.graph, fold), example):
            random = np.random.default_rng(self.seed)
            inputs = {name: random.standard_normal(shapes[root]) for name, root in roots.items()}
            try:
                original, peak = _run(region, {**inputs, **weights, **measured}, value, self.source)
                shapes_read = _worked_out(asked, region, {**inputs, **weights, **measured}, self.source)
            except Exception as error:  # the evaluator's operators raise what they like
                failure = error
                continue
            feeds = {**inputs, **folded_weights, **shapes_read}
            try:
                folded, _ = _run(new, feeds, value, self.source)
                sizes = {name: _size(feed, stored.get(name)) for name, feed in feeds.items()}
                magnitude, _ = _run(_absolute(new), sizes, value, self.source)
            except Exception as error:
                broken = error
                continue
            evidence = RegionEvidence(
                name_of(fold, self.written),
                tuple(node.operation for node in fold.nodes),
                original,
                folded,
                magnitude,
                max(peak, *(float(np.abs(array).max(initial=0.0)) for array in inputs.values())),
                _longest(fold, weights.values()),
                FLOATS[scope.types[value].elem_type],
                _slack(fold),
            )
            if original.shape == folded.shape:
                break
        if evidence is None and broken is not None:
            raise does_not_run(name_of(fold, self.written), broken) from broken
        if evidence is None:
            raise FoldError(
                f"the region of {fold.value} does not run in the ONNX reference evaluator ({failure}); fold with verify=False"
            ) from failure
        return evidence


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


def _run(nodes: Sequence[NodeProto], feeds: Mapping[str, Array], value: str, source: Source) -> tuple[Array, float]:
    """The value, and the largest number on the way."""
    names = [name for node in nodes for name in (node.output if node.op_type == "Split" else node.output[:1]) if name]
    results = evaluate(nodes, feeds, names, source.skeleton)
    peak = max((float(np.abs(result).max(initial=0.0)) for result in results), default=0.0)
    return np.asarray(results[names.index(value)]), peak


def _worked_out(names: Iterable[str], region: Sequence[NodeProto], feeds: Mapping[str, Array], source: Source) -> dict[str, Array]:
    """The sizes that the new nodes take from nodes of the region."""
    made = {name for node in region for name in node.output}
    wanted = [name for name in names if name in made]
    return dict(zip(wanted, evaluate(region, feeds, wanted, source.skeleton), strict=True)) if wanted else {}


def _size(feed: Array, stored: Array | None) -> Array:
    """Numbers by their size, and a weight, as it is `stored`, by that which its rounding is measured by.

    What lies below the smallest normal number of a type is rounded as that number is.
    """
    if feed.dtype.kind != "f":
        return feed
    size: Array = np.abs(feed)
    if stored is not None:
        size += float(ml_dtypes.finfo(stored.dtype).smallest_normal)  # type: ignore[no-untyped-call]
    return size


def _absolute(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes with a difference turned into a sum."""
    result = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(wide_node(node))
        if copy.op_type == "Sub":
            copy.op_type = "Add"
        for attribute in copy.attribute:
            if copy.op_type == "Pad" and attribute.name == "value":
                attribute.f = abs(attribute.f)
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


def _measured(region: Sequence[NodeProto], roots: set[str], scope: Scope, constants: Constants) -> dict[str, Array]:
    """Zeros for what the region asks the shape or the type of and does not make, at the sizes of the example."""
    made = {name for node in region for name in node.output} | roots
    names = {name for node in region for name in node.input if name and name not in made and not constants.has(name, scope)}
    return {name: stand_in(scope.typed(name)) for name in names}


def _constants_of(region: Sequence[NodeProto], scope: Scope, constants: Constants) -> list[str]:
    names = dict.fromkeys(name for node in region for name in node.input if name)
    return [name for name in names if constants.has(name, scope)]


def _small_shapes(graph: Graph, fold: Fold) -> Shapes:
    """Shapes of the roots at the smallest output that has both borders and a middle, congruent to fixed sizes modulo the strides."""
    output = graph.values[fold.value]
    stencils = [mapped.stencil for mapped in fold.form.values() if not isinstance(mapped, Scalar)]
    rank = max((stencil.rank for stencil in stencils), default=0)
    lead = len(output.example) - rank - 1
    wanted = []
    for axis in range(rank):
        windows = [stencil.windows[axis] for stencil in stencils]
        borders = max(math.ceil(max(0, w.before) / w.stride) + math.ceil(max(0, w.after) / w.stride) for w in windows)
        middle = max(w.upsample for w in windows) + 1
        wanted.append(_at_most(output, lead + 1 + axis, borders + middle))
    shapes = {}
    for root, mapped in fold.form.items():
        value = graph.values[root]
        if isinstance(mapped, Scalar):
            shapes[root] = (*[1] * lead, *value.example[lead : len(value.example) - rank], *wanted)
            continue
        sizes = []
        for axis, window in enumerate(mapped.stencil.windows):
            position = lead + 1 + axis
            fixed = value.shape[position]
            rest = 0 if fixed is None else (window.places(fixed) + window.excess) % window.stride
            places = window.stride * (wanted[axis] - 1) - window.excess + rest
            sizes.append(max(1, _at_most(value, position, -(-(places - 1) // window.upsample) + 1)))
        shapes[root] = (*[1] * lead, mapped.stencil.in_channels, *sizes)
    return shapes


def _at_most(value: Value, axis: int, size: int) -> int:
    fixed = value.shape[axis]
    return size if fixed is None else min(fixed, size)
