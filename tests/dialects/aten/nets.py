"""Small networks for the tests, what is left of them after folding, and how far they are from where they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import refold
from refold.folding import FoldResult

EXACT = 1e-12
"""Of the output's scale: what two orders of summing in float64 may differ by at the sizes used here."""

SPELLINGS = {
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_to_copy": "to",
    "native_dropout": "dropout",
}
"""Operators that torch writes in two ways."""

Module = TypeVar("Module", bound=nn.Module)


class Net(nn.Module):
    """A module whose forward is a function of itself and the inputs."""

    def __init__(self, function: Callable[..., Any], **members: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


class Table(nn.Module):
    """Rows that read the same input, each to an output of its own."""

    def __init__(self, rows: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.rows = nn.ModuleDict(rows)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {name: row(x) for name, row in self.rows.items()}


def conv(inputs: int = 4, outputs: int = 6, taps: Any = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, taps, **{"padding": 1, **options})


def conv_norm(inputs: int = 4, outputs: int = 6, taps: int = 3, **options: Any) -> nn.Sequential:
    options = {"padding": taps // 2, "bias": False, **options}
    return nn.Sequential(nn.Conv2d(inputs, outputs, taps, **options), nn.BatchNorm2d(outputs))


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(shape) + 0.5)


def settled(module: Module, dtype: torch.dtype = torch.float64) -> Module:
    """The module in eval, its batch norms off their initial values."""
    for one in module.modules():
        if isinstance(one, nn.modules.batchnorm._BatchNorm):
            if one.running_mean is not None and one.running_var is not None:
                one.running_mean.normal_(0, 0.3)
                one.running_var.uniform_(0.5, 1.5)
            if one.affine:
                nn.init.uniform_(one.weight, 0.5, 1.5)
                nn.init.normal_(one.bias, 0, 0.3)
    return module.to(dtype).eval()


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def distance(original: Any, folded: Any) -> float:
    """The largest difference between two outputs of the same structure, each tensor against its own scale."""
    first, first_spec = pytree.tree_flatten(original)
    second, second_spec = pytree.tree_flatten(folded)
    assert first_spec == second_spec
    return max((_distance(mine, theirs) for mine, theirs in zip(first, second, strict=True)), default=0.0)


def _distance(mine: Any, theirs: Any) -> float:
    if not isinstance(mine, Tensor):
        return 0.0 if mine == theirs else float("inf")
    assert isinstance(theirs, Tensor)
    assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    if mine.numel() == 0:
        return 0.0
    wide = torch.complex128 if mine.is_complex() else torch.float64
    return float((mine.detach().to(wide) - theirs.detach().to(wide)).abs().max() / mine.detach().abs().max().clamp(min=1e-300))


def fold_exactly(model: nn.Module, *inputs: Any, other: tuple[Any, ...] | None = None) -> FoldResult:
    """Fold a float64 model, prove it, and compare on the inputs and on others of another size."""
    settled(model)
    result = refold.fold(model, inputs)
    for one in (inputs,) if other is None else (inputs, other):
        with torch.no_grad():
            assert distance(model(*one), result.model(*one)) < EXACT
    return result


def left(module: Any, output: Any = None) -> list[str]:
    """The operators of a folded module in order, its layers by their class; of one output alone where its node is given."""
    needed = None if output is None else _above(output)
    return [name for node in module.graph.nodes if (needed is None or node in needed) and (name := _operator(module, node)) is not None]


def left_of_each(module: Any) -> list[list[str]]:
    """The operators that each output hangs on."""
    *_, end = module.graph.nodes
    (outputs,) = end.args
    return [left(module, output) for output in outputs]


def table_left(rows: Mapping[str, tuple[nn.Module, list[str]]], x: Tensor, other: Tensor) -> dict[str, list[str]]:
    """Fold all rows of a table in one network, hold each to the original, and say what is left of each."""
    result = fold_exactly(Table({name: row for name, (row, _) in rows.items()}), x, other=(other,))
    return dict(zip(rows, left_of_each(result.model), strict=True))


def expected_of(rows: Mapping[str, tuple[nn.Module, list[str]]]) -> dict[str, list[str]]:
    return {name: expected for name, (_, expected) in rows.items()}


def _above(node: Any) -> set[Any]:
    found: set[Any] = set()
    stack = [node]
    while stack:
        one = stack.pop()
        if one not in found:
            found.add(one)
            stack.extend(one.all_input_nodes)
    return found


def _operator(module: Any, node: Any) -> str | None:
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        return None if next(layer.parameters(), None) is None else type(layer).__name__
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = str(node.target._schema.name.split("::")[-1])
    return None if name.startswith(("sym_", "_assert")) else SPELLINGS.get(name, name)
