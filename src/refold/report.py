"""What a fold did, for people and for programs: the folds, the refusals, counts before and after, the certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from refold.census import Census
from refold.graph import Refusal, shared_folder
from refold.plan import Cost, Fold
from refold.verification import Certificate

ROWS = (
    ("operators", "operators"),
    ("convolutions", "convolutions"),
    ("linear layers", "linears"),
    ("batch norms", "batch_norms"),
    ("additions", "additions"),
    ("parameters", "parameters"),
    ("weight bytes", "weight_bytes"),
    ("multiply-adds", "multiply_adds"),
)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 fold`, `2 folds`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def counted(operations: Iterable[str]) -> str:
    """Operators with their numbers: `2 conv2d + batch_norm`."""
    return " + ".join(f"{n} {operation}" if n > 1 else operation for operation, n in Counter(operations).items())


def origin(fold: Fold) -> str:
    """Where in the network a fold lies: the folder that all its parameters share, or its value where they share none."""
    return shared_folder({name for node in fold.nodes for name in node.sources}) or fold.value


NOTHING = "nothing to fold: the network has no two linear operators that merge"


@dataclass(frozen=True, slots=True)
class FoldRecord:
    """One fold: the name of what it became, the operators it replaced and became, the laws it used, its cost before and after."""

    name: str
    operations: tuple[str, ...]
    became: tuple[str, ...]
    sources: tuple[str, ...]
    laws: tuple[str, ...]
    before: Cost
    after: Cost

    def __str__(self) -> str:
        return f"{self.name} ← {counted(self.operations)}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a fold did. `str()` is a table, `to_dict()` is ready for JSON.

    `before` and `after` count what the network holds; `notes` say what had to be fixed while reading it; `certificate` is None where
    verification was switched off.
    """

    folds: tuple[FoldRecord, ...]
    refusals: tuple[Refusal, ...]
    before: Census
    after: Census
    certificate: Certificate | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "folds": [asdict(fold) for fold in self.folds],
            "refusals": [asdict(refusal) for refusal in self.refusals],
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"{'':16}{'before':>16}{'after':>16}"]
        for label, name in ROWS:
            before, after = getattr(self.before, name), getattr(self.after, name)
            lines.append(f"{label:16}{before:16,}{after:16,}")
        lines.append("")
        lines.append(count(len(self.folds), "fold") if self.folds else NOTHING)
        if self.refusals:
            laws = Counter(refusal.law for refusal in self.refusals)
            lines.append(f"{len(self.refusals)} refused: " + ", ".join(f"{n} by {law}" for law, n in laws.most_common()))
        lines.extend(f"note: {note}" for note in self.notes)
        if self.certificate is not None:
            lines.append(str(self.certificate))
        return "\n".join(lines)
