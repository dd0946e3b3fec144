"""The fuzzer can object: networks that are wrong, that crash, that are refused, and folds that the proof blames for nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import refold
from refold.errors import FoldError, VerificationError
from tests.fuzz.judging import complaint
from tests.fuzz.onnx_emit import model_of
from tests.fuzz.onnx_nets import feeds, session
from tests.fuzz.onnx_trial import compare_onnx, try_onnx
from tests.fuzz.outcome import SIZES, Outcome
from tests.fuzz.recipe import Input, Recipe, Step
from tests.fuzz.running import drawn
from tests.fuzz.sizes import sizes_of
from tests.fuzz.torch_network import Network
from tests.fuzz.torch_trial import compare, try_torch

PLAIN = Recipe(
    "torch",
    7,
    (Input("float32", (2, 3, 6, 5), ("n", "c", "h", "w")),),
    (
        Step("unary", (0,), {"function": "relu"}),
        Step("number", (1,), {"act": "mul", "number": 3.0}),
        Step("compute_with_size", (2,), {"kind": "times", "axis": 2, "size": 6, "of": 2}),
    ),
    (3,),
)
GRAPH = Recipe(
    "onnx",
    7,
    (Input("float32", (2, 3, 6, 5), ("n", "c", "h", "w")),),
    (
        Step("Unary", (0,), {"function": "Relu", "dtype": "float32", "gives": ["float32", 4]}),
        Step("Unary", (1,), {"function": "Neg", "dtype": "float32", "gives": ["float32", 4]}),
    ),
    (2,),
    {"opset": 13, "free": ["n", "h", "w"]},
)


class Off(torch.nn.Module):
    """A network that is not another one where `when` says so of its output."""

    def __init__(self, network: torch.nn.Module, when: Any, change: Any) -> None:
        super().__init__()
        self.network, self.when, self.change = network, when, change

    def forward(self, *inputs: Any) -> Any:
        y = self.network(*inputs)
        return self.change(y) if self.when(inputs[0]) else y


@pytest.mark.parametrize(
    ("when", "change", "says"),
    [
        (lambda x: True, lambda y: y * (1 + 1e-5), "is off by"),
        (lambda x: x.shape[0] == 1, lambda y: y + 1, "at 1x"),
        (lambda x: x.shape[3] > 5, lambda y: -y, "is off by"),
        (lambda x: x.shape[1] != 3, lambda y: y[:, :1], "instead of"),
        (lambda x: True, lambda y: y.double(), "float64"),
        (lambda x: True, lambda y: y[..., None], "instead of"),
    ],
)
def test_a_torch_network_that_differs_is_wrong(when: Any, change: Any, says: str) -> None:
    model = Network(PLAIN).eval()
    outcome = Outcome()
    compare(PLAIN, model, Off(model, when, change), outcome)
    assert outcome.category == "wrong"
    assert says in outcome.text


def test_a_torch_network_that_is_the_same_is_the_same_at_all_sizes() -> None:
    model = Network(PLAIN).eval()
    outcome = Outcome()
    compare(PLAIN, model, model, outcome)
    assert (outcome.category, outcome.sizes, outcome.refused) == ("same", SIZES, 0)


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("error", "unworded"),
    [(ValueError("axis 1 is 2, but the network was traced for inputs where axis 1 is 3"), 0), (RuntimeError("mat1 and mat2"), 1)],
)
def test_sizes_that_are_refused_are_counted_and_their_words_looked_at(error: Exception, unworded: int) -> None:
    model = Network(PLAIN).eval()
    outcome = Outcome()
    compare(PLAIN, model, Off(model, lambda x: x.shape[1] != 3, lambda y: _raise(error)), outcome)
    assert outcome.category == "same"
    assert outcome.refused > 0
    assert (outcome.unworded > 0) is bool(unworded)


def test_a_fold_that_does_not_run_on_the_example_is_wrong() -> None:
    model = Network(PLAIN).eval()
    outcome = Outcome()
    compare(PLAIN, model, Off(model, lambda x: True, lambda y: _raise(RuntimeError("no"))), outcome)
    assert outcome.category == "wrong"


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (KeyError("c15"), "crash"),
        (VerificationError("changed its function"), "prover"),
        (FoldError("what y was folded into does not run where the original does"), "prover"),
        (FoldError("too hard"), "refused"),
    ],
)
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_what_folding_raises_is_told_apart(monkeypatch: pytest.MonkeyPatch, kind: str, error: Exception, category: str) -> None:
    own = refold.fold

    def fold(*args: Any, verify: bool = True) -> Any:
        return _raise(error) if verify else own(*args, verify=False)

    monkeypatch.setattr(refold, "fold", fold)
    outcome = try_torch(PLAIN) if kind == "torch" else try_onnx(GRAPH)
    assert outcome.category == category
    assert outcome.text


def test_a_wrong_fold_that_the_proof_found_is_not_called_a_fault_of_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        model = Off(Network(PLAIN).eval(), lambda x: True, lambda y: y + 1)

    monkeypatch.setattr(refold, "fold", lambda *args, verify=True: _raise(VerificationError("changed")) if verify else Wrong())
    assert try_torch(PLAIN).category == "caught"


def test_an_onnx_file_that_differs_is_wrong() -> None:
    original = session(model_of(GRAPH).SerializeToString())
    other = Recipe("onnx", 7, GRAPH.inputs, (*GRAPH.steps, Step("Unary", (2,), {**GRAPH.steps[1].attributes})), (3,), GRAPH.options)
    for recipe, category in ((GRAPH, "same"), (other, "wrong")):
        outcome = Outcome()
        compare_onnx(GRAPH, original, model_of(recipe).SerializeToString(), outcome)
        assert outcome.category == category
    assert outcome.text.startswith("at 2x3x6x5: output 0 is off by")


def test_an_onnx_file_that_holds_a_free_axis_to_its_size_refuses_in_words() -> None:
    held = Recipe("onnx", 7, GRAPH.inputs, GRAPH.steps, GRAPH.outputs, {**GRAPH.options, "free": ["n"]})
    outcome = Outcome()
    compare_onnx(GRAPH, session(model_of(GRAPH).SerializeToString()), model_of(held).SerializeToString(), outcome)
    assert outcome.category == "same"
    assert outcome.refused > 0
    assert outcome.unworded == 0


def test_the_judge_grants_rounding_and_no_more() -> None:
    x = np.random.default_rng(0).standard_normal(100)
    unit = 2.0**-24

    def said(change: float, noise: float = 0.0) -> str | None:
        return complaint([x], [x + change], ["float32"], 4, lambda: [x], lambda: [noise])

    assert said(unit) is None
    assert said(100 * unit) is not None
    assert said(100 * unit, noise=100 * unit) is None
    assert complaint([x], [x, x], ["float32"], 4, lambda: None, lambda: [0.0]) == "2 outputs instead of 1"


def cancelling(*more: Step) -> Recipe:
    """A network in float64 that is left with a small part of the numbers that it works with."""
    steps = (Step("number", (0,), {"act": "add", "number": 1000.0}), Step("number", (1,), {"act": "sub", "number": 1000.0}))
    return Recipe("torch", 7, (Input("float64", (2, 3, 6), ("n", "c", "t")),), (*steps, *more), (2 + len(more),))


def judged(recipe: Recipe, off: float) -> Outcome:
    model, outcome = Network(recipe).eval(), Outcome()
    compare(recipe, model, Off(model, lambda x: True, lambda y: y + off), outcome)
    assert model.roundings is None
    assert outcome.sizes > 0
    return outcome


def test_the_judge_grants_what_roundings_on_the_way_make_and_no_more() -> None:
    assert judged(cancelling(), 1000 * 2.0**-53).category == "same"
    assert judged(cancelling(), 1e-9).category == "wrong"


def test_a_network_that_writes_in_place_keeps_writing_where_it_is_moved_by_roundings() -> None:
    """A value that was moved is another tensor: what is written to it would be lost, and the difference be taken for rounding."""
    same, write = Step("unary", (2,), {"function": "contiguous"}), Step("write_", (3, 3), {"how": "add", "whole": True, "axis": 1})
    recipe = replace(cancelling(same, write), outputs=(2,))
    assert judged(recipe, 1e-9).category == "wrong"


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_network_is_determined_by_seed_and_index(kind: str) -> None:
    texts = [drawn(kind, 5, index).to_json() for index in (0, 1, 0)]
    assert texts[0] == texts[2] != texts[1]


def test_every_axis_is_tried_at_another_size() -> None:
    recipe = drawn("torch", 1, 0)
    for place, one in enumerate(recipe.inputs):
        for axis, size in enumerate(one.shape):
            assert any(sized.inputs[place].shape[axis] != size for sized, _ in sizes_of(recipe))


def test_a_graph_is_one_that_the_runtime_runs() -> None:
    for index in range(5):
        recipe = drawn("onnx", 3, index)
        assert session(model_of(recipe).SerializeToString()).run(None, feeds(recipe, 0))
