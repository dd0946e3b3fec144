"""Two PyTorch networks on the same inputs: each output of both, and the truth of the first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from refold.dialects.aten._constants import draws_at_random
from refold.dialects.aten._roundings import unit
from refold.dialects.aten._run import run_program
from refold.dialects.aten._trace import run
from refold.errors import FoldError
from refold.verification import FACTOR, SEED, OutputEvidence, coarsest

if TYPE_CHECKING:
    from refold.dialects.aten._model import AtenModel

Inputs: TypeAlias = "tuple[tuple[Any, ...], Mapping[str, Any]]"
"""Positional and keyword arguments of a network."""

MOVES = 4
"""Times that inputs are moved by a rounding; one alone may happen to move an output little."""


def compared(source: AtenModel, other: torch.nn.Module | ExportedProgram, inputs: Inputs | None = None) -> Iterator[OutputEvidence]:
    """Each output of a network and of another one, both as they ship, on the example inputs or on others like them."""
    inputs = (source.args, source.kwargs) if inputs is None else inputs
    original = pytree.tree_flatten_with_path(source.run_original(*inputs))[0]
    module: Any = other.module() if isinstance(other, ExportedProgram) else other
    folded = pytree.tree_leaves(run(module, *inputs))
    if len(folded) != len(original):
        raise FoldError(f"the two models give {len(original)} and {len(folded)} outputs; compare models that give the same")
    mine = [output for _, output in original]
    truths = _truths(source, inputs, mine, source.longest)
    runs = _own_runs(source, inputs, mine, folded, source.longest)
    names = [pytree.keystr(path) or "output" for path, _ in original]
    yield from output_evidence(names, mine, folded, source.longest, source.roundings, truths, runs)


def output_evidence(
    names: Sequence[str],
    original: Sequence[Any],
    folded: Sequence[Any],
    longest: int,
    roundings: Sequence[float],
    truths: Sequence[Any] | None = None,
    runs: Sequence[Sequence[Any]] = (),
) -> Iterator[OutputEvidence]:
    """Each output that is a tensor, with what is known of its truth and of what rounding alone makes of it.

    `roundings` are those of what is worked out on the way to each, which may be coarser than its own: an output that was cast to float64.
    """
    known = truths or [None] * len(folded)
    for name, mine, theirs, rounding, truth, *own in zip(names, original, folded, roundings, known, *runs, strict=True):
        if isinstance(mine, torch.Tensor):
            if mine.is_complex():
                mine, theirs, truth, *own = (None if one is None else torch.view_as_real(one) for one in (mine, theirs, truth, *own))
            others = tuple(one.detach() for one in own if one.shape == mine.shape)
            noise = max((_distance(mine, one) for one in others), default=0.0)
            yield OutputEvidence(name, mine.detach(), theirs.detach(), truth, coarsest(unit(mine), rounding), longest, noise, others)


def _truths(source: AtenModel, inputs: Inputs, outputs: Sequence[Any], length: int) -> list[Any] | None:
    """The outputs in float64; None where the program does not run there or draws random numbers, which differ there.

    None, too, where the program is not the model, which is seen where it lies as far from the outputs in their own dtype.
    """
    if any(draws_at_random(node) for node in source.traced.program.graph.nodes):
        return None
    flat = pytree.tree_leaves((inputs[0], dict(inputs[1])))
    try:
        truths = run_program(source.traced.program, flat, wide=True)
        if any(isinstance(mine, torch.Tensor) and mine.shape != truth.shape for mine, truth in zip(outputs, truths, strict=True)):
            return None  # bytes of numbers, of which float64 has more
        if not is_explained(outputs, truths, length):
            traced = run_program(source.traced.program, flat, wide=False)
            pairs = zip(outputs, truths, traced, strict=True)
            if any(_distance(mine, own) > _distance(mine, truth) / 2 > 0 for mine, truth, own in pairs):
                return None
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError):
        return None
    return truths


def is_explained(outputs: Sequence[Any], others: Sequence[Any], length: int) -> bool:
    """Whether outputs differ by no more than the roundings of sums of this length make."""
    explained = FACTOR * math.sqrt(max(1, length))
    return all(_distance(mine, other) <= explained * unit(mine) * _largest(mine) for mine, other in zip(outputs, others, strict=True))


def _own_runs(source: AtenModel, inputs: Inputs, outputs: Sequence[Any], folded: Sequence[Any], length: int) -> list[list[Any]]:
    """What the original gives where its inputs are one rounding off: how far that moves is what no fold can be held to undercut.

    Worked out only where two outputs differ by more than the roundings of sums of this length explain: a network that is ill-conditioned,
    or whose outputs are in an order that ties decide.
    """
    if is_explained(outputs, folded, length) and all(map(_are_equal, outputs, folded)):
        return []
    generator = torch.Generator().manual_seed(SEED)

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            return leaf
        signs = torch.randint(0, 2, leaf.shape, generator=generator).to(leaf.device, leaf.dtype) * 2 - 1
        return leaf * (1 + signs * torch.finfo(leaf.dtype).eps)

    runs: list[list[Any]] = []
    for _ in range(MOVES):
        try:
            runs.append(pytree.tree_leaves(source.run_original(*pytree.tree_map(moved, (inputs[0], dict(inputs[1]))))))
        except FoldError:  # what it takes is not for it to be moved, as a number that is looked up
            break
    return runs


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two outputs that hold no floating point numbers are alike; others may differ by roundings."""
    if not isinstance(one, torch.Tensor) or one.is_floating_point() or one.is_complex():
        return True
    return torch.equal(one, other)


def _distance(one: Any, other: Any) -> float:
    if not isinstance(one, torch.Tensor) or not one.is_floating_point() or one.shape != other.shape or one.numel() == 0:
        return 0.0
    return float((one.detach().double() - other.detach().double()).abs().nan_to_num(posinf=0.0).max())


def _largest(output: Any) -> float:
    return _distance(output, torch.zeros_like(output)) if isinstance(output, torch.Tensor) else 0.0
