"""An ONNX model as the verbs see it: its neutral graph, a plan written back, and the evidence for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto

from refold.census import Census
from refold.dialects.onnx._annotate import Tensor, drop_annotation, weights_of_source
from refold.dialects.onnx._census import count
from refold.dialects.onnx._constants import Constants
from refold.dialects.onnx._layers import OnnxTarget
from refold.dialects.onnx._load import Source, load
from refold.dialects.onnx._measure import measured
from refold.dialects.onnx._probe import Probe, groups_of
from refold.dialects.onnx._prove import name_of, region_evidence
from refold.dialects.onnx._read import OLDEST, read_graph
from refold.dialects.onnx._roundings import roundings
from refold.dialects.onnx._run import (
    DoesNotLoad,
    DoesNotRun,
    Draft,
    Feeds,
    Session,
    draws_at_random,
    generated_feeds,
    given_feeds,
    must_run,
    truths,
)
from refold.dialects.onnx._save import save
from refold.dialects.onnx._scopes import make_scopes
from refold.dialects.onnx._tensors import FLOATS, Tensors
from refold.dialects.onnx._valid import demand_valid
from refold.dialects.onnx._write import Written, write_model
from refold.errors import FoldError
from refold.graph import Graph, Refusal
from refold.maps import Scalar, as_moved
from refold.plan import Fold, Plan, cost_as_it_stands
from refold.runtime import Background, RuntimeDied
from refold.verification import FACTOR, SEED, OutputEvidence, RegionEvidence, SizeEvidence, coarsest, judge_output

if TYPE_CHECKING:
    import onnx_ir as ir

SIZES = 2
"""How many sizes of inputs whole models are compared on."""


MOVES = 4
"""Times that inputs are moved by a rounding; one alone may happen to move an output little."""


class OnnxModel:
    """An ONNX model that was read: a path, an `onnx.ModelProto` or an `onnx_ir.Model`; `example` holds inputs for verification.

    Raises `FoldError` where it is not a valid model or holds NaN.
    """

    def __init__(self, model: Any, example: Any = None, kwargs: Mapping[str, Any] | None = None) -> None:
        self._source: Source = load(model)
        self._given = _merged(self._source.skeleton, example, kwargs)
        self._notes: list[str] = []
        self._runs: Background[list[tuple[Feeds, list[Any]]]] | None = None
        given = {name: array.shape for name, array in (self._given or {}).items()}
        top, complaint = make_scopes(self._source.skeleton, given=given)
        demand_valid(self._source, top, complaint)
        self._top = measured(self._source, top)
        if complaint is not None:
            self._notes.append(f"shape inference does not go through ({complaint}), so more than needed may be left alone")
        if self._source.opset < OLDEST:
            self._notes.append(f"opset {self._source.opset} is older than {OLDEST}; nothing is folded, convert the model first")
        self._constants = Constants(self._source, self._top)
        self.graph: Graph = read_graph(self._top, self._constants, self._source.opset)

    target = OnnxTarget()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it was read from."""
        return self._source.files

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the reading and the proof."""
        return tuple(self._notes)

    @cached_property
    def multiply_adds(self) -> int:
        """Of the linear operators that were read, for one run on the example's sizes."""
        return sum(cost_as_it_stands(node, self.graph).multiply_adds for node in self.graph.linear())

    @cached_property
    def roundings(self) -> dict[str, float]:
        """The unit roundoff of each output: of the narrowest floats that it is worked out from."""
        return roundings(self._top)

    @property
    def census(self) -> Census:
        """What the model holds as it stands."""
        return count(self._source.skeleton, self._source.tensors, self.multiply_adds)

    def write(self, plan: Plan) -> OnnxDeployed:
        """The folded model and what belongs to it."""
        written = write_model(self._source, self._top, self._constants, plan)
        drop_annotation(written.skeleton)
        self._notes.extend(_taken_as_one(written))
        return OnnxDeployed(self, written)

    def weights(self) -> Iterator[Tensor]:
        """The weights of the original, one by one."""
        return weights_of_source(self._source)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that were given, in words; none where they are drawn at random from the seed."""
        return tuple(f"{name} {' x '.join(map(str, array.shape)) or 'scalar'} {array.dtype}" for name, array in (self._given or {}).items())

    def start_runs(self) -> None:
        """Begin to run the original on the inputs of the comparison, in the background."""
        if self._runs is None:
            self._runs = Background(lambda: list(_original_runs(self)))

    def runs(self) -> list[tuple[Feeds, list[Any]]]:
        """Inputs that the original runs on, and what it gives. Raises `FoldError` where it runs on none."""
        self.start_runs()
        assert self._runs is not None
        return self._runs.result()

    def session(self, *, optimized: bool = False) -> Session:
        """The original, ready to run."""
        return Session(self._source.skeleton, self._source.tensors, self._source.files, optimized=optimized)


@dataclass(frozen=True, slots=True)
class OnnxDeployed:
    """A folded model beside the one that it came from."""

    source: OnnxModel
    written: Written
    _drafts: list[Draft] = field(default_factory=list, repr=False)
    """The file that is compared with the original, once it is written."""
    _sessions: list[Session] = field(default_factory=list, repr=False)
    """That file as the runtime opened it."""

    @property
    def folds(self) -> tuple[Fold, ...]:
        """The folds that were written."""
        return self.written.folds

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Folds that could not be written."""
        return self.written.refusals

    @property
    def model(self) -> ir.Model:
        """The model; large weights are worked out when they are read."""
        return _ir_model(self.written.skeleton, self.written.tensors)

    @property
    def census(self) -> Census:
        """What the folded model holds."""
        graph, gone = self.source.graph, {*self.written.gone, *self.written.emitted}
        folded = sum(fold.after.multiply_adds for fold in self.folds)
        left = sum(cost_as_it_stands(node, graph).multiply_adds for node in graph.linear() if node.output not in gone)
        return count(self.written.skeleton, self.written.tensors, folded + left)

    def name_of(self, fold: Fold) -> str:
        """The name of the node that a fold became."""
        return name_of(fold, self.written)

    def operations_of(self, fold: Fold) -> tuple[str, ...]:
        """The operators that a fold became."""
        return tuple(node.op_type for node in self.written.emitted[fold.value])

    def region_evidence(self, seed: int) -> Iterator[RegionEvidence]:
        """Each fold, run both ways in float64, with the weights as they lie in the file that will be saved."""
        source = self.source
        draft = load(self._draft().path)
        yield from region_evidence(source._source, source._top, source._constants, source.graph, self.written, draft, seed)
        source._constants.forget()

    def output_evidence(self) -> Iterator[OutputEvidence]:
        """Each output on the inputs that were given, or on random ones; both models begin to run at once, in the runtime's process."""
        if draws_at_random(self.source._source.skeleton):
            self.source._notes.append("the model draws random numbers, so its outputs were not compared")
            return iter(())
        self.source.start_runs()
        self._draft()
        folded = Background(lambda: [self._session().run(feeds) for feeds, _ in self.source.runs()])
        return _compared(self.source, lambda runs: folded.result(), tolerant=True)

    def _draft(self) -> Draft:
        if not self._drafts:
            self._drafts.append(Draft(self.written.skeleton, self.written.tensors))
        return self._drafts[0]

    def _session(self) -> Session:
        if not self._sessions:
            self._sessions.append(Session(self.written.skeleton, self.written.tensors, (self._draft().path,)))
        return self._sessions[0]

    def size_evidence(self) -> Iterator[SizeEvidence]:
        """The whole model at other sizes, where the file leaves them free and the original runs."""
        groups = groups_of(self.source._source.skeleton)
        if not groups or draws_at_random(self.source._source.skeleton):
            return
        try:
            feeds, _ = self.source.runs()[0]
        except FoldError:
            return  # said by `output_evidence`
        longest = sum(node.longest_sum for node in self.source.graph.linear())
        probe = Probe(self.source.session(), self._session(), feeds, groups)

        def judge(feeds: Feeds, outputs: Sequence[Any], folded: Sequence[Any]) -> tuple[OutputEvidence, ...]:
            quick = tuple(_outputs(self.source, outputs, folded, None, (), longest))
            if all(judge_output(one).passed for one in quick):
                return quick
            known = _truths(self.source, feeds, outputs, longest)
            own = _own_runs(self.source, feeds, outputs, folded, longest)
            return tuple(_outputs(self.source, outputs, folded, known, own, longest))

        yield from probe.evidence(judge)

    def save(
        self, path: Path, kind: str, text_for: Callable[[Iterable[Tensor]], str] | None = None, open_file: Any = None
    ) -> tuple[str, ...]:
        """Write the model as `onnx`, with its weights beside it where the original's were or where they are too many for one file.

        The text that `text_for` makes is laid in a file once it stands, by `annotate`.
        """
        if kind != "onnx":
            raise FoldError(f"an ONNX model cannot be written as a file of kind {kind!r}; let the name end in .onnx")
        external = self.source._source.is_external
        if self._drafts and self._drafts[0].is_one_file and not external:
            self._drafts.pop().move(path)  # the very file that was compared
            self._sessions.clear()
        else:
            save(self.written.skeleton, self.written.tensors, path, external=external, by_content=True)
        return ()


def _taken_as_one(written: Written) -> Iterator[str]:
    """What to say of folds that took constants as one."""
    shares: dict[str, float] = {}
    for fold in written.folds:
        for mapped in map(as_moved, fold.form.values()):
            if not isinstance(mapped.inner, Scalar) and mapped.inner.slack is not None:
                share = float(mapped.inner.slack.max() / np.abs(mapped.inner.level(mapped.inner.fill)).max())
                shares[name_of(fold, written)] = max(share, shares.get(name_of(fold, written), 0.0))
    if shares:
        first = f"{next(iter(shares))} and {len(shares) - 1} more" if len(shares) > 1 else next(iter(shares))
        yield (
            f"{first}: what is padded with and what the layer in front makes of zeros were rounded apart and are taken as one, "
            f"which moves what they make of a border by at most {max(shares.values()):.2g} of it"
        )


def compare(original: Any, other: Any, example: Any, kwargs: Mapping[str, Any] | None = None) -> Iterator[OutputEvidence]:
    """Each output of two models on the same inputs, and the truth of the first."""
    first, second = OnnxModel(original, example, kwargs), OnnxModel(other)

    def run(runs: Sequence[tuple[Feeds, list[Any]]]) -> list[list[Any]]:
        session = second.session()
        return [session.run(feeds) for feeds, _ in runs]

    return _compared(first, run, tolerant=False)


def _compared(
    source: OnnxModel, run: Callable[[Sequence[tuple[Feeds, list[Any]]]], list[list[Any]]], *, tolerant: bool
) -> Iterator[OutputEvidence]:
    """Each output beside that of the other model, which `run` gives for the inputs of these runs."""
    try:
        runs = source.runs()
    except FoldError as error:
        at_fault = isinstance(error, (RuntimeDied, DoesNotLoad)) or (isinstance(error, DoesNotRun) and must_run(source._source.skeleton))
        if source._given is not None or not tolerant or at_fault:
            raise
        source._notes.append(f"outputs were not compared: {error}")
        return
    longest = sum(node.longest_sum for node in source.graph.linear())
    for number, ((feeds, outputs), folded) in enumerate(zip(runs, run(runs), strict=True)):
        if len(folded) != len(outputs):
            raise FoldError(f"the two models give {len(outputs)} and {len(folded)} outputs; compare models that give the same")
        known = _truths(source, feeds, outputs, longest)
        own = _own_runs(source, feeds, outputs, folded, longest)
        yield from _outputs(source, outputs, folded, known, own, longest, None if len(runs) == 1 else number)


def _outputs(
    source: OnnxModel,
    outputs: Sequence[Any],
    folded: Sequence[Any],
    known: Sequence[Any] | None,
    own: Sequence[Sequence[Any]],
    longest: int,
    number: int | None = None,
) -> Iterator[OutputEvidence]:
    """Each output that holds numbers, of both models on the same inputs: the first, the second, of several."""
    for position, output in enumerate(source._source.skeleton.graph.output):
        mine, theirs = outputs[position], folded[position]
        if not (hasattr(mine, "dtype") and hasattr(theirs, "dtype") and mine.dtype.kind in "fiub"):
            continue
        rounding = coarsest(FLOATS.get(output.type.tensor_type.elem_type, 0.0), source.roundings[output.name])
        others = tuple(one[position] for one in own if np.shape(one[position]) == mine.shape)
        noise = max((_distance(mine, one) for one in others), default=0.0)
        name = output.name if number is None else f"{output.name} (inputs {number + 1})"
        yield OutputEvidence(name, mine, theirs, known[position] if known else None, rounding, longest, noise, others, number or 0)


def _original_runs(source: OnnxModel) -> Iterator[tuple[Feeds, list[Any]]]:
    """Inputs that the original runs on, and what it gives."""
    session = source.session()
    skeleton = source._source.skeleton
    if source._given is not None:
        yield source._given, session.run(source._given)
        return
    done, failure = 0, None
    for feeds in generated_feeds(skeleton, SEED):
        try:
            outputs = session.run(feeds)
        except RuntimeDied:
            raise
        except FoldError as error:
            failure = failure or error
            continue
        yield feeds, outputs
        done += 1
        if done == SIZES:
            return
    if failure is not None and not done:
        raise failure


def _truths(source: OnnxModel, feeds: Feeds, outputs: Sequence[Any], length: int) -> list[Any] | None:
    """The outputs in float64, where they can be believed.

    The original may be off from the truth by what its rounding comes to. Where it is off by more than the roundings of sums of this length
    explain, the evaluator runs it once more in the original's own types: if that is off by much less, the runtime has operators that
    the evaluator takes otherwise, and what it gives is the truth of another function.
    """
    given = source._source, source._top, feeds, source.multiply_adds, _ratio(source, feeds)
    known = truths(*given)
    if known is None or any(np.shape(mine) != np.shape(truth) for mine, truth in zip(outputs, known, strict=True)):
        return None
    explained = [math.sqrt(max(1, length)) * _unnoticed(mine) for mine in outputs]
    off = [_distance(mine, truth) for mine, truth in zip(outputs, known, strict=True)]
    if all(distance <= limit for distance, limit in zip(off, explained, strict=True)):
        return known
    narrow = truths(*given, wide=False) or known
    again = [_distance(rounded, truth) for rounded, truth in zip(narrow, known, strict=True)]
    believed = all(distance <= FACTOR * own + limit for distance, own, limit in zip(off, again, explained, strict=True))
    return known if believed else None


def _own_runs(source: OnnxModel, feeds: Feeds, outputs: Sequence[Any], folded: Sequence[Any], length: int) -> list[list[Any]]:
    """What the original gives where the runtime fuses and orders its sums otherwise, and then where its inputs are one rounding off.

    Worked out only where the two models differ by more than the roundings of sums of this length explain.
    """
    explained = math.sqrt(max(1, length))
    if all(_is_explained(mine, theirs, explained) for mine, theirs in zip(outputs, folded, strict=True)):
        return []
    runs = [source.session(optimized=True).run(feeds)]
    generator, session = np.random.default_rng(SEED), source.session()
    for _ in range(MOVES):
        try:
            runs.append(session.run({name: _moved(array, generator) for name, array in feeds.items()}))
        except FoldError:  # what it takes is not for it to be moved, as a number that is looked up
            break
    return runs


def _moved(array: Any, generator: np.random.Generator) -> Any:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return array
    signs = generator.integers(0, 2, array.shape).astype(array.dtype) * 2 - 1
    return array * (1 + signs * np.finfo(array.dtype).eps)


def _is_explained(mine: Any, theirs: Any, times: float) -> bool:
    """Whether roundings explain how far two outputs are apart; what holds no floating point numbers must be equal."""
    if isinstance(mine, np.ndarray) and mine.dtype.kind in "iub":
        return np.array_equal(mine, theirs)
    return _distance(mine, theirs) <= times * _unnoticed(mine)


def _unnoticed(output: Any) -> float:
    """What one rounding explains."""
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f":
        return 0.0
    return FACTOR * float(np.finfo(output.dtype).eps) / 2 * float(np.nan_to_num(np.abs(output)).max(initial=0.0))


def _distance(one: Any, other: Any) -> float:
    if not isinstance(one, np.ndarray) or one.dtype.kind != "f" or one.shape != other.shape:
        return 0.0
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(one.astype(np.float64) - other.astype(np.float64)), posinf=0.0).max(initial=0.0))


def _ratio(source: OnnxModel, feeds: Feeds) -> float:
    """How much larger these inputs are than those of the example."""
    ratio = 1.0
    for name, array in feeds.items():
        typed = source._top.types.get(name)
        if typed is not None:
            ratio = max(ratio, array.size / math.prod(max(1, size) for size in typed.example))
    return ratio


def _merged(skeleton: ModelProto, example: Any, kwargs: Mapping[str, Any] | None) -> Feeds | None:
    if example is None and not kwargs:
        return None
    if kwargs:
        example = {**(example if isinstance(example, Mapping) else {}), **kwargs}
    return given_feeds(skeleton, example)[0]


def _ir_model(skeleton: ModelProto, tensors: Tensors) -> ir.Model:
    import onnx_ir as ir

    model = ir.from_proto(skeleton)
    assert isinstance(model, ir.Model)

    def lazy(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        proto = tensor.raw
        if not isinstance(proto, TensorProto) or tensors.payload(proto) is None:
            return tensor
        shape = ir.Shape(list(proto.dims))
        return ir.LazyTensor(
            lambda: ir.Tensor(tensors.array(proto), dtype=tensor.dtype, name=tensor.name), tensor.dtype, shape, name=tensor.name
        )

    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = lazy(value.const_value)
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for holder in holders:
        for node in ir.traversal.RecursiveGraphIterator(holder):
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and attribute.value is not None:
                    held = lazy(attribute.as_tensor())
                    node.attributes[name] = ir.Attr(name, ir.AttributeType.TENSOR, held, doc_string=attribute.doc_string)
    return model
