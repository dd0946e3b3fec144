"""Runs the original nodes of a region, and the nodes that replace them, in float64 on random input; and whole programs in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from refold.dialects.aten._constants import Constants, evaluate, widened
from refold.dialects.aten._sizes import example, shape_of
from refold.dialects.aten._write import Written
from refold.graph import Graph
from refold.maps import Moved, Scalar, as_moved
from refold.plan import Fold
from refold.verification import RegionEvidence, does_not_run

Sized = Mapping[str, tuple[int, ...]]


def region_evidence(
    program: ExportedProgram, constants: Constants, graph: Graph, folds: Sequence[Fold], written: Written, seed: int
) -> Iterator[RegionEvidence]:
    """Each fold, run both ways.

    The sizes are the smallest at which every border case occurs, or those of the example where the original region does not run there.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    order = {name: position for position, name in enumerate(nodes)}
    for fold in folds:
        generator = torch.Generator().manual_seed(seed)
        region = _region(nodes[fold.value], fold, constants, order)
        dtype = nodes[fold.value].meta["val"].dtype
        rounding = torch.finfo(dtype).eps / 2
        examples = {root: tuple(example(size) for size in nodes[root].meta["val"].shape) for root in fold.form}
        sized = any(_hint(node) is not None for node in region) or any(isinstance(mapped, Moved) for mapped in fold.form.values())
        for shapes in [examples] if sized else [_small_shapes(graph, fold), examples]:
            try:
                inputs = {
                    root: torch.randn(shape, dtype=torch.float64, generator=generator).to(nodes[root].meta["val"].device)
                    for root, shape in shapes.items()
                }
                original, peak = _run_original(region, inputs, constants)
            except (RuntimeError, ValueError):
                if shapes == examples:
                    raise
                continue
            try:
                folded = _run_folded(written, fold, inputs)
                magnitude = _run_folded(written, fold, inputs, absolute=True)
            except (RuntimeError, ValueError) as error:
                if shapes == examples:
                    raise does_not_run(written.names[fold.value], error) from error
                continue
            if original.shape == folded.shape:
                break
        length = sum(as_moved(mapped).longest + 1 for mapped in fold.form.values())
        length = max(length, *(_longest(nodes[node.output]) for node in fold.nodes)) + len(fold.nodes)
        yield RegionEvidence(
            written.names[fold.value], tuple(node.operation for node in fold.nodes), original, folded, magnitude, peak, length, rounding
        )


def _region(end: fx.Node, fold: Fold, constants: Constants, order: Mapping[str, int]) -> list[fx.Node]:
    """The nodes from the roots to the value, in order."""
    found: dict[str, fx.Node] = {}
    stack = [end]
    while stack:
        node = stack.pop()
        if node.name in found or node in constants or (node.name in fold.form and node is not end):
            continue
        found[node.name] = node
        if _hint(node) is None:
            stack.extend(node.all_input_nodes)
    return sorted(found.values(), key=lambda node: order[node.name])


def _hint(node: fx.Node) -> int | None:
    """The number that a size of the graph was in the example, or None for anything else."""
    value = node.meta.get("val")
    return example(value) if isinstance(value, torch.SymInt) else None


def _run_original(region: Sequence[fx.Node], inputs: Mapping[str, torch.Tensor], constants: Constants) -> tuple[torch.Tensor, float]:
    values: dict[str, Any] = dict(inputs)
    peak = max(float(tensor.abs().max()) for tensor in inputs.values())
    for node in region:
        hint = _hint(node)
        if hint is not None:
            values[node.name] = hint
            continue
        values[node.name] = evaluate(node, lambda one: values[one.name] if one.name in values else widened(constants.value(one)))
        result = values[node.name]
        if isinstance(result, torch.Tensor) and result.numel():
            peak = max(peak, float(result.abs().max()))
    result = values[region[-1].name]
    assert isinstance(result, torch.Tensor)
    return result, peak


def _run_folded(written: Written, fold: Fold, inputs: Mapping[str, torch.Tensor], *, absolute: bool = False) -> torch.Tensor:
    """The nodes of a fold in float64; `absolute` takes every number by its size, and a weight by that which its rounding is measured by."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.abs() if absolute else tensor

    def weight(stored: torch.Tensor) -> torch.Tensor:
        wide = stored.detach().double()
        # What lies below the smallest normal number of a dtype is rounded as that number is.
        return wide.abs() + torch.finfo(stored.dtype).tiny if absolute else wide

    values: dict[str, Any] = {written.sources[root].name: change(tensor) for root, tensor in inputs.items()}
    module = written.module
    for node in written.emitted[fold.value]:
        match node.op:
            case "get_attr":
                values[node.name] = weight(_fetch(module, str(node.target)))
            case "call_module":
                layer = module.get_submodule(str(node.target))
                weights = {name: weight(tensor) for name, tensor in layer.named_parameters()}
                (x,) = node.args
                assert isinstance(x, fx.Node)
                with torch.no_grad():
                    values[node.name] = torch.func.functional_call(layer, weights, (values[x.name],))
            case _:
                read = lambda one: values[one.name] if one.name in values else _hint(one)  # noqa: E731
                changed = fx.node.map_aggregate(node.args, lambda arg: float(change(torch.tensor(arg))) if isinstance(arg, float) else arg)
                values[node.name] = node.target(*fx.node.map_arg(changed, read))  # type: ignore[operator]
    result = values[written.emitted[fold.value][-1].name]
    assert isinstance(result, torch.Tensor)
    return result


def _fetch(module: torch.nn.Module, path: str) -> torch.Tensor:
    folder, _, name = path.rpartition(".")
    tensor = getattr(module.get_submodule(folder), name)
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _small_shapes(graph: Graph, fold: Fold) -> dict[str, tuple[int, ...]]:
    """Shapes of the roots at the smallest output with both borders and a middle, congruent to the example's sizes modulo the strides."""
    output = graph.values[fold.value].example
    stencils = [mapped.stencil for mapped in fold.form.values() if not isinstance(mapped, Scalar)]
    rank = stencils[0].rank if stencils else 0
    leads = tuple(min(size, 2) for size in output[: len(output) - rank - 1])
    wanted = []
    for axis in range(rank):
        windows = [stencil.windows[axis] for stencil in stencils]
        borders = max(math.ceil(max(0, w.before) / w.stride) + math.ceil(max(0, w.after) / w.stride) for w in windows)
        reach = max(w.upsample + w.span // w.stride for w in windows)
        wanted.append(min(output[len(output) - rank + axis], borders + reach + 2))
    shapes = {}
    for root, mapped in fold.form.items():
        example = graph.values[root].example
        if isinstance(mapped, Scalar):
            shapes[root] = (*leads, *example[len(leads) : len(example) - rank], *wanted)
            continue
        sizes = []
        for axis, window in enumerate(mapped.stencil.windows):
            actual = example[len(example) - rank + axis]
            rest = (window.places(actual) + window.excess) % window.stride
            places = window.stride * (wanted[axis] - 1) - window.excess + rest
            sizes.append(max(1, min(actual, (places - 1) // window.upsample + 1)))
        shapes[root] = (*leads, mapped.stencil.in_channels, *sizes)
    return shapes


def _longest(node: fx.Node) -> int:
    """The longest sum of an original node: the size of its largest constant over its output channels, or one."""
    sizes = [
        one.meta["val"].numel() // max(1, one.meta["val"].shape[0])
        for one in node.all_input_nodes
        if isinstance(one.meta.get("val"), torch.Tensor)
        and one.op == "placeholder"
        and one.meta["val"].ndim > 1
        and None not in shape_of(one.meta["val"])
    ]
    return max(sizes, default=1)
