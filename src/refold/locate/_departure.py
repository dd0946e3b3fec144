"""What is said of the value at which one network leaves the other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from refold.locate._compare import allowed, apart, scale
from refold.walk import Step, Walk


@dataclass(frozen=True, slots=True)
class Departure:
    """Where the second network leaves the first.

    `operator` is the departing value of the second and `folder` where it stands, `counterpart` the value of the first that it should
    be; `difference` is the largest between the two, infinite where the shapes differ, `scale` the largest number of the counterpart,
    `allowed` what rounding explains. `last_match` are the values, of the first and the second, that were still equal.
    """

    operator: str
    operation: str
    folder: str
    counterpart: str
    difference: float
    scale: float
    allowed: float
    cause: str
    last_match: tuple[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        relative = self.difference / self.scale if self.scale else self.difference
        where = f" in `{self.folder}`" if self.folder else ""
        return (
            f"equal up to {self.last_match[1]} (in the original {self.last_match[0]})\n"
            f"departs at {self.operator} ({self.operation}{where}), which should be {self.counterpart}: by {self.difference:.3g}, "
            f"{relative:.2g} of its scale, where rounding explains {self.allowed:.2g}\n"
            f"likely cause: {self.cause}"
        )


def departure(step: Step, first: Walk, counterpart: Step, cause: str, last: tuple[str, str]) -> Departure:
    """A step of the second network that should be a step of the first."""
    return Departure(
        step.name,
        step.operation,
        step.folder,
        str(counterpart),
        apart(step.value, counterpart.value),
        scale(counterpart.value),
        allowed(first, counterpart),
        cause,
        last,
    )
