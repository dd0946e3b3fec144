"""Holds a folded network to what it was traced for, so that another size, type or option is an error and not a wrong result.

Tracing follows one path through a model. What the path depends on (sizes and the relations between them, the number of axes, dtypes,
arguments that are no tensors) is noted; the folded network checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from refold.dialects.aten._conditions import Condition, Conditions, allows

REMEMBERED = 64
"""Shapes that were found to be taken which are not looked at again."""


@dataclass(frozen=True, slots=True)
class TracedInput:
    """A tensor that the network takes: its number of axes, its dtype as traced, and other dtypes that were shown to give the same."""

    name: str
    rank: int
    dtype: torch.dtype
    others: tuple[torch.dtype, ...] = ()


@dataclass(frozen=True, slots=True)
class TracedArgument:
    """An argument that is no tensor; its value has become part of the graph."""

    name: str
    value: Any

    def is_same(self, other: Any) -> bool:
        """Whether another value is that one; 1 and True are not, and 0.0 and -0.0 are not."""
        if other is self.value:
            return True
        if type(other) is not type(self.value):
            return False
        return repr(other) == repr(self.value) if isinstance(other, (float, complex)) else bool(other == self.value)


class SizeGuard(nn.Module):
    """Stands first in the graph and is given what the network is given: its tensors, then its other arguments.

    Sizes are held to all `conditions`, or to all of one of the `alternatives`. What was found by running the model with the traced dtypes
    says nothing of others: with one of those, sizes are held to all `conditions` and to those that are `strict`.
    """

    _is_impure = True  # it makes nothing, and must stay all the same when torch drops what nothing reads

    def __init__(
        self,
        conditions: Sequence[Condition],
        alternatives: Sequence[Conditions],
        inputs: Sequence[TracedInput],
        arguments: Sequence[TracedArgument] = (),
        strict: Sequence[Condition] = (),
    ) -> None:
        super().__init__()
        self.conditions, self.alternatives, self.strict = tuple(conditions), tuple(alternatives), tuple(strict)
        self.taken: set[tuple[tuple[int, ...] | None, ...]] = set()
        self.inputs = tuple(inputs)
        self.arguments = tuple(arguments)
        for dtype in {one.dtype for one in inputs if one.dtype.is_floating_point}:
            # It goes where the weights go: a network that is cast to another dtype takes inputs of that one.
            self.register_buffer(_witness(dtype), torch.empty(0, dtype=dtype), persistent=False)

    def hold(self, conditions: Sequence[Condition], alternatives: Sequence[Conditions], inputs: Sequence[TracedInput]) -> None:
        """Hold inputs to these from now on: to all `conditions`, or to all of one of the `alternatives`."""
        self.conditions, self.alternatives, self.inputs = tuple(conditions), tuple(alternatives), tuple(inputs)
        self.taken.clear()

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of what it is given, in order."""
        return (*(one.name for one in self.inputs), *(one.name for one in self.arguments))

    def forward(self, *given: Any) -> None:
        """Raise `ValueError` where something is not as it was traced."""
        shapes = tuple(tuple(x.shape) if isinstance(x, torch.Tensor) else None for x in given)
        is_plain = not torch.compiler.is_compiling() and all(type(size) is int for shape in shapes for size in shape or ())
        values = dict(zip(self.reads, given, strict=True))
        for argument in self.arguments:
            if not argument.is_same(values[argument.name]):
                raise ValueError(
                    f"`{argument.name}` is {_shown(values[argument.name])}, but the network was traced for inputs where it is "
                    f"{_shown(argument.value)}, which is part of it now; give that, or fold again with the new value"
                )
        moved = [one for one in self.inputs if self._is_of_another_dtype(one, values[one.name])]
        if len(moved) > 1:  # each was shown to give the same while the others were as traced
            actual = ", ".join(f"`{one.name}` is {_shown(values[one.name].dtype)}" for one in moved)
            traced = ", ".join(f"`{one.name}` is {_shown(one.dtype)}" for one in moved)
            raise ValueError(
                f"{actual}, but the network was traced for inputs where {traced}, of which one may be otherwise at a time; "
                "cast the others, or fold again with example inputs of these dtypes"
            )
        if is_plain and not moved and shapes in self.taken:
            return
        self._check_sizes({one.name: values[one.name].shape for one in self.inputs}, is_traced_dtype=not moved)
        if is_plain and not moved and len(self.taken) < REMEMBERED:
            self.taken.add(shapes)

    def _is_of_another_dtype(self, one: TracedInput, x: Any) -> bool:
        """Whether an input is of one of the other dtypes that are taken; raise where it is not taken at all."""
        if not isinstance(x, torch.Tensor):
            raise ValueError(
                f"`{one.name}` is {_shown(x)}, but the network was traced for inputs where it is a tensor; give one, or fold again"
            )
        if x.ndim != one.rank:
            raise ValueError(
                f"`{one.name}` has {x.ndim} axes, but the network was traced for inputs where it has {one.rank}; "
                "give such inputs, or fold again with example inputs of the new rank"
            )
        witness = getattr(self, _witness(one.dtype), None)
        if x.dtype == (one.dtype if witness is None else witness.dtype):
            return False
        if x.is_floating_point() and one.dtype.is_floating_point and torch.is_autocast_enabled(x.device.type):
            return False
        if x.dtype in one.others:
            return True
        raise ValueError(
            f"`{one.name}` is {_shown(x.dtype)}, but the network was traced for inputs where it is "
            f"{_shown(one.dtype if witness is None else witness.dtype)}; cast it, or fold again with example inputs of that dtype"
        )

    def _check_sizes(self, sizes: Mapping[str, Sequence[int]], *, is_traced_dtype: bool) -> None:
        held = self.conditions if is_traced_dtype else (*self.conditions, *self.strict)
        broken = next((one for one in held if not one.holds_at(sizes)), None)
        if broken is None or (is_traced_dtype and any(allows(one, sizes) for one in self.alternatives)):
            return
        actual = ", ".join(f"axis {axis} of `{name}` is {sizes[name][axis]}" for name, axis in broken.places)
        raise ValueError(
            f"{actual}, but the network was traced for inputs where {broken.text}; "
            "give such inputs, or fold again with example inputs of the new sizes"
        )

    def extra_repr(self) -> str:
        """The conditions, as a module's print shows them."""
        return "; ".join(
            [*(condition.text for condition in self.conditions), *(f"`{one.name}` is {_shown(one.value)}" for one in self.arguments)]
        )


def _witness(dtype: torch.dtype) -> str:
    return f"as_{_shown(dtype)}"


def _shown(value: Any) -> str:
    match value:
        case torch.dtype():
            return str(value).removeprefix("torch.")
        case None | bool() | int() | float() | complex() | str() | Enum():
            return str(value) if isinstance(value, Enum) else repr(value)
    return f"a {type(value).__name__.lower()}"
