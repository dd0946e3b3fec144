"""Folds one random ONNX graph, writes it, and compares the file with the original at many sizes of every free axis."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

import refold
from refold.errors import RefoldError, VerificationError
from tests.fuzz.judging import complaint, largest
from tests.fuzz.onnx_emit import model_of
from tests.fuzz.onnx_nets import branches_onnx, feeds, session
from tests.fuzz.outcome import SIZES, Outcome, one_line
from tests.fuzz.recipe import Recipe
from tests.fuzz.sizes import sizes_of

MOVES = 3
"""Times that inputs are moved by one rounding."""


def try_onnx(recipe: Recipe) -> Outcome:
    """What came of a graph. One that the runtime does not run at the example sizes is untraceable."""
    outcome = Outcome(branches=branches_onnx(recipe), operators=[step.operator for step in recipe.steps])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            model = model_of(recipe)
            original = session(model.SerializeToString())
            original.run(None, feeds(recipe, 0))
        except Exception as error:  # whatever the runtime raises of a drawn graph
            outcome.category, outcome.text = "untraceable", f"the original does not run: {one_line(error)}"
            return outcome
        _judge(recipe, model, original, outcome)
    return outcome


def _judge(recipe: Recipe, model: onnx.ModelProto, original: Any, outcome: Outcome) -> None:
    try:
        result = refold.fold(model, feeds(recipe, 0) if recipe.options.get("example") else None)
    except RefoldError as error:
        outcome.text = one_line(error)
        ran = isinstance(error, VerificationError) or "does not run" in str(error)
        outcome.category = _whose_fault(recipe, model, original) if ran else "refused"
        return
    except Exception as error:
        outcome.category, outcome.text = "crash", f"{type(error).__name__}: {one_line(error)}"
        return
    outcome.folds = len(result.report.folds)
    try:
        folded = _written(result)
    except Exception as error:
        outcome.category, outcome.text = "crash", f"while it is written: {type(error).__name__}: {one_line(error)}"
        return
    compare_onnx(recipe, original, folded, outcome)


def _whose_fault(recipe: Recipe, model: onnx.ModelProto, original: Any) -> str:
    """Whether a fold that the proof refused is right."""
    try:
        folded = _written(refold.fold(model, verify=False))
    except Exception:
        return "crash"
    found = Outcome()
    compare_onnx(recipe, original, folded, found)
    return "prover" if found.category == "same" else "caught"


def _written(result: Any) -> bytes:
    """The file that is written, read again."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(result.save(Path(folder) / "folded.onnx")).read_bytes()


def compare_onnx(recipe: Recipe, original: Any, written: bytes, outcome: Outcome) -> None:
    """Run both at many sizes, and enter what was found."""
    try:
        folded = session(written)
    except Exception as error:
        outcome.category, outcome.text = "wrong", f"the runtime does not load the folded file: {one_line(error)}"
        return
    scales: list[float] = []  # of the example, which comes first
    for number, (sized, apart) in enumerate(sizes_of(recipe)):
        if outcome.sizes == SIZES:
            break
        if any(0 in one.shape for one in sized.inputs):  # ONNX Runtime itself dies of many an operator on no items
            continue
        given = feeds(sized, number)
        try:
            mine = original.run(None, given)
        except Exception:  # a size that the original does not take
            continue
        if not all(np.isfinite(one).all() for one in mine if one.dtype.kind == "f"):
            continue
        outcome.sizes += 1
        shapes = ", ".join("x".join(map(str, one.shape)) for one in sized.inputs)
        try:
            theirs = folded.run(None, given)
        except Exception as error:
            outcome.refuse(f"{shapes}: {one_line(error)}", apart=apart, in_words="Got invalid dimensions for input" in str(error))
            if number == 0:
                outcome.category, outcome.text = "wrong", f"the folded file does not run on the example: {one_line(error)}"
                return
            continue
        scales = scales or [largest(one) for one in mine]
        told = _complaint(sized, original, given, mine, theirs, scales)
        if told is not None:
            outcome.category, outcome.text = "wrong", f"at {shapes}: {told}"
            return


def _complaint(
    recipe: Recipe, original: Any, given: dict[str, Any], mine: Sequence[Any], theirs: Sequence[Any], scales: Sequence[float]
) -> str | None:
    def truths() -> list[Any] | None:
        wide = model_of(recipe, wide=True)
        given64 = {name: one.astype(np.float64) if one.dtype.kind == "f" else one for name, one in given.items()}
        runtimes: tuple[Callable[[], Any], ...] = (
            lambda: session(wide.SerializeToString()).run(None, given64),
            lambda: ReferenceEvaluator(wide).run(None, given64),
        )
        for run in runtimes:
            try:
                return list(run())
            except Exception:  # an operator that this runtime does not have in float64
                continue
        return None

    def noise() -> list[float]:
        moves = [0.0] * len(mine)
        for number in range(MOVES):
            random = np.random.default_rng(number)
            again = original.run(None, {name: _moved(one, random) for name, one in given.items()})
            moves = [max(known, _distance(one, other)) for known, one, other in zip(moves, mine, again, strict=True)]
        return moves

    dtypes = [str(one.dtype) for one in mine]
    if dtypes != [str(one.dtype) for one in theirs]:
        return f"dtypes {[str(one.dtype) for one in theirs]} instead of {dtypes}"
    wide = [[one.astype(np.float64) if one.dtype.kind == "f" else one for one in side] for side in (mine, theirs)]
    length = sum(int(np.prod(step.attributes["shape"][1:])) for step in recipe.steps if "shape" in step.attributes) + 4 * len(recipe.steps)
    return complaint(wide[0], wide[1], dtypes, length, truths, noise, scales)


def _moved(one: Any, random: np.random.Generator) -> Any:
    if one.dtype.kind != "f":
        return one
    signs = random.integers(0, 2, one.shape).astype(one.dtype) * 2 - 1
    return one * (1 + signs * np.finfo(one.dtype).eps)


def _distance(one: Any, other: Any) -> float:
    if one.dtype.kind != "f" or one.shape != other.shape:
        return 0.0
    return float(np.nan_to_num(np.abs(one.astype(np.float64) - other.astype(np.float64)), posinf=0.0).max(initial=0.0))
