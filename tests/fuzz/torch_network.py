"""A torch recipe as a module: layers by their paths, each step one operator of the table, aliasing as torch has it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.recipe import Draw, Recipe, Step

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
DTYPES = {**FLOATS, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}


class Scope(nn.Module):
    """A submodule in which a step runs."""

    def forward(self, function: Callable[..., Any], *tensors: Any) -> Any:
        return function(*tensors)


class Network(nn.Module):
    """The network of a recipe; `wide` has float64 for every float dtype, in weights and in casts.

    Where `roundings` is set, what each step makes is a rounding off, up or down as that draws.
    """

    def __init__(self, recipe: Recipe, *, wide: bool = False) -> None:
        super().__init__()
        self.recipe = recipe
        self.wide = wide
        self.roundings: torch.Generator | None = None
        for step in recipe.steps:
            self.prepare(step)

    def prepare(self, step: Step) -> None:
        """Make the layers and parameters of a step."""
        if "within" in step.attributes:
            self._scope(step.attributes["within"])
        make = OPERATORS[step.operator].make
        if make is not None:
            path = step.attributes["path"]
            parent = self._scope(path.rpartition(".")[0])
            name = path.rpartition(".")[2]
            if not hasattr(parent, name):
                made = make(self, step.attributes)
                if isinstance(made, nn.Module):
                    self.fill(made, path)
                    made.to(self.dtype(step.attributes["dtype"]))
                setattr(parent, name, made)
                if "tied" in step.attributes:
                    self._tie(made, step.attributes["tied"])

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a name, as this network has it."""
        return torch.float64 if self.wide and name in FLOATS else DTYPES[name]

    def parameter(self, path: str, shape: tuple[int, ...], dtype: str, how: str = "any") -> nn.Parameter:
        """A parameter whose numbers follow from the recipe's seed and the path."""
        return nn.Parameter(self.numbers(path, shape, how).to(DTYPES[dtype]).to(self.dtype(dtype)))

    def numbers(self, path: str, shape: tuple[int, ...], how: str = "any") -> Tensor:
        """Numbers that follow from the recipe's seed and the path."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.recipe.seed} {path}".encode()))
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        match how:
            case "positive":
                return drawn.abs() + 0.5
            case "zero":
                return torch.zeros(shape, dtype=torch.float64)
            case "sparse":
                return drawn * (torch.rand(shape, generator=generator) > 0.5)
            case _:
                return drawn

    def fill(self, layer: nn.Module, path: str) -> None:
        """Weights of unit gain, statistics near those of a trained network."""
        dtype = "float32"
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            kind = "positive" if name.endswith("running_var") else "any"
            values = self.numbers(f"{path}.{name}", tuple(tensor.shape), kind)
            if tensor.ndim > 1:
                values = values / max(1, tensor[0].numel()) ** 0.5
            with torch.no_grad():
                tensor.copy_(values.to(DTYPES[dtype]))

    def forward(self, *inputs: Any) -> Any:
        values = list(inputs)
        for step in self.recipe.steps:
            made = self.step(step, [values[one] for one in step.reads])
            values.append(made if self.roundings is None else moved(made, self.roundings))
        results = [values[one] for one in self.recipe.outputs]
        match self.recipe.options.get("outputs", "tensor"):
            case "dict":
                return {f"y{number}": result for number, result in enumerate(results)}
            case "tuple":
                return tuple(results)
            case _:
                return results[0] if len(results) == 1 else results

    def step(self, step: Step, tensors: list[Any]) -> Any:
        """One step run."""

        def apply(*given: Any) -> Any:
            return OPERATORS[step.operator].apply(self, step.attributes, *given)

        if "within" in step.attributes:
            return self.get_submodule(step.attributes["within"])(apply, *tensors)
        return apply(*tensors)

    def find(self, attributes: Any) -> Any:
        """The layer or parameter of a step."""
        found: Any = self
        for part in attributes["path"].split("."):
            found = getattr(found, part)
        return found

    def _scope(self, path: str) -> nn.Module:
        found: nn.Module = self
        for part in [one for one in path.split(".") if one]:
            if not hasattr(found, part):
                found.add_module(part, Scope())
            found = getattr(found, part)
        return found

    def _tie(self, layer: Any, path: str) -> None:
        other: Any = self
        for part in path.split("."):
            other = getattr(other, part, None)
        if hasattr(other, "weight") and hasattr(layer, "weight") and other.weight.shape == layer.weight.shape:
            layer.weight = other.weight


@dataclass
class Draft:
    """A network while it is drawn: the values of its steps on the example inputs."""

    draw: Draw
    network: Network
    values: list[Any]
    steps: list[Step]
    proposed: set[str] = field(default_factory=set)

    def pick(self, accepts: Callable[[Tensor], bool] = lambda x: True, *, floats: bool = True) -> int | None:
        """The number of a tensor that is accepted: mostly the newest one."""
        found = [
            number for number, x in enumerate(self.values) if isinstance(x, Tensor) and (not floats or x.is_floating_point()) and accepts(x)
        ]
        if not found:
            return None
        return found[-1] if self.draw.chance(0.8) else self.draw.of(found)

    def path(self, word: str) -> dict[str, Any]:
        """A path for a new layer, of the kind that people write; now and then one within another layer's."""
        draw = self.draw
        taken = [step.attributes["path"] for step in self.steps if step.operator in ("conv", "linear", "batch_norm")]
        parent = draw.one("", "", "", "block.", "block.inner.", "layers.")
        if taken and draw.chance(0.05):
            parent = f"{draw.of(taken)}."
        name = f"{draw.one(word, word, word, 'x', 'folded', 'mul', 'add', '_0')}{draw.one('', '', '1', '2', '_1')}"
        path = parent + name
        while path in self.proposed or any(one.startswith(f"{path}.") for one in self.proposed):
            path = f"{path}{draw.randrange(10)}"
        self.proposed.add(path)
        return {"path": path}


Proposal = tuple[tuple[int, ...], dict[str, Any]]
"""What a step would read, and its attributes."""


@dataclass(frozen=True, slots=True)
class Operator:
    """How to draw a step, how to run it, and how to make its layer; `branches` says that it takes another path at another size."""

    propose: Callable[[Draft], Proposal | None]
    apply: Callable[..., Any]
    make: Callable[[Network, Any], Any] | None
    weight: float
    branches: bool


OPERATORS: dict[str, Operator] = {}


def operator(
    name: str,
    propose: Callable[[Draft], Proposal | None],
    apply: Callable[..., Any],
    *,
    make: Callable[[Network, Any], Any] | None = None,
    weight: float = 1.0,
    branches: bool = False,
) -> None:
    """Enter an operator in the table."""
    OPERATORS[name] = Operator(propose, apply, make, weight, branches)


def moved(one: Any, generator: torch.Generator) -> Any:
    """A tensor of floats with each of its numbers a rounding off, up or down; anything else as it is."""
    if not isinstance(one, Tensor) or not one.is_floating_point():
        return one
    signs = torch.randint(0, 2, one.shape, generator=generator).to(one.dtype) * 2 - 1
    return one * (1 + signs * torch.finfo(one.dtype).eps)


def dtype_name(x: Tensor) -> str:
    """`float32` and the like."""
    return str(x.dtype).removeprefix("torch.")
