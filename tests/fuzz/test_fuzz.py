"""A short run of the fuzzer with a fixed seed and a fresh one, and every network that once failed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.fuzz.outcome import FAULTS, Outcome
from tests.fuzz.recipe import Recipe, load
from tests.fuzz.running import drawn, tried

SAVED = sorted((Path(__file__).parent / "saved").glob("*.json"))
FIXED = 8
"""Networks of each kind that every run tries."""
SECONDS = 3.0
"""For others, of each kind; `make fuzz` is for longer."""


def sound(recipe: Recipe, told: str) -> Outcome:
    """Try a network and object where it fails."""
    outcome = tried(recipe)
    assert outcome.category not in FAULTS, f"{told}: {outcome.category}: {outcome.text}"
    return outcome


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_short_run_with_a_fixed_seed(kind: str) -> None:
    found = [of_seed(kind, 1, index) for index in range(FIXED)]
    assert sum(outcome.folds for outcome in found) >= FIXED // 3
    assert sum(outcome.sizes for outcome in found) >= 3 * FIXED


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_short_run_with_a_fresh_seed(kind: str) -> None:
    seed, index, until = int.from_bytes(os.urandom(3)), 0, time.monotonic() + SECONDS
    print(f"seed {seed}")
    while index == 0 or time.monotonic() < until:
        of_seed(kind, seed, index)
        index += 1


def of_seed(kind: str, seed: int, index: int) -> Outcome:
    """Try the network of a seed and an index."""
    return sound(drawn(kind, seed, index), f"python -m tests.fuzz replay --kind {kind} --seed {seed} --index {index}")


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_what_failed_once(path: Path) -> None:
    sound(load(path), f"python -m tests.fuzz replay --file {path}")


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_what_failed_once_says_how(path: Path) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told["category"] in FAULTS
    assert told["text"]
    assert len(told["recipe"]["steps"]) <= 8
