"""From a PyTorch module to a functional graph of ATen operators: batch free, spatial sizes free where the model allows, mode untouched."""

from __future__ import annotations

import inspect
import io
import itertools
import logging
import math
import operator
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_sizes
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, CustomObjArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree
from torch.utils._sympy.functions import Max, Min

from refold.dialects.aten._conditions import Condition, Conditions, at_most, fixed_size, is_trivial, more_than, places_in, read_condition
from refold.dialects.aten._constants import draws_at_random
from refold.dialects.aten._functional import idle_dropouts_as_views, rename_in_place
from refold.dialects.aten._guard import TracedArgument, TracedInput
from refold.dialects.aten._numbers import KnownNumbers
from refold.dialects.aten._pools import PoolsAsPlanes, restore_pools
from refold.dialects.aten._run import run_program
from refold.dialects.aten._same_graph import is_same_graph
from refold.dialects.aten._sizes import fixed, shape_of
from refold.dialects.aten._trials import agree, is_nested_alike
from refold.errors import FoldError


@dataclass(frozen=True, slots=True)
class Traced:
    """A network in eval as a functional graph.

    `conditions` are what its inputs must satisfy for the graph to be the model: sizes that could not be left free, and relations between
    sizes that the tracing took for granted. `inputs` are the tensors that it takes, `arguments` what else it was given. `why` is what
    torch said of the sizes that it could not leave free.
    """

    program: ExportedProgram
    conditions: tuple[Condition, ...]
    inputs: tuple[TracedInput, ...] = ()
    arguments: tuple[TracedArgument, ...] = ()
    why: str | None = None


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in eval within the block, afterwards as it was: modes, and buffers that its forward writes to.

    The flags are set without calling `train`, which some models override to merge or unmerge weights.
    """
    modes = [(module, module.training) for module in model.modules()]
    registered = [(module._buffers, dict(module._buffers)) for module in model.modules() if isinstance(module._buffers, dict)]
    buffers = [(buffer, _version(buffer), buffer.detach().clone()) for buffer in model.buffers()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for names, own in registered:
            names.clear()
            names.update(own)
        with torch.inference_mode() if any(buffer.is_inference() for buffer, _, _ in buffers) else torch.no_grad():
            for buffer, version, before in buffers:
                if version is None or buffer._version != version:
                    buffer.copy_(before)


def _version(tensor: torch.Tensor) -> int | None:
    """How often a tensor was written to; None where torch does not count, as in inference mode."""
    return None if tensor.is_inference() else tensor._version


def run(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The model's eval output, without gradients and with the random numbers of one seed.

    Raises `FoldError` with the model's own message where it cannot take the inputs.
    """
    with evaluating(model), torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        own_args, own_kwargs = copies(args, kwargs)
        try:
            return model(*own_args, **own_kwargs)
        except Exception as error:
            shapes = ", ".join(describe(leaf) for leaf in pytree.tree_leaves((args, dict(kwargs))))
            raise FoldError(
                f"the model does not run on the example inputs ({shapes}): {one_line(error)}{_where(model, error)}; "
                "give inputs of the shapes and dtypes that its forward takes"
            ) from error


def copies(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs for one run: some models write to theirs, and the caller's must stay as they are."""
    own: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(
        lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, (args, dict(kwargs))
    )
    return own


def trace(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], reference: Any) -> Traced:
    """Trace the eval function of a model that runs on these inputs, as a functional graph.

    `reference` is what the model gives for them: a trace of a doubled batch that gives something else for one (a squeeze, a branch on the
    batch) is not taken.

    Raises `FoldError` where the model cannot be traced at all.
    """

    def finish(program: ExportedProgram, doubled: bool) -> ExportedProgram:
        result = _functional(program)
        leaves, structure = pytree.tree_flatten(reference)
        if not is_nested_alike(result.call_spec.out_spec, structure):
            raise FoldError("the outputs of the trace are nested otherwise than those of the model")
        user_outputs = [spec.arg for spec in result.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
        for output, leaf in zip(user_outputs, leaves, strict=True):
            if isinstance(output, ConstantArgument) and (type(output.value) is not type(leaf) or output.value != leaf):
                raise FoldError(f"the model gives {leaf!r} where its trace gives {output.value!r}")
        if doubled and any(map(draws_at_random, result.graph.nodes)):
            raise FoldError("what draws random numbers cannot be compared at a batch of one with its trace at two")
        if doubled:
            outputs = run_program(result, pytree.tree_leaves((args, dict(kwargs))), wide=False)
            if not agree(outputs, leaves):
                raise FoldError("a batch of one takes another path through the model than a batch of two")
        return result

    exported = _attempted(model, args, kwargs, finish)
    conditions = _conditions(exported.program, exported.notes, _paths(model, args, kwargs), args, kwargs)
    return Traced(exported.program, tuple(conditions), *_signature(exported.program), exported.why)


def adopt(program: ExportedProgram) -> Traced:
    """A program that somebody else traced, as a functional graph."""
    functional = _checked(_lowered(program))
    return Traced(functional, tuple(one for one in _ranges(functional) if not is_trivial(one)), *_signature(functional))


def _signature(program: ExportedProgram) -> tuple[tuple[TracedInput, ...], tuple[TracedArgument, ...]]:
    """What the program takes: tensors, and what has become part of it."""
    inputs = tuple(TracedInput(name, value.ndim, value.dtype) for name, value in user_inputs(program))
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    constants = [TracedArgument(spec.arg.name, spec.arg.value) for spec in specs if isinstance(spec.arg, ConstantArgument)]
    members = [
        TracedArgument(spec.arg.name, spec.arg.fake_val)
        for spec in specs
        if isinstance(spec.arg, CustomObjArgument) and isinstance(spec.arg.fake_val, Enum)
    ]
    return inputs, (*constants, *members)


@dataclass(frozen=True, slots=True)
class Exported:
    """A program, what torch noted of sizes on the way, and what it said of those that could not be left free."""

    program: ExportedProgram
    notes: tuple[str, ...]
    why: str | None


def export(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[ExportedProgram, str | None]:
    """Export the eval function with as many sizes free as it allows; the second value says why some could not be.

    Raises `FoldError` where the model cannot be traced at all.
    """
    exported = _attempted(model, args, kwargs, lambda program, doubled: program)
    return exported.program, exported.why


def _attempted(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], finish: Callable[[ExportedProgram, bool], ExportedProgram]
) -> Exported:
    """The first that can be traced: with all sizes free, with the batch free, with none.

    A batch of 1 in the examples is doubled, since tracing would freeze it. `finish` is part of each try, and is told whether the batch is
    doubled. A free size may be anything from 0 on, so that a model that asks whether one is 1 has asked; where torch cannot trace that, it
    is taken for more than 1, as torch does by itself.
    """
    attempts: list[tuple[bool, Callable[[int], bool], bool]] = [
        (True, lambda axis: True, True),
        (True, lambda axis: True, False),
        (False, lambda axis: True, True),
        (False, lambda axis: True, False),
        (True, lambda axis: axis == 0, True),
        (False, lambda axis: axis == 0, True),
        (False, lambda axis: False, False),
    ]
    if not any(is_single(leaf) for leaf in pytree.tree_leaves((args, dict(kwargs)))):
        attempts = [attempt for attempt in attempts if not attempt[0]]
    first_failure: Exception | None = None
    for doubled, free, from_zero in attempts:
        inputs = pytree.tree_map(doubled_leaf, (args, dict(kwargs))) if doubled else (args, dict(kwargs))
        try:
            program, notes = _noted(model, inputs[0], inputs[1], free, from_zero)
            program = finish(program, doubled)
        except Exception as error:
            first_failure = first_failure or _told(error)
            continue
        if doubled and (_froze_batch(program) or not _takes(program, notes, model, args, kwargs)):
            continue
        return Exported(program, notes, None if first_failure is None else one_line(first_failure))
    assert first_failure is not None
    raise FoldError(
        f"torch.export cannot trace the model: {one_line(first_failure)}{_where(model, first_failure)}; {_remedy(first_failure)}"
    ) from first_failure


def _noted(
    model: torch.nn.Module, args: Any, kwargs: Any, free: Callable[[int], bool], from_zero: bool
) -> tuple[ExportedProgram, tuple[str, ...]]:
    """One export, and what torch noted of sizes on the way."""
    program = _export(model, args, kwargs, free, from_zero)
    notes = tuple(getattr(program, "_guards_code", ()))
    if from_zero and _clamps(program):
        # What holds of every size of 2 and more cannot be told of such sizes; the notes of both traces count.
        program = _export(model, args, kwargs, free, False)
        notes += tuple(getattr(program, "_guards_code", ()))
    return program, notes


def retrace(model: torch.nn.Module, known: ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Conditions | None:
    """Trace the model at other inputs: the conditions under which `known`, its first trace, is the model there too.

    They are what torch notes on the way. None where the second trace fails, or is not found to be the same graph.
    """
    for from_zero in (True, False):
        try:
            program, notes = _noted(model, args, kwargs, lambda axis: True, from_zero)
            functional = _functional(program)
        except Exception:  # torch cannot trace some with sizes that may be 0
            continue
        if not is_same_graph(known, functional):
            return None
        return tuple(_conditions(functional, notes, _paths(model, args, kwargs), args, kwargs))
    return None


def _clamps(program: ExportedProgram) -> bool:
    """Whether a size of the program is the larger or the smaller of two, as what a crop leaves of an axis that may be empty."""
    sizes = (
        size
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), torch.Tensor)
        for size in node.meta["val"].shape
        if isinstance(size, torch.SymInt)
    )
    return any(size.node.expr.has(Max, Min) for size in sizes)


def _told(failure: Exception) -> Exception:
    """What went wrong, where torch fails once more while it prints the graph that it had until then."""
    while isinstance(failure, KeyError) and isinstance(failure.__context__, Exception):
        failure = failure.__context__
    return failure


def _remedy(failure: Exception) -> str:
    if "fake tensor" in str(failure) and "constant" in str(failure):
        return (
            "forward puts a new tensor in the place of a parameter (`.data = ...`); let it use that tensor instead, or do so before folding"
        )
    return "take data-dependent control flow out of forward, or fold its parts one by one"


def _functional(program: ExportedProgram) -> ExportedProgram:
    """A program of our own tracing without in-place operators."""
    return _checked(program if rename_in_place(program) else _lowered(program))


def _lowered(program: ExportedProgram) -> ExportedProgram:
    """The program without in-place operators, its composite operators kept whole, by torch's own pass.

    To that pass the output of a dropout is a tensor of its own; in eval it is the input itself, and a write to one is a write to both.
    """
    with torch.no_grad(), _quiet(), idle_dropouts_as_views(program):
        lowered: ExportedProgram = program.run_decompositions({})
    return lowered


def _checked(program: ExportedProgram) -> ExportedProgram:
    """The program without the checks of dtypes that tracing itself has settled."""
    for node in reversed(list(program.graph.nodes)):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says on the way: a trace that fails is tried another way, and its error comes in one line."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _export(model: torch.nn.Module, args: Any, kwargs: Any, free: Callable[[int], bool], from_zero: bool) -> ExportedProgram:
    return export_with(model, args, kwargs, lambda number, axis: free(axis), from_zero)


def export_with(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], free: Callable[[int, int], bool], from_zero: bool
) -> ExportedProgram:
    """Export once, with those axes left to torch that are `free`, told by the number of the input and the axis; others are fixed.

    With `from_zero` a size may be 0 or 1, else it is taken for more. Raises what torch raises.
    """
    numbers_of_leaves = itertools.count()

    def sizes(leaf: Any) -> Any:
        number = next(numbers_of_leaves)
        if not isinstance(leaf, torch.Tensor):
            return None
        # An axis of one item is spread over others: that is what is traced, and it is no free size.
        return {axis: Dim.AUTO for axis in range(leaf.ndim) if free(number, axis) and leaf.shape[axis] != 1}

    shapes = [pytree.tree_map(sizes, arg) for arg in args] + [pytree.tree_map(sizes, arg) for arg in kwargs.values()]
    is_free = any(leaf is not None for leaf in pytree.tree_leaves(shapes))
    named = _by_name(model, args, kwargs, shapes) if is_free else None
    sizes_from_zero = symbolic_sizes.patch(backed_size_oblivious=from_zero)  # type: ignore[attr-defined]
    with evaluating(model), torch.no_grad(), _quiet(), sizes_from_zero, KnownNumbers(model) as numbers, PoolsAsPlanes():
        program = torch.export.export(model, args, kwargs, dynamic_shapes=named, strict=False)
    restore_pools(program)
    if numbers.changing:
        raise FoldError(f"forward reads the number in `{numbers.changing[0]}` and writes to it, so that each call is another function")
    return program


def _by_name(model: torch.nn.Module, args: Any, kwargs: Any, shapes: list[Any]) -> dict[str, Any]:
    """The shapes in the structure that forward's signature gives the inputs: `*args` are one tuple there, `**kwargs` one dict."""
    by_keyword = dict(zip(kwargs, shapes[len(args) :], strict=True))
    return inspect.signature(model.forward).bind(*shapes[: len(args)], **by_keyword).arguments


def is_single(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == 1


def doubled_leaf(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if is_single(leaf) else leaf


def user_inputs(program: ExportedProgram) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that a caller gives, by name, as they were traced."""
    names = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names and isinstance(node.meta.get("val"), torch.Tensor):
            yield node.name, node.meta["val"]


def _froze_batch(program: ExportedProgram) -> bool:
    return any(value.ndim > 0 and fixed(value.shape[0]) is not None for _, value in user_inputs(program))


def _takes(
    program: ExportedProgram, notes: Sequence[str], model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether inputs meet the conditions that were noted of others, of a doubled batch; torch itself excludes a single one in any case."""
    leaves = zip(_input_names(program), pytree.tree_leaves((args, dict(kwargs))), strict=True)
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves if isinstance(leaf, torch.Tensor)}
    noted = _conditions(program, notes, _paths(model, args, kwargs), args, kwargs)
    return all(one.holds_at(shapes) for one in noted if not _is_more_than_one(one))


def _input_names(program: ExportedProgram) -> list[str]:
    return [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]


def _paths(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """How torch calls each leaf of the inputs: `L['x']`, `L['xs'][0]`, in order."""
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    numbered_args, numbered_kwargs = pytree.tree_unflatten(list(range(len(leaves))), spec)
    named = inspect.signature(model.forward).bind(*numbered_args, **numbered_kwargs).arguments
    kinds = inspect.signature(model.forward).parameters
    paths = [""] * len(leaves)
    for name, value in named.items():
        prefix = "L" if kinds[name].kind is inspect.Parameter.VAR_KEYWORD else f"L['{name}']"
        for path, number in pytree.tree_flatten_with_path(value)[0]:
            paths[number] = prefix + pytree.keystr(path)
    return paths


def _conditions(
    program: ExportedProgram, notes: Sequence[str], paths: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[Condition]:
    """All that the trace takes for granted of sizes: those that are not free, the range of those that are, and what torch notes of them.

    What the model asked may lead to another question on the other path, so that all notes are kept; of what tracing took for granted by
    itself, that a size is not 0 or 1, trials tell. A note that cannot be read holds each size that it speaks of to that of the example.
    """
    inputs = dict(zip(paths, _input_names(program), strict=True))
    leaves = dict(zip(_input_names(program), pytree.tree_leaves((args, dict(kwargs))), strict=True))
    found = dict.fromkeys(_ranges(program))
    for source in notes:
        condition = read_condition(source, inputs)
        if condition is not None:
            found.setdefault(condition)
            continue
        places = places_in(source, inputs) or [(name, axis) for name, x in user_inputs(program) for axis in range(x.ndim)]
        found.update({fixed_size(name, axis, int(leaves[name].shape[axis])): None for name, axis in places})
    yield from (condition for condition in found if not is_trivial(condition))


def _ranges(program: ExportedProgram) -> Iterator[Condition]:
    """Sizes that are not free, and the ends of those that are."""
    bounds = {str(symbol): interval for symbol, interval in program.range_constraints.items()}
    for name, value in user_inputs(program):
        for axis, size in enumerate(shape_of(value)):
            if size is not None:
                yield fixed_size(name, axis, size)
                continue
            interval = bounds.get(str(value.shape[axis]))
            least, most = (2, math.inf) if interval is None else (int(interval.lower), float(interval.upper))
            if least > 0:
                yield replace(more_than(name, axis, least - 1), is_assumed=True)
            if most < 2**31:
                yield at_most(name, axis, int(most))


def _is_more_than_one(condition: Condition) -> bool:
    """Whether a condition is that one size is not 1, or not 0 and not 1."""
    (act, *rest) = condition.tree if isinstance(condition.tree, tuple) else (None,)
    return len(condition.places) == 1 and (act, *rest[1:]) in ((operator.gt, 1), (operator.ge, 2), (operator.ne, 1))


def describe(leaf: Any) -> str:
    """Sizes and dtype of a tensor, the type of anything else."""
    if isinstance(leaf, torch.Tensor):
        return f"{' x '.join(map(str, leaf.shape)) or 'scalar'} {str(leaf.dtype).removeprefix('torch.')}"
    return type(leaf).__name__


def one_line(error: BaseException) -> str:
    """The first line of an error that says something, with its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _where(model: torch.nn.Module, error: BaseException) -> str:
    """The deepest module of the model whose code was running when the error was raised."""
    names = {id(module): name for name, module in model.named_modules() if name}
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = names.get(id(frame.f_locals.get("self")))
        found = name or found
    return f" (in module `{found}`)" if found else ""
