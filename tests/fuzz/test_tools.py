"""Shrinking, the log, and the process that networks are tried in."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz import outcome as outcomes
from tests.fuzz import recipe as recipes
from tests.fuzz import running
from tests.fuzz.outcome import Outcome
from tests.fuzz.recipe import Input, Recipe, Step
from tests.fuzz.shrink import shrink, without_step

CHAIN = Recipe(
    "torch",
    3,
    (Input("float32", (3, 4, 9), ("n", "c", "t")), Input("float32", (2, 2), ("a", "b"))),
    (
        Step("unary", (0,), {"function": "relu"}),
        Step("unary", (2,), {"function": "tanh", "within": "block"}),
        Step("number", (3,), {"act": "mul", "number": 2}),
        Step("unary", (4,), {"function": "abs"}),
    ),
    (5, 2),
    {"outputs": "dict"},
)


def test_shrinking_keeps_what_fails_and_nothing_else() -> None:
    smallest = shrink(CHAIN, lambda one: any(step.attributes.get("function") == "tanh" for step in one.steps))
    assert [step.attributes["function"] for step in smallest.steps] == ["tanh"]
    assert [one.shape for one in smallest.inputs] == [(1, 1, 1)]
    assert smallest.options == {}


def test_shrinking_ends_in_time() -> None:
    began = time.monotonic()
    shrink(CHAIN, lambda one: time.sleep(0.05) or True, seconds=0.2)  # type: ignore[func-returns-value]
    assert time.monotonic() - began < 2


def test_a_step_that_goes_is_replaced_by_what_it_read() -> None:
    left = without_step(CHAIN, 1, 2)
    assert [step.reads for step in left.steps] == [(0,), (2,), (3,)]
    assert left.outputs == (4, 2)


def test_steps_that_write_in_place_live() -> None:
    written = replace(CHAIN, steps=(*CHAIN.steps, Step("write_", (2, 2), {"how": "add"})), outputs=(2,))
    assert [step.operator for step in written.live().steps] == ["unary", "write_"]


def test_a_recipe_is_what_its_text_says() -> None:
    assert Recipe.from_json(CHAIN.to_json()) == CHAIN


def test_a_saved_network_is_read_again(tmp_path: Path) -> None:
    path = running.save(tmp_path, CHAIN, Outcome("wrong", "off by 1"), 1, 2)
    assert path.name == "torch-1-2.json"
    assert recipes.load(path) == CHAIN
    assert json.loads(path.read_text(encoding="utf-8"))["category"] == "wrong"


def test_the_log_is_summed_over_runs(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for index, category in enumerate(["same", "same", "wrong", "untraceable"]):
        outcomes.append(log, "torch", 9, index, Outcome(category, sizes=5, refused=1, apart=1, folds=2), {"commit": "abc"})
    outcomes.append(log, "torch", 9, 0, Outcome("crash"), {"commit": "abc"})
    told = outcomes.summary(outcomes.read([log]))
    assert "torch: 3 networks judged, 4 folds, of seeds 9" in told
    assert "wrong             1" in told
    assert "crash             1" in told
    assert "10 sizes that the original runs, 2 (20.00%) refused by the fold, 2 where axes" in told


def test_a_process_that_dies_is_a_crash_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import json, os, sys; from dataclasses import asdict; from tests.fuzz.outcome import Outcome\n"
        "start, count = map(int, sys.argv[-2:])\n"
        "for i in range(start, start + count):\n"
        "    print(json.dumps({'begin': i}), flush=True)\n"
        "    os.abort() if i == 1 else print(json.dumps({'index': i, **asdict(Outcome())}), flush=True)\n"
    )
    monkeypatch.setattr(running, "COMMAND", ("-c", code))
    found = list(running.run("torch", 1, 0, time.monotonic() + 60, 3))
    assert [(index, outcome.category) for index, outcome in found] == [(0, "same"), (1, "crash"), (2, "same")]
    assert found[1][1].text == "the process died with status -6"


def test_a_process_that_says_nothing_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "COMMAND", ("-c", "import time; print('{\"begin\": 0}', flush=True); time.sleep(60)"))
    monkeypatch.setattr(running, "PATIENCE", 1.0)
    ((index, outcome),) = running.run("onnx", 1, 0, time.monotonic() + 30, 1)
    assert (index, outcome.category, outcome.text) == (0, "crash", "no answer in 1 s")


def test_a_process_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "COMMAND", ("-c", "raise SystemExit(3)"))
    with pytest.raises(RuntimeError, match="the worker does not start"):
        list(running.run("onnx", 1, 0, time.monotonic() + 30, 1))
