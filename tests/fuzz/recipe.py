"""A random network as plain data: inputs, steps and outputs, from which it is built, shrunk, saved and replayed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Input:
    """One input: axes with one label keep one size. `dtype` is a name as `float32`, or `number` for a Python float."""

    dtype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...]

    def resized(self, sizes: Mapping[str, int]) -> Input:
        """The same input where some labels have other sizes."""
        return replace(self, shape=tuple(sizes.get(label, size) for label, size in zip(self.labels, self.shape, strict=True)))


@dataclass(frozen=True, slots=True)
class Step:
    """One operator: the values that it reads, by number, and what else it needs. Inputs have the first numbers, then steps in order."""

    operator: str
    reads: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A network. `kind` is `torch` or `onnx`; all weights follow from `seed`; `options` are of the kind."""

    kind: str
    seed: int
    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int, int, int]:
        """What a shrunk recipe has less of."""
        return len(self.steps), len(self.inputs) + len(self.outputs), sum(sum(one.shape) for one in self.inputs), len(self.to_json())

    def to_json(self) -> str:
        """One line of text."""
        return json.dumps(
            {
                "kind": self.kind,
                "seed": self.seed,
                "inputs": [{"dtype": one.dtype, "shape": one.shape, "labels": one.labels} for one in self.inputs],
                "steps": [{"operator": one.operator, "reads": one.reads, **one.attributes} for one in self.steps],
                "outputs": self.outputs,
                "options": dict(self.options),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe that `to_json` wrote."""
        told = json.loads(text)
        inputs = tuple(Input(one["dtype"], tuple(one["shape"]), tuple(one["labels"])) for one in told["inputs"])
        steps = tuple(Step(one.pop("operator"), tuple(one.pop("reads")), one) for one in told["steps"])
        return cls(told["kind"], told["seed"], inputs, steps, tuple(told["outputs"]), told["options"])

    def live(self) -> Recipe:
        """Without steps that no output hangs on; steps that write in place stay with what they write to."""
        needed = set(self.outputs)
        first = len(self.inputs)
        for number in range(len(self.steps) - 1, -1, -1):
            step = self.steps[number]
            if first + number in needed or step.operator.endswith("_"):
                needed.update(step.reads)
                needed.add(first + number)
        kept = [number for number in range(first + len(self.steps)) if number < first or number in needed]
        places = {old: new for new, old in enumerate(kept)}
        steps = tuple(
            replace(self.steps[old - first], reads=tuple(places[one] for one in self.steps[old - first].reads)) for old in kept[first:]
        )
        return replace(self, steps=steps, outputs=tuple(places[one] for one in self.outputs))


def load(path: Path) -> Recipe:
    """A saved recipe."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return Recipe.from_json(json.dumps(told["recipe"]))


class Draw(random.Random):
    """Random choices, all from one seed."""

    def one(self, *choices: Item) -> Item:
        """One of them."""
        return choices[self.randrange(len(choices))]

    def of(self, choices: Sequence[Item]) -> Item | None:
        """One of them, None where there is none."""
        return choices[self.randrange(len(choices))] if choices else None

    def chance(self, share: float) -> bool:
        """True that often."""
        return self.random() < share

    def divisor(self, *numbers: int) -> int:
        """A number that divides all."""
        return self.one(*[d for d in range(1, min(numbers) + 1) if all(n % d == 0 for n in numbers)])
