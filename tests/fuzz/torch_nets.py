"""Draws random torch networks: steps are proposed, run on the example inputs, and kept where they run."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.fuzz import torch_acts, torch_sizes  # noqa: F401  (they fill the table)
from tests.fuzz.recipe import Draw, Input, Recipe, Step
from tests.fuzz.torch_network import DTYPES, OPERATORS, Draft, Network

LARGEST = 20_000
"""Items that a value may have."""
STEEPEST = 1e3
"""The largest number that a value may hold on the example inputs."""


def draw_torch(seed: int, index: int) -> Recipe:
    """The network of a seed and an index."""
    draw = Draw(f"torch {seed} {index}")
    recipe = Recipe("torch", draw.randrange(2**31), _inputs(draw), (), (), {})
    network = Network(recipe)
    draft = Draft(draw, network, list(arrays(recipe, 0)), [])
    names, weights = list(OPERATORS), [one.weight for one in OPERATORS.values()]
    wanted = draw.one(3, 4, 5, 6, 6, 7, 8, 9, 10, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(6 * wanted):
            if len(draft.steps) >= wanted:
                break
            _grow(draft, draw.choices(names, weights)[0])
    first = len(recipe.inputs)
    outputs = [first + len(draft.steps) - 1 if draft.steps else 0]
    if draw.chance(0.25) and draft.steps:
        outputs.append(draw.randrange(first, first + len(draft.steps)))
    how = draw.one("tensor", "tuple", "dict") if len(outputs) > 1 else draw.one("tensor", "tensor", "tensor", "dict")
    result = replace(recipe, steps=tuple(draft.steps), outputs=tuple(outputs), options={"outputs": how})
    return result if draw.chance(0.1) else result.live()


NUMBER = 1.5
"""What an argument that is a number is in the example: folding makes it part of the network."""


def arrays(recipe: Recipe, seed: int, *, wide: bool = False, number: float = NUMBER) -> tuple[Any, ...]:
    """Inputs of the recipe's shapes."""
    generator = torch.Generator().manual_seed(seed)
    made: list[Any] = []
    for one in recipe.inputs:
        if one.dtype == "number":
            made.append(number)
        elif one.dtype == "int64":
            made.append(torch.randint(0, 16, one.shape, generator=generator))
        else:
            drawn = torch.randn(one.shape, generator=generator, dtype=torch.float64).to(DTYPES[one.dtype])
            made.append(drawn.double() if wide else drawn)
    return tuple(made)


def branches(recipe: Recipe) -> bool:
    """Whether a step takes another path at another size, or makes parts of which there are more or fewer."""
    return any(OPERATORS[step.operator].branches or step.attributes.get("how") == "split" for step in recipe.steps)


def _inputs(draw: Draw) -> tuple[Input, ...]:
    dtype = draw.one(*["float32"] * 14, "float64", "float64", "float16", "bfloat16")
    rank = draw.one(2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 5)
    shape = (draw.one(1, 1, 2, 3), draw.one(1, 2, 3, 4, 6, 8), *[draw.randint(4, 6 if rank == 5 else 13) for _ in range(rank - 2)])
    if rank > 3 and draw.chance(0.6):
        shape = (*shape[:2], *[shape[2]] * (rank - 2))
    labels = ("n", "c", "t", "h", "w")[:rank]
    inputs = [Input(dtype, shape, labels)]
    while len(inputs) < 3 and draw.chance(0.2):
        match draw.one("same", "same", "other", "number", "tokens", "narrow"):
            case "same":
                inputs.append(inputs[0])
            case "narrow":
                inputs.append(Input(dtype, shape[:2] + (1,) * (rank - 2), (*labels[:2], *[f"one{i}" for i in range(rank - 2)])))
            case "number":
                inputs.append(Input("number", (), ()))
            case "tokens":
                inputs.append(Input("int64", (shape[0], draw.randint(4, 8)), ("n", "tokens")))
            case _:
                inputs.append(Input(dtype, (shape[0], draw.one(2, 4), draw.randint(4, 8)), ("n", "d", "l")))
    return tuple(inputs)


def _grow(draft: Draft, name: str) -> None:
    """One more step, if what is proposed runs."""
    table = OPERATORS[name]
    proposal = table.propose(draft)
    if proposal is None:
        return
    reads, attributes = proposal
    if draft.draw.chance(0.12) and "path" not in attributes:
        attributes = {**attributes, "within": draft.draw.one("block", "block.inner", "head")}
    step = Step(name, tuple(reads), attributes)
    kept = [value.clone() if isinstance(value, Tensor) else value for value in draft.values] if name == "write_" else None
    try:
        with torch.no_grad():
            draft.network.eval()
            draft.network.prepare(step)
            result = draft.network.eval().step(step, [draft.values[one] for one in reads])
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError):
        result = None
    if not _is_tame(result):
        if kept is not None:  # a write that failed half way: begin again from here
            _restore(draft, kept)
        return
    if kept is not None and not all(_is_tame(value) for value in draft.values if isinstance(value, Tensor) and value.is_floating_point()):
        _restore(draft, kept)
        return
    draft.values.append(result)
    draft.steps.append(step)


def _restore(draft: Draft, kept: list[Any]) -> None:
    with torch.no_grad():
        for value, before in zip(draft.values, kept, strict=True):
            if isinstance(value, Tensor):
                try:
                    value.copy_(before)
                except RuntimeError:  # an expanded value, which holds one number in several places
                    continue


def _is_tame(result: Any) -> bool:
    if not isinstance(result, Tensor) or not 0 < result.numel() <= LARGEST or result.ndim > 6:
        return False
    return not result.is_floating_point() or (bool(torch.isfinite(result).all()) and float(result.abs().max()) < STEEPEST)
