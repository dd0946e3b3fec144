"""What a bench measured, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from refold.bench._engine import LayerTime

SHOWN = 10
"""Layers that a table shows."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some numbers, the quartiles around it, and how many they are."""

    median: float
    lower: float
    upper: float
    runs: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Of at least one number.

        >>> Spread.of([1.0, 2.0, 3.0, 4.0, 50.0])
        Spread(median=3.0, lower=2.0, upper=4.0, runs=5)
        """
        lower, median, upper = np.quantile(np.asarray(numbers), [0.25, 0.5, 0.75]).tolist()
        return cls(median, lower, upper, len(numbers))


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model in one engine at one batch.

    `latency` is in seconds for one run; `floor` that of its convolutions and linear layers alone and `over_floor` the ratio turn by turn,
    None where they were not measured; `peak_memory` is the bytes that loading it and running it once took at their highest, weights
    included, None where the system does not say.
    """

    engine: str
    batch: int | None
    model: str
    latency: Spread
    floor: Spread | None = None
    over_floor: Spread | None = None
    peak_memory: int | None = None
    layers: tuple[LayerTime, ...] = ()


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times longer `model` takes than `other`, turn by turn."""

    engine: str
    batch: int | None
    model: str
    other: str
    ratio: Spread


@dataclass(frozen=True, slots=True)
class Failure:
    """A model that an engine did not run, with the engine's own message in one line; `part` is the model or its floor or layers."""

    engine: str
    batch: int | None
    model: str
    message: str
    part: str = "model"


@dataclass(slots=True)
class BenchResult:
    """What was measured. `str()` is a table, `to_dict()` is ready for JSON.

    `skipped` names engines that are not installed and says how to install them; `is_complete` is false where it was interrupted.
    """

    threads: int
    versions: Mapping[str, str]
    measurements: list[Measurement] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    is_complete: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain data; seconds and bytes."""
        return asdict(self)

    def __str__(self) -> str:
        blocks = ["\n".join(self._cell(*key)) for key in dict.fromkeys((one.engine, one.batch) for one in self.measurements)]
        for failure in self.failures:
            batch = "" if failure.batch is None else f" at batch {failure.batch}"
            part = "" if failure.part == "model" else f" ({failure.part})"
            blocks.append(f"failed: {failure.model}{part} in {failure.engine}{batch}: {failure.message}")
        blocks.extend(f"skipped: {engine} is not installed; install it: {remedy}" for engine, remedy in self.skipped.items())
        if not self.is_complete:
            blocks.append("interrupted: this is what was measured until then")
        return "\n\n".join(blocks)

    def _cell(self, engine: str, batch: int | None) -> Iterator[str]:
        mine = [one for one in self.measurements if (one.engine, one.batch) == (engine, batch)]
        size = "" if batch is None else f", batch {batch}"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        yield f"{engine} {self.versions.get(engine, '')}{size}, {threads}, {mine[0].latency.runs:,} turns"
        rows = [("", "median", "quartiles", "floor", "÷ floor", "quartiles", "peak memory")]
        for one in mine:
            floor, over = one.floor, one.over_floor
            memory = "-" if one.peak_memory is None else f"{one.peak_memory / 2**20:,.1f} MiB"
            rows.append(
                (
                    one.model,
                    _time(one.latency.median),
                    f"{_time(one.latency.lower)} to {_time(one.latency.upper)}",
                    "-" if floor is None else _time(floor.median),
                    "-" if over is None else f"{over.median:.2f}",
                    "-" if over is None else f"{over.lower:.2f} to {over.upper:.2f}",
                    memory,
                )
            )
        yield from _aligned(rows)
        ratios = [one for one in self.ratios if (one.engine, one.batch) == (engine, batch)]
        if ratios:
            named = [(f"{one.model} ÷ {one.other}", one.ratio) for one in ratios]
            shown = ((label, f"{one.median:.3f}", f"{one.lower:.3f} to {one.upper:.3f}") for label, one in named)
            yield from _aligned([("", "ratio", "quartiles"), *shown])
        for one in mine:
            if one.layers:
                total = sum(layer.seconds for layer in one.layers)
                count = f"slowest {SHOWN} of {len(one.layers)} layers" if len(one.layers) > SHOWN else f"{len(one.layers)} layers"
                slowest = [
                    (layer.name, layer.operation, _time(layer.seconds), f"{layer.seconds / total:.0%}") for layer in one.layers[:SHOWN]
                ]
                yield from _aligned([(f"{one.model}, {count}", "operator", "mean", "share"), *slowest])


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:,.3f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (
            cell.ljust(width) if n == 0 else cell.rjust(width) for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "   ".join([f"  {first}", *others]).rstrip()
