"""What an engine is to the bench: it says whether it is there, takes a network and gives something that runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

Format: TypeAlias = Literal["torch", "onnx"]


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Mean seconds that one layer takes in one run of the network, as its engine says."""

    name: str
    operation: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Task:
    """A network with inputs of one batch.

    `network` is a `torch.nn.Module` in eval with `args` and `kwargs`, or the path of an ONNX file with its feeds as `kwargs`.
    """

    network: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The ONNX file."""
        assert isinstance(self.network, Path)
        return self.network


class Runner(Protocol):
    """A network that an engine has loaded."""

    def run(self) -> object:
        """One inference."""

    def layers(self, repeats: int) -> tuple[LayerTime, ...]:
        """What each layer takes, a mean of some runs, the slowest first; nothing where the engine does not say."""


class Engine(Protocol):
    """A runtime that networks are measured in."""

    @property
    def name(self) -> str:
        """What it is asked for by."""

    @property
    def takes(self) -> Format:
        """Whether it runs modules or ONNX files."""

    @property
    def package(self) -> str:
        """The distribution that it is part of."""

    @property
    def remedy(self) -> str:
        """How to install it."""

    def session(self, threads: int) -> AbstractContextManager[None]:
        """What must hold while its runners run."""

    def prepare(self, task: Task, threads: int) -> Runner:
        """Load a network. What the engine raises is passed on."""


def slowest_first(totals: Mapping[tuple[str, str], float], repeats: int) -> tuple[LayerTime, ...]:
    """Layer times from the seconds that each name and operation took in all runs."""
    times = (LayerTime(name, operation, seconds / repeats) for (name, operation), seconds in totals.items())
    return tuple(sorted(times, key=lambda one: -one.seconds))
