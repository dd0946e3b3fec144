"""Counts of what a network holds, the same for every format. No arrays, no frameworks."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Census:
    """What a network holds: operators in all and of the kinds that folding is about, parameters, and its arithmetic.

    `multiply_adds` counts the linear operators that were read, for one run on the example's sizes.
    """

    operators: int
    convolutions: int
    linears: int
    batch_norms: int
    additions: int
    parameters: int
    weight_bytes: int
    multiply_adds: int

    def to_dict(self) -> dict[str, int]:
        """Plain data, ready for JSON."""
        return asdict(self)
