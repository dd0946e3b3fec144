"""What `refold verify` does from nothing but files: the certificate, the weights, the comparison, and a data set on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refold import folding
from refold.agreement import Agreement, as_inputs, channels_of, measure_agreement
from refold.certificates import demand, demand_weights, summarized, weights_of
from refold.datasets import Dataset
from refold.errors import FoldError
from refold.locate import Departure, locate
from refold.models import NamedModel, make_inputs, pair_up, read_model
from refold.verification import Certificate

FILES = (".pt2", ".onnx", ".safetensors")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models to compare, as files or factories name them.

    `example` are inputs for both; `certified` says in one line what certificate they satisfy, None where there is none; `read` is the
    second model as it was read.
    """

    original: NamedModel
    folded: NamedModel
    example: Any
    certified: str | None
    read: Any = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What the comparison showed: on example inputs, over a data set, and where that set holds the two furthest apart."""

    pair: Pair
    certificate: Certificate
    agreement: Agreement | None = None
    at_worst: Certificate | None = None
    departure: Departure | None = None

    @property
    def passed(self) -> bool:
        """Whether every comparison is within its bounds."""
        return self.certificate.passed and (self.at_worst is None or self.at_worst.passed)

    @property
    def complaint(self) -> str:
        """What failed, in one line; empty where nothing did."""
        if self.passed:
            return ""
        at_fault = self.certificate if not self.certificate.passed or self.at_worst is None else self.at_worst
        failed = [one.name for one in at_fault.outputs if not one.passed]
        noun = "output" if len(at_fault.outputs) == 1 else "outputs"
        where = " on the data" if at_fault is self.at_worst else ""
        return (
            f"{self.pair.folded.name} is not the function of {self.pair.original.name}: {len(failed)} of {len(at_fault.outputs)} {noun} "
            f"out of bounds{where} ({', '.join(failed[:3])}); compare models of the same weights, or fold anew"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **self.certificate.to_dict(),
            "original": self.pair.original.name,
            "folded": self.pair.folded.name,
            "passed": self.passed,
            "certified": self.pair.certified,
            "data": None if self.agreement is None else self.agreement.to_dict(),
            "departure": None if self.departure is None else self.departure.to_dict(),
            "furthest_apart": None if self.at_worst is None else self.at_worst.to_dict(),
        }

    def __str__(self) -> str:
        lines = [] if self.pair.certified is None else [self.pair.certified]
        if self.agreement is not None and self.at_worst is not None:
            lines += [str(self.agreement), "where they are furthest apart:", str(self.at_worst), "on example inputs:"]
        found = [] if self.departure is None else [str(self.departure)]
        return "\n".join([*lines, str(self.certificate), *found])


def read_pair(
    original: str,
    folded: str,
    *,
    weights: Path | None = None,
    folded_weights: Path | None = None,
    certificate: Path | None = None,
    certified: bool = True,
    inputs: Callable[[NamedModel], Any] = make_inputs,
    say: Callable[[str], None] = lambda text: None,
) -> Pair:
    """Read two models and hold them to the certificate of the second, if it has one and `certified` asks for it.

    `inputs` gives example inputs for a model that was read. Raises `VerificationError` where the certificate was changed, or is of other
    files or weights; `FoldError` where a file cannot be read.
    """
    file = folded_weights or (Path(folded) if Path(folded).suffix.lower() in FILES else None)
    if file is None and certificate is not None:
        raise FoldError(f"{folded} is not a file, so no certificate can be of it; give the file that was certified")
    found = None
    if certified and file is not None and file.exists():
        found = demand(file, certificate)
    first, second = read_model(original, weights), read_model(folded, folded_weights)
    if found is not None:
        say("hashing weights")
        demand_weights(found, "original", original, weights_of(first.model))
        demand_weights(found, "output", folded, weights_of(folded_weights or second.model))
    read = second.model
    first, second = pair_up(first, second)
    return Pair(first, second, inputs(first), None if found is None else summarized(found), read)


def inputs_for(named: NamedModel, shapes: Sequence[str], file: Path | None, dtype: str | None, data: Dataset | None) -> Any:
    """Example inputs: as `make_inputs` finds them, or the first batch of the data where nothing else says what the model takes."""
    if data is not None and not shapes and file is None and named.example_inputs is None and not named.is_onnx:
        named = replace(named, example_inputs=as_inputs(named.model, next(iter(data))))
    return make_inputs(named, shapes, file, dtype)


def compare(pair: Pair) -> Findings:
    """Compare on the example inputs."""
    return Findings(pair, folding.verify(pair.original.model, pair.folded.model, pair.example))


def compare_over(findings: Findings, data: Dataset, progress: Callable[[int], None] = lambda samples: None) -> Findings:
    """Compare on every sample of a data set too, and judge the batch where the two are furthest apart as the example inputs were."""
    first, second = findings.pair.original.model, findings.pair.folded.model
    agreement = measure_agreement(first, second, data, progress=progress)
    return replace(findings, agreement=agreement, at_worst=folding.verify(first, second, as_inputs(first, agreement.worst)))


def find_departure(findings: Findings) -> Findings:
    """Find where the second model leaves the first, on the inputs that showed that it does; nothing where both are the same function."""
    if findings.passed:
        return findings
    pair, inputs = findings.pair, findings.pair.example
    if findings.certificate.passed and findings.agreement is not None:
        inputs = as_inputs(pair.original.model, findings.agreement.worst)
    return replace(findings, departure=locate(pair.original.model, pair.read, inputs))


def open_data(path: Path, batch: int, skip_bad: bool, named: NamedModel) -> Dataset:
    """A data set for a model: images have the channels that it takes."""
    return Dataset(path, batch, skip_bad, channels_of(named.model, named.example_inputs))
