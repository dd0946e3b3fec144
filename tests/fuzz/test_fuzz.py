"""A short run of the fuzzer with a fixed seed and a fresh one, and every network that once failed."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import pytest

from tests.fuzz import running
from tests.fuzz.outcome import FAULTS, Outcome
from tests.fuzz.recipe import load

SAVED = sorted((Path(__file__).parent / "saved").glob("*.json"))
FIXED = 8
"""Networks of each kind that every run tries."""
SECONDS = 3.0
"""For others, of each kind; `make fuzz` is for longer."""


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_short_run_with_a_fixed_seed(kind: str) -> None:
    found = [of_seed(kind, 1, index) for index in range(FIXED)]
    assert sum(outcome.folds for outcome in found) >= FIXED // 3
    assert sum(outcome.sizes for outcome in found) >= 3 * FIXED


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_short_run_with_a_fresh_seed(kind: str) -> None:
    fresh_run(kind, int.from_bytes(os.urandom(3)))


@pytest.mark.parametrize("text", ["the process died with status -11", "no answer in 180 s"])
def test_a_fresh_run_tells_how_to_replay_what_ended_the_process(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(running, "run", lambda *_: iter([(0, Outcome()), (1, Outcome("crash", text))]))
    with pytest.raises(AssertionError, match=f"python -m tests.fuzz replay --kind onnx --seed 17 --index 1: crash: {text}"):
        fresh_run("onnx", 17, seconds=60.0)


@pytest.mark.parametrize("culprit", ["drawn", "tried"])
def test_a_run_tells_how_to_replay_what_the_fuzzer_itself_fails_at(monkeypatch: pytest.MonkeyPatch, culprit: str) -> None:
    def fail(*_: object) -> Outcome:
        raise KeyError("path")

    monkeypatch.setattr(running, culprit, fail)
    with pytest.raises(AssertionError, match=r"python -m tests.fuzz replay --kind onnx --seed 1 --index 0: the fuzzer fails: KeyError"):
        of_seed("onnx", 1, 0)


def fresh_run(kind: str, seed: int, seconds: float = SECONDS) -> None:
    """Try networks in a process of their own, so that its death or its silence leaves word of which network it was."""
    begun: float | None = None
    for index, outcome in running.run(kind, seed, 0, math.inf, 10**9):
        demand(outcome, replay(kind, seed, index))
        begun = time.monotonic() if begun is None else begun
        if time.monotonic() - begun > seconds:
            return


def of_seed(kind: str, seed: int, index: int) -> Outcome:
    """Try the network of a seed and an index."""
    told = replay(kind, seed, index)
    try:
        outcome = running.tried(running.drawn(kind, seed, index))
    except Exception as error:
        raise AssertionError(f"{told}: the fuzzer fails: {type(error).__name__}: {error}") from error
    return demand(outcome, told)


def replay(kind: str, seed: int, index: int) -> str:
    """How to try a network again."""
    return f"python -m tests.fuzz replay --kind {kind} --seed {seed} --index {index}"


def demand(outcome: Outcome, told: str) -> Outcome:
    """Object where a network failed."""
    assert outcome.category not in FAULTS, f"{told}: {outcome.category}: {outcome.text}"
    return outcome


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_what_failed_once(path: Path) -> None:
    demand(running.tried(load(path)), f"python -m tests.fuzz replay --file {path}")


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_what_failed_once_says_how(path: Path) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told["category"] in FAULTS
    assert told["text"]
    assert len(told["recipe"]["steps"]) <= 8
