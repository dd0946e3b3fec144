"""A PyTorch network as the verbs see it: its neutral graph, a plan written back as a module, and the evidence for both."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from refold.census import Census
from refold.dialects.aten._allowed import Allowed, find_allowed
from refold.dialects.aten._annotate import Tensor, weights
from refold.dialects.aten._census import count
from refold.dialects.aten._compare import compared
from refold.dialects.aten._conditions import Condition, Shapes, by_what_they_allow, or_at, without_weaker
from refold.dialects.aten._constants import Constants
from refold.dialects.aten._files import Open
from refold.dialects.aten._guard import SizeGuard
from refold.dialects.aten._layers import AtenTarget
from refold.dialects.aten._other_sizes import compared_elsewhere, is_borne_out, narrower, with_dtypes
from refold.dialects.aten._paths import Paths
from refold.dialects.aten._prove import region_evidence
from refold.dialects.aten._read import operation, read_graph
from refold.dialects.aten._roundings import roundings
from refold.dialects.aten._save import save
from refold.dialects.aten._ship import ship_exported, ship_onnx
from refold.dialects.aten._sizes import symbols_of
from refold.dialects.aten._trace import Traced, adopt, describe, retrace, run, trace, user_inputs
from refold.dialects.aten._trials import Trials, in_order
from refold.dialects.aten._write import Written, write_module
from refold.errors import FoldError
from refold.graph import Graph, Refusal
from refold.plan import Fold, Plan, cost_as_it_stands
from refold.verification import OutputEvidence, RegionEvidence, SizeEvidence

EXCEPT = " (or some that it was seen to be right at)"
"""What is said of a condition besides which some sizes are taken for another reason."""
NOTED = 6
"""How many conditions a report spells out."""


class AtenModel:
    """A traced network. `graph` is its neutral view, `notes` what a person should know of the tracing.

    `allowed` is what the folded network takes, known once it is written: what the tracing allows, and the folding too.
    """

    def __init__(self, model: torch.nn.Module | ExportedProgram, example: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        self._original = model
        self.args, self.kwargs = _arguments(model, example, kwargs)
        if isinstance(model, ExportedProgram):
            self.traced: Traced = adopt(model)
        else:
            reference = run(model, self.args, self.kwargs)
            self.traced = trace(model, self.args, self.kwargs, reference)
        self.allowed = Allowed(self.traced.conditions)
        self._names = _argument_names(model, self.args, self.kwargs)
        self.constants = Constants(self.traced.program)
        with torch.no_grad():
            self.graph: Graph = read_graph(self.traced.program, self.constants, self._symbols())

    target = AtenTarget()

    def _symbols(self) -> Mapping[Any, int]:
        given = [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, torch.Tensor)]
        return symbols_of([traced for _, traced in user_inputs(self.traced.program)], given)

    @cached_property
    def _as_traced(self) -> Allowed:
        """What the trace takes, found by running the original beside it."""
        program = self.traced.program
        trials = Trials(self.run_original, program, dict(user_inputs(program)), self.args, self.kwargs)
        traced_there = None if isinstance(self._original, ExportedProgram) else partial(retrace, self._original, program)
        return find_allowed(trials, self.traced.conditions, self.traced.inputs, traced_there)

    @property
    def _strict(self) -> list[Condition]:
        """All that the trace takes for granted, but that a batch of one in the example was doubled."""
        example = shapes_of(self.traced.program, (self.args, self.kwargs))
        return [or_at(one, example) if one.is_assumed else one for one in self.traced.conditions]

    @cached_property
    def longest(self) -> int:
        """Numbers that are summed one after another from the inputs to the outputs."""
        return sum(node.longest_sum for node in self.graph.linear())

    @cached_property
    def roundings(self) -> list[float]:
        """The unit roundoff of each output: of the narrowest floats that it is worked out from."""
        return roundings(self.traced.program)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the inputs are held to and those of the original are not, and why; and what is named otherwise in the folded one."""
        why = f" ({self.traced.why})" if self.traced.why else ""
        texts = [
            f"{condition.text}{EXCEPT if self.allowed.has_exceptions(condition) else ''}"
            for condition in self.allowed.conditions
            if not (condition.is_shared or condition.is_implied)
        ]
        texts = [*dict.fromkeys(texts), *(f"`{one.name}` is {one.value!r}" for one in self.traced.arguments)]
        more = (f"and {len(texts) - NOTED} more relations of their sizes",) if len(texts) > NOTED else ()
        held = tuple(f"the folded network takes only inputs where {text}{why}" for text in texts[:NOTED]) + more
        renamed = Paths(self.traced.program.state_dict).renamed.items()
        return held + tuple(
            f"`{name}` is `{path}` in the folded network: torch cannot write code that calls it `{name}`" for name, path in renamed
        )

    @property
    def census(self) -> Census:
        """What the network holds as it stands."""
        program = self.traced.program
        work = sum(_work(self.graph))
        return count(program.graph.nodes, [*program.state_dict.values()], work)

    def weights(self) -> Iterator[Tensor]:
        """The weights of the original, one by one."""
        return weights(self._original)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The example inputs in words."""
        return tuple(describe(leaf) for leaf in pytree.tree_leaves((self.args, self.kwargs)))

    def write(self, plan: Plan) -> AtenDeployed:
        """The folded module and what belongs to it."""
        with torch.no_grad():
            traced = self._as_traced
            guard = SizeGuard(traced.conditions, traced.alternatives, self.traced.inputs, self.traced.arguments, self._strict)
            written = write_module(self.traced.program, plan, self._names, guard)
        self.constants.forget()
        written.module.eval()
        example = shapes_of(self.traced.program, (self.args, self.kwargs))
        needed = narrower(self, written.module, traced, example)
        conditions = by_what_they_allow([*in_order(without_weaker((*traced.conditions, *needed)), example)], example)
        alternatives = tuple((*one, *needed) for one in traced.alternatives if is_borne_out(self, written.module, traced, one))
        self.allowed = replace(traced, conditions=conditions, alternatives=alternatives).with_shared_noted()
        guard.hold(self.allowed.conditions, alternatives, tuple(with_dtypes(self, written.module, guard, traced.dtypes)))
        return AtenDeployed(self, written, tuple(fold for fold in plan.folds if fold.value in written.emitted))

    def run_original(self, args: tuple[Any, ...] | None = None, kwargs: Mapping[str, Any] | None = None) -> Any:
        """The original's own eval output on the example inputs, or on others like them."""
        args, kwargs = (self.args, self.kwargs) if args is None else (args, kwargs or {})
        return run(self._runnable, args, kwargs)

    @cached_property
    def _runnable(self) -> torch.nn.Module:
        return self._original.module() if isinstance(self._original, ExportedProgram) else self._original


@dataclass(frozen=True, slots=True)
class AtenDeployed:
    """A folded module beside the network that it came from. `folds` are those that were written."""

    source: AtenModel
    written: Written
    folds: tuple[Fold, ...]

    @property
    def model(self) -> torch.nn.Module:
        """The module."""
        return self.written.module

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Folds that could not be written."""
        return self.written.refusals

    @property
    def census(self) -> Census:
        """What the folded network holds."""
        module = self.written.module
        saved = sum(fold.before.multiply_adds - fold.after.multiply_adds for fold in self.folds)
        tensors = [*module.parameters(), *module.buffers()]
        return count(module.graph.nodes, tensors, sum(_work(self.source.graph)) - saved, module.get_submodule)

    def name_of(self, fold: Fold) -> str:
        """The path of the layers that a fold became."""
        return self.written.names[fold.value]

    def operations_of(self, fold: Fold) -> tuple[str, ...]:
        """The operators that a fold became; a layer goes by its class."""
        module = self.written.module
        nodes = self.written.emitted[fold.value]
        return tuple(
            type(module.get_submodule(str(node.target))).__name__ if node.op == "call_module" else operation(node) for node in nodes
        )

    def region_evidence(self, seed: int) -> Iterator[RegionEvidence]:
        """Each fold, run both ways in float64."""
        source = self.source
        with torch.no_grad():
            yield from region_evidence(source.traced.program, source.constants, source.graph, self.folds, self.written, seed)

    def output_evidence(self) -> Iterator[OutputEvidence]:
        """Each output on the example inputs: the original as it ships, the folded one as it ships, and the truth."""
        return compared(self.source, self.written.module)

    def size_evidence(self) -> Iterator[SizeEvidence]:
        """The whole network at other sizes, where the original runs."""
        return compared_elsewhere(self.source, self.written.module, self.source.allowed)

    def save(
        self, path: Path, kind: str, text_for: Callable[[Iterable[Tensor]], str] | None = None, open_file: Open | None = None
    ) -> tuple[str, ...]:
        """Write the module as `pt2`, `onnx` or `safetensors` and say what sizes the file takes; see `refold.dialects.aten._save`.

        `open_file` runs an ONNX file; without it the file is not tried at other sizes than the example's.
        """
        if kind == "pt2":
            return ship_exported(self.source, self.written.module, path, text_for)
        if kind == "onnx" and open_file is not None:
            return ship_onnx(self.source, self.written.module, path, open_file)
        save(self.written.module, self.source.args, self.source.kwargs, str(path), kind, text_for)
        return ()


def compare(original: Any, other: torch.nn.Module, example: Any, kwargs: Mapping[str, Any] | None) -> Iterator[OutputEvidence]:
    """Each output of two networks on the same inputs, and the truth of the first."""
    return compared(AtenModel(original, example, kwargs), other)


def shapes_of(program: ExportedProgram, inputs: tuple[Any, Any]) -> Shapes:
    """The shapes of the tensors among some inputs, by name."""
    tensors = [leaf for leaf in pytree.tree_leaves((inputs[0], dict(inputs[1]))) if isinstance(leaf, torch.Tensor)]
    return {name: tuple(leaf.shape) for (name, _), leaf in zip(user_inputs(program), tensors, strict=True)}


def _work(graph: Graph) -> Iterator[int]:
    for node in graph.linear():
        yield cost_as_it_stands(node, graph).multiply_adds


def _arguments(model: Any, example: Any, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if example is None and kwargs is None:
        given = model.example_inputs if isinstance(model, ExportedProgram) else None
        if given is None:
            raise FoldError("a PyTorch module is traced on example inputs and none were given; pass a tuple, as in fold(model, (x,))")
        return tuple(given[0]), dict(given[1])
    if isinstance(example, Mapping):
        return (), {**example, **(kwargs or {})}
    if isinstance(example, (tuple, list)):
        return tuple(example), dict(kwargs or {})
    return (() if example is None else (example,)), dict(kwargs or {})


def _argument_names(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """One name for each argument: those of forward where it has them."""
    if isinstance(model, ExportedProgram):
        return [f"input_{position}" for position in range(len(args))] + list(kwargs)
    names: list[str] = []
    for parameter in inspect.signature(model.forward).parameters.values():
        match parameter.kind:
            case inspect.Parameter.POSITIONAL_ONLY | inspect.Parameter.POSITIONAL_OR_KEYWORD:
                names.append(parameter.name)
            case inspect.Parameter.VAR_POSITIONAL:
                names.extend(f"{parameter.name}_{position}" for position in range(len(names), len(args)))
            case _:
                pass
    return names[: len(args)] + list(kwargs)
