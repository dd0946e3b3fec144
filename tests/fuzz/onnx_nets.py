"""Draws random ONNX graphs: steps are proposed, run by the runtime on the example inputs, and kept where they run."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refold.runtime import OpenSession, scratch_file
from tests.fuzz import onnx_acts  # noqa: F401  (it fills the table, as `onnx_layers` does, which it reads)
from tests.fuzz.onnx_emit import NEWEST, ONNX_OPERATORS, OnnxDraft, single
from tests.fuzz.recipe import Draw, Input, Recipe, Step

LARGEST = 20_000
"""Items that a value may have."""
STEEPEST = 1e3
"""The largest number that a value may hold on the example inputs."""


def draw_onnx(seed: int, index: int) -> Recipe:
    """The graph of a seed and an index."""
    draw = Draw(f"onnx {seed} {index}")
    opset = draw.randint(7, NEWEST)
    inputs = _inputs(draw)
    labels = sorted({label for one in inputs for label in one.labels})
    options: dict[str, Any] = {
        "opset": opset,
        "constants": draw.one("initializer", "initializer", "node", "mixed"),
        "listed": draw.chance(0.15),
        "nameless": draw.chance(0.2),
        "unnamed": draw.chance(0.2),
        "example": draw.chance(0.5),
        "free": [label for label in labels if draw.chance(0.1 if label == "c" else 0.6)],
    }
    recipe = Recipe("onnx", draw.randrange(2**31), inputs, (), (), options)
    draft = OnnxDraft(draw, opset, list(feeds(recipe, 0).values()), [])
    names, weights = list(ONNX_OPERATORS), [one.weight for one in ONNX_OPERATORS.values()]
    wanted = draw.one(3, 4, 5, 6, 6, 7, 8, 9, 10, 12)
    for _ in range(5 * wanted):
        if len(draft.steps) >= wanted:
            break
        _grow(draft, recipe, draw.choices(names, weights)[0])
    first = len(inputs)
    outputs = [first + len(draft.steps) - 1 if draft.steps else 0]
    if draw.chance(0.25) and draft.steps:
        outputs.append(draw.randrange(first, first + len(draft.steps)))
    options["ranks"] = draw.chance(0.7)
    result = replace(recipe, steps=tuple(draft.steps), outputs=tuple(outputs))
    return result if draw.chance(0.2) else result.live()


def feeds(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Inputs of the recipe's shapes, by name."""
    random = np.random.default_rng(seed)
    made = {}
    for number, one in enumerate(recipe.inputs):
        drawn = random.integers(0, 16, one.shape) if one.dtype == "int64" else random.standard_normal(one.shape)
        made[f"x{number}"] = drawn.astype(one.dtype)
    return made


def branches_onnx(recipe: Recipe) -> bool:
    """Whether a step takes another path at another size."""
    return any(ONNX_OPERATORS[step.operator].branches for step in recipe.steps)


def session(model: bytes) -> OpenSession:
    """A model in the runtime, its optimizations off, in a process of its own: ONNX Runtime dies of a few graphs."""
    path = scratch_file(".onnx")
    path.write_bytes(model)
    opened = OpenSession(path, level="ORT_DISABLE_ALL")
    weakref.finalize(opened, path.unlink, missing_ok=True)
    return opened


def _inputs(draw: Draw) -> tuple[Input, ...]:
    dtype = draw.one(*["float32"] * 12, "float64", "float16")
    rank = draw.one(2, 3, 3, 4, 4, 4, 4, 4, 5)
    shape = (draw.one(1, 1, 2, 3), draw.one(1, 2, 3, 4, 6, 8), *[draw.randint(5, 6 if rank == 5 else 12) for _ in range(rank - 2)])
    labels = ("n", "c", "t", "h", "w")[:rank]
    inputs = [Input(dtype, shape, labels)]
    while len(inputs) < 3 and draw.chance(0.15):
        match draw.one("same", "same", "other", "tokens"):
            case "same":
                inputs.append(inputs[0])
            case "tokens":
                inputs.append(Input("int64", (shape[0], draw.randint(4, 8)), ("n", "tokens")))
            case _:
                inputs.append(Input(dtype, (shape[0], draw.one(2, 4), draw.randint(4, 8)), ("n", "d", "l")))
    return tuple(inputs)


def _grow(draft: OnnxDraft, recipe: Recipe, name: str) -> None:
    """One more step, if what is proposed runs."""
    table = ONNX_OPERATORS[name]
    proposal = table.propose(draft) if table.since <= draft.opset else None
    if proposal is None:
        return
    step = Step(name, tuple(proposal[0]), proposal[1])
    try:
        given: Mapping[str, Any] = {f"x{number}": draft.values[one] for number, one in enumerate(step.reads)}
        (result,) = session(single(recipe, step, draft.values).SerializeToString()).run(None, given)
    except Exception:  # whatever the runtime or the writing of a node raises
        return
    if not isinstance(result, np.ndarray) or not 0 < result.size <= LARGEST or result.ndim > 6:
        return
    if result.dtype.kind == "f" and not (np.isfinite(result).all() and float(np.abs(result).max()) < STEEPEST):
        return
    draft.values.append(result)
    draft.steps.append(replace(step, attributes={**step.attributes, "gives": [str(result.dtype), result.ndim]}))
