"""A network as a file of another program, exported with some axes free: a draft, to be tried beside the original."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from refold.dialects.aten._conditions import Place
from refold.dialects.aten._guard import SizeGuard
from refold.dialects.aten._onnx_pools import restore_onnx_pools
from refold.dialects.aten._pools import PoolsAsPlanes
from refold.dialects.aten._trace import copies, doubled_leaf, export_with, is_single, user_inputs
from refold.dialects.aten._tries import Example, Group, groups_of

Open: TypeAlias = "Callable[[Path], Callable[[Sequence[Any]], list[Any]]]"
"""Opens a file in a runtime: gives a function from arrays, in the order of the inputs, to the outputs."""


@dataclass(frozen=True)
class ExportedDraft:
    """An exported program as torch wrote it, and as it is read back."""

    program: ExportedProgram
    module: torch.nn.Module
    groups: tuple[Group, ...]

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Its outputs, by torch."""
        own_args, own_kwargs = copies(args, kwargs)
        with torch.no_grad():
            return tensors(self.module(*own_args, **own_kwargs))


@dataclass(frozen=True)
class OnnxDraft:
    """An ONNX file that was written; `program` is what torch made for it."""

    program: Any
    opened: Callable[[Sequence[Any]], list[Any]]
    groups: tuple[Group, ...]

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Its outputs, by the runtime that opened it."""
        return [torch.as_tensor(one) for one in self.opened([one.numpy() for one in tensors((args, dict(kwargs)))])]


def tensors(values: Any) -> list[torch.Tensor]:
    """The tensors of inputs or outputs, in order."""
    return [leaf.detach().cpu() for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def exported_draft(model: torch.nn.Module, example: Example, is_free: Callable[[Place], bool], path: Path) -> ExportedDraft:
    """A `.pt2` that leaves these axes free, as far as torch can."""
    program = _exported(model, example, is_free)
    with path.open("wb") as file:  # by its path, torch would abort the process where the disk is full
        torch.export.save(program, file)
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return ExportedDraft(program, module, _groups(program, example))


def onnx_draft(model: torch.nn.Module, example: Example, is_free: Callable[[Place], bool], path: Path, open_file: Open) -> OnnxDraft:
    """An ONNX file that leaves these axes free, as far as torch can."""
    program = _exported(without_guard(model), example, is_free)
    made = onnx_program(program)
    made.save(str(path), external_data=False)
    return OnnxDraft(made, open_file(path), _groups(program, example))


def onnx_program(program: ExportedProgram) -> Any:
    """What torch's exporter makes of a program, with every fixed size as a number: torch names it after itself, as '3'."""
    with _silent(), PoolsAsPlanes():
        made = torch.onnx.export(program, (), dynamo=True, verbose=False)
    assert made is not None
    restore_onnx_pools(made.model)
    for value in _values(made.model):
        for axis, size in enumerate(value.shape or ()):
            name = getattr(size, "value", None)
            if isinstance(name, str) and name.isdigit():
                value.shape[axis] = int(name)
    return made


def without_guard(model: torch.nn.Module) -> torch.nn.Module:
    """A folded network without the check of its inputs, which an ONNX file has no room for."""
    if not isinstance(model, fx.GraphModule):
        return model
    bare = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in model.graph.nodes:
        if not (node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), SizeGuard)):
            nodes[node] = bare.node_copy(node, lambda one: nodes[one])
    bare.set_codegen(model.graph._codegen)
    return fx.GraphModule(model, bare).eval()


def _exported(model: torch.nn.Module, example: Example, is_free: Callable[[Place], bool]) -> ExportedProgram:
    """The first export that goes through; a free batch of one is doubled, since tracing would fix it."""
    names = example.names
    given = example.args, dict(example.kwargs)
    single = [name for name, leaf in example.leaves.items() if is_single(leaf) and is_free((name, 0))]
    first: Exception | None = None
    for doubled in (True, False) if single else (False,):
        args, kwargs = pytree.tree_map(doubled_leaf, given) if doubled else given
        for from_zero in (True, False):
            try:
                program = export_with(model, args, kwargs, lambda number, axis: is_free((names[number], axis)), from_zero)
            except Exception as error:
                first = first or error
                continue
            if not doubled or _fits(program, example):
                return program
    assert first is not None
    raise first


def _fits(program: ExportedProgram, example: Example) -> bool:
    """Whether a program that was traced with a doubled batch takes the example itself."""
    sizes = example.sizes
    traced = {name: value.shape for name, value in zip(example.tensors, (value for _, value in user_inputs(program)), strict=True)}
    return all(not isinstance(size, int) or size == sizes[name, axis] for name, shape in traced.items() for axis, size in enumerate(shape))


def _groups(program: ExportedProgram, example: Example) -> tuple[Group, ...]:
    traced = {name: tuple(value.shape) for name, (_, value) in zip(example.tensors, user_inputs(program), strict=True)}
    return tuple(groups_of(traced, example.sizes))


def _values(model: Any) -> Iterator[Any]:
    for graph in (model.graph, *model.functions.values()):
        yield from graph.inputs
        for node in graph.all_nodes():
            yield from node.outputs


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch's exporter says on the way."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
