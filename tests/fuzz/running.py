"""Runs networks one after another in a process of its own, whose death or silence is an outcome too."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.fuzz.outcome import FAULTS, Outcome
from tests.fuzz.recipe import Recipe
from tests.fuzz.shrink import shrink

PATIENCE = 180.0
"""Seconds after which a network that says nothing is given up."""
COMMAND = ("-m", "tests.fuzz", "work")
"""What the process runs."""
TURN = 400
"""Networks after which the process is replaced, lest what torch keeps grow without end."""


def drawn(kind: str, seed: int, index: int) -> Recipe:
    """The network of a kind, a seed and an index; through text, so that what is saved is what is tried."""
    if kind == "torch":
        from tests.fuzz.torch_nets import draw_torch

        return Recipe.from_json(draw_torch(seed, index).to_json())
    from tests.fuzz.onnx_nets import draw_onnx

    return Recipe.from_json(draw_onnx(seed, index).to_json())


def tried(recipe: Recipe) -> Outcome:
    """What came of a network."""
    if recipe.kind == "torch":
        from tests.fuzz.torch_trial import try_torch

        return try_torch(recipe)
    from tests.fuzz.onnx_trial import try_onnx

    return try_onnx(recipe)


def shrunk(recipe: Recipe, category: str, seconds: float = 120.0) -> Recipe:
    """The smallest network found that fails in the same category."""
    return shrink(recipe, lambda one: tried(one).category == category, seconds=seconds)


def save(folder: Path, recipe: Recipe, outcome: Outcome, seed: int, index: int) -> Path:
    """Write a failing network as a file that the suite replays."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{recipe.kind}-{seed}-{index}.json"
    told = {"category": outcome.category, "text": outcome.text, "versions": versions(), "recipe": json.loads(recipe.to_json())}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return path


def work(kind: str, seed: int, start: int, count: int, say: Callable[[str], None]) -> None:
    """Try networks from an index on, one line before each and one after."""
    for index in range(start, start + count):
        say(json.dumps({"begin": index}))
        say(json.dumps({"index": index, **asdict(tried(drawn(kind, seed, index)))}))


def run(kind: str, seed: int, start: int, until: float, count: int) -> Iterator[tuple[int, Outcome]]:
    """Outcomes of networks from an index on, until a time or so many."""
    index, end = start, start + count
    while index < end and time.monotonic() < until:
        command = [sys.executable, *COMMAND, kind, str(seed), str(index), str(min(TURN, end - index))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
            begun, text = None, None
            try:
                for line in _lines(worker, until):
                    if "begin" in line:
                        begun = line["begin"]
                        continue
                    index = line.pop("index") + 1
                    yield index - 1, Outcome(**line)
                text = f"the process died with status {worker.wait(PATIENCE)}"
            except TimeoutError as error:
                text = str(error)
            finally:
                worker.kill()
        if time.monotonic() >= until:
            return
        if begun is not None and begun >= index:
            yield begun, Outcome("crash", text)
            index = begun + 1
        elif begun is None:
            raise RuntimeError(f"the worker does not start: {' '.join(command)}")


def _lines(worker: subprocess.Popen[str], until: float) -> Iterator[dict[str, Any]]:
    """What the worker says, until it ends. Raises `TimeoutError` where it is silent for too long."""
    assert worker.stdout is not None
    while True:
        ready, _, _ = select.select([worker.stdout], [], [], max(0.0, min(PATIENCE, until - time.monotonic())))
        if not ready:
            raise TimeoutError(f"no answer in {PATIENCE:.0f} s")
        text = worker.stdout.readline()
        if not text:
            return
        yield json.loads(text)


def versions() -> dict[str, str]:
    """What was tried."""
    found = {name: version(name) for name in ("refold", "torch", "onnx", "onnxruntime")}
    here = Path(__file__).parent
    asked = subprocess.run(["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {**found, "commit": asked.stdout.strip() or "none"}


def is_fault(outcome: Outcome) -> bool:
    """Whether something is to be mended."""
    return outcome.category in FAULTS
