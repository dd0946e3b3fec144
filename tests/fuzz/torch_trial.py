"""Folds one random torch network and compares it with the original at many sizes, on every axis."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import refold
from refold.errors import RefoldError, VerificationError
from tests.fuzz.judging import complaint, largest
from tests.fuzz.outcome import SIZES, Outcome, one_line
from tests.fuzz.recipe import Recipe
from tests.fuzz.sizes import sizes_of
from tests.fuzz.torch_nets import NUMBER, arrays, branches
from tests.fuzz.torch_network import FLOATS, Network, dtype_name, moved

MOVES = 3
"""Times that inputs are moved by one rounding."""
OTHER = 2.5
"""Another number for an argument that is one."""
WORDS = ("but the network was traced for inputs where", "takes only inputs where")
"""What a refusal in words says."""


def try_torch(recipe: Recipe) -> Outcome:
    """What came of a network. Any exception of the original's at the example sizes makes it untraceable."""
    outcome = Outcome(branches=branches(recipe), operators=[step.operator for step in recipe.steps])
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            model = Network(recipe).eval()
            model(*arrays(recipe, 0))
        except Exception as error:  # whatever a drawn network raises
            outcome.category, outcome.text = "untraceable", f"the original does not run: {one_line(error)}"
            return outcome
        _judge(recipe, model, outcome)
    return outcome


def _judge(recipe: Recipe, model: Network, outcome: Outcome) -> None:
    example = arrays(recipe, 0)
    try:
        result = refold.fold(model, example)
    except RefoldError as error:
        outcome.text = one_line(error)
        if isinstance(error, VerificationError) or "does not run" in str(error):
            outcome.category = _whose_fault(recipe, model)
        else:
            outcome.category = "refused" if _exports(model, example) else "untraceable"
        return
    except Exception as error:
        outcome.category, outcome.text = "crash", f"{type(error).__name__}: {one_line(error)}"
        return
    outcome.folds = len(result.report.folds)
    compare(recipe, model, result.model, outcome)


def _whose_fault(recipe: Recipe, model: Network) -> str:
    """Whether a fold that the proof refused is right."""
    try:
        folded = refold.fold(model, arrays(recipe, 0), verify=False).model
    except Exception:
        return "crash"
    found = Outcome()
    compare(recipe, model, folded, found)
    return "prover" if found.category == "same" else "caught"


def _exports(model: Network, example: tuple[Any, ...]) -> bool:
    try:
        torch.export.export(model, example, strict=False)
    except Exception:
        return False
    return True


def compare(recipe: Recipe, model: torch.nn.Module, folded: torch.nn.Module, outcome: Outcome) -> None:
    """Run both at many sizes, and enter what was found."""
    scales: list[float] = []  # of the example, which comes first
    for number, (sized, apart) in enumerate(sizes_of(recipe)):
        if outcome.sizes == SIZES:
            break
        inputs = arrays(sized, number)
        try:
            original = _run(model, inputs)
        except Exception:  # whatever a network raises at a size that it does not take
            continue
        if not all(np.isfinite(one).all() for one, _ in original if one.dtype.kind == "f"):
            continue
        outcome.sizes += 1
        shapes = ", ".join("x".join(map(str, one.shape)) or "number" for one in sized.inputs)
        try:
            theirs = _run(folded, inputs)
        except Exception as error:
            worded = isinstance(error, ValueError) and any(words in str(error) for words in WORDS)
            outcome.refuse(f"{shapes}: {type(error).__name__}: {one_line(error)}", apart=apart, in_words=worded)
            if number == 0:
                outcome.category, outcome.text = "wrong", f"the folded network does not run on the example: {one_line(error)}"
                return
            continue
        scales = scales or [largest(one) for one, _ in original]
        told = _complaint(sized, model, inputs, original, theirs, scales)
        if told is not None:
            outcome.category, outcome.text = "wrong", f"at {shapes}: {told}"
            return
    if any(one.dtype == "number" for one in recipe.inputs):
        _compare_other_number(recipe, model, folded, outcome)


def _compare_other_number(recipe: Recipe, model: torch.nn.Module, folded: torch.nn.Module, outcome: Outcome) -> None:
    """Another number for an argument that became part of the network: it gives the same as the original, or says so in words."""
    inputs = arrays(recipe, 0, number=OTHER)
    try:
        theirs = _run(folded, inputs)
    except ValueError as error:
        if not any(words in str(error) for words in WORDS):
            outcome.category, outcome.text = "crash", f"with {OTHER}: ValueError: {one_line(error)}"
        return
    original = _run(model, inputs)
    told = _complaint(recipe, model, inputs, original, theirs, [largest(one) for one, _ in original])
    if told is not None:
        outcome.category, outcome.text = "wrong", f"with {OTHER} for {NUMBER}: {told}"


def _complaint(
    recipe: Recipe, model: torch.nn.Module, inputs: tuple[Any, ...], original: Any, theirs: Any, scales: list[float]
) -> str | None:
    def truths() -> list[Any] | None:
        try:
            wide = Network(recipe, wide=True).eval()
            return [one for one, _ in _run(wide, tuple(_widened(one) for one in inputs))]
        except Exception:  # an operator that does not take float64
            return None

    def noise() -> list[float]:
        moves = [0.0] * len(original)
        for number in range(MOVES):
            generator = torch.Generator().manual_seed(number)
            again = _rounded(recipe, model, inputs, generator)
            moves = [max(known, _distance(mine, other)) for known, (mine, _), (other, _) in zip(moves, original, again, strict=True)]
        return moves

    length = sum(_fan_in(one) for one in model.parameters()) + 4 * len(recipe.steps)
    mine, folded = [one for one, _ in original], [one for one, _ in theirs]
    dtypes = [dtype for _, dtype in original]
    if dtypes != [dtype for _, dtype in theirs]:
        return f"dtypes {[dtype for _, dtype in theirs]} instead of {dtypes}"
    coarse = {
        *dtypes,
        *(step.attributes["dtype"] for step in recipe.steps if step.operator == "cast"),
        *(one.dtype for one in recipe.inputs),
    }
    worst = max(coarse & set(FLOATS), key=lambda name: torch.finfo(FLOATS[name]).eps, default="float32")
    dtypes = [worst if dtype in FLOATS else dtype for dtype in dtypes]
    return complaint(mine, folded, dtypes, length, truths, noise, scales)


def _rounded(recipe: Recipe, model: torch.nn.Module, inputs: tuple[Any, ...], generator: torch.Generator) -> list[tuple[Any, str]]:
    """What the original gives where its inputs are a rounding off, and so is all that its steps make.

    What cancels later may be large in between, so that inputs alone show too little. Where a step writes in place they alone are moved:
    what is moved is another tensor, which the step would no longer write to.
    """
    if isinstance(model, Network) and not any(step.operator.endswith("_") for step in recipe.steps):
        model.roundings = generator
    try:
        return _run(model, tuple(moved(one, generator) for one in inputs))
    finally:
        if isinstance(model, Network):
            model.roundings = None


def _run(model: torch.nn.Module, inputs: tuple[Any, ...]) -> list[tuple[Any, str]]:
    """The outputs as arrays, with their dtypes."""
    with torch.no_grad():
        leaves = pytree.tree_leaves(model(*[one.clone() if isinstance(one, Tensor) else one for one in inputs]))
    return [
        (one.double().numpy() if one.is_floating_point() else one.numpy(), dtype_name(one)) for one in leaves if isinstance(one, Tensor)
    ]


def _widened(one: Any) -> Any:
    return one.double() if isinstance(one, Tensor) and one.is_floating_point() else one


def _distance(one: Any, other: Any) -> float:
    if one.dtype.kind != "f" or one.shape != other.shape:
        return 0.0
    return float(np.nan_to_num(np.abs(one - other), posinf=0.0).max(initial=0.0))


def _fan_in(parameter: Tensor) -> int:
    return parameter[0].numel() if parameter.ndim > 1 and parameter.shape[0] else 1
