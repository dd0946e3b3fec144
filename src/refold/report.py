"""What a fold did, for people and for programs: the folds, the refusals, counts before and after, the certificate."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from refold.census import Census
from refold.graph import Refusal
from refold.plan import Cost
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


@dataclass(frozen=True, slots=True)
class FoldRecord:
    """One fold: the name of what it became, the operators it replaced, the laws it used, its cost before and after."""

    name: str
    operations: tuple[str, ...]
    sources: tuple[str, ...]
    laws: tuple[str, ...]
    before: Cost
    after: Cost

    def __str__(self) -> str:
        counted = Counter(self.operations)
        was = " + ".join(f"{n} {operation}" if n > 1 else operation for operation, n in counted.items())
        return f"{self.name} ← {was}"


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
        lines.append(f"{len(self.folds)} folds" if self.folds else "nothing to fold: the network has no two linear operators that merge")
        if self.refusals:
            laws = Counter(refusal.law for refusal in self.refusals)
            lines.append(f"{len(self.refusals)} stretches refused: " + ", ".join(f"{n} by {law}" for law, n in laws.most_common()))
        lines.extend(f"note: {note}" for note in self.notes)
        if self.certificate is not None:
            lines.append(str(self.certificate))
        return "\n".join(lines)
