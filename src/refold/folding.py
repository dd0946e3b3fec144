"""The verbs: fold a network, check whether anything still folds, verify that two are the same function."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from refold.artifacts import replacing
from refold.census import Census
from refold.errors import FoldError
from refold.graph import Graph, Refusal
from refold.plan import Fold, Plan, Target, make_plan
from refold.report import FoldRecord, Report
from refold.verification import Certificate, OutputEvidence, RegionEvidence, certify, demand

SEED = 20_261
"""Seed of the random inputs that regions are proven on."""


class Deployed(Protocol):
    """A folded network in its own format, as a dialect gives it."""

    @property
    def model(self) -> Any:
        """The network itself."""

    @property
    def folds(self) -> tuple[Fold, ...]:
        """The folds that were written."""

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The folds that could not be."""

    @property
    def census(self) -> Census:
        """What the network holds."""

    def name_of(self, fold: Fold) -> str:
        """The name under which a fold stands in the network."""

    def region_evidence(self, seed: int) -> Iterator[RegionEvidence]:
        """Each fold, run both ways."""

    def output_evidence(self) -> Iterator[OutputEvidence]:
        """Each output, run both ways."""

    def save(self, path: Path, kind: str) -> None:
        """Write the network to a new file."""


class Network(Protocol):
    """A network in its own format, as a dialect reads it."""

    graph: Graph

    @property
    def target(self) -> Target:
        """What the plan must know of the format."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the reading."""

    @property
    def census(self) -> Census:
        """What the network holds."""

    def write(self, plan: Plan) -> Deployed:
        """The network folded by a plan."""


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A folded network and what there is to say of it."""

    report: Report
    deployed: Deployed

    @property
    def model(self) -> Any:
        """The folded network: a `torch.nn.Module`, or an `onnx_ir.Model`."""
        return self.deployed.model

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the folded network, atomically; the ending says how: `.pt2`, `.onnx` or `.safetensors` (weights alone).

        Raises `FoldError` where the ending is another or the file cannot be written.
        """
        place = Path(path)
        with replacing(place) as draft:
            self.deployed.save(draft, place.suffix.lower().removeprefix("."))
        return place


def fold(model: Any, example_inputs: Any = None, *, kwargs: Mapping[str, Any] | None = None, verify: bool = True) -> FoldResult:
    """Fold every linear stretch of a network into the fewest convolutions that compute the same function, and prove that they do.

    `model` is a `torch.nn.Module` or a `torch.export.ExportedProgram`; `example_inputs` a tuple of what its forward takes (one tensor may
    stand alone; a dict holds keyword arguments; `kwargs` adds more). The eval function is folded whatever mode the model is in, and the
    model is left as it was. The inputs say what the model takes, not what it is limited to: the batch stays free, and spatial sizes where
    the model allows.

    With `verify`, each region is compared in float64 with the original's operators, and the whole network on the example inputs; see
    `refold.verification`.

    Raises `FoldError` where the model does not run on the inputs, cannot be traced or holds NaN, and `VerificationError` where the result
    is not the same function.

    >>> import torch
    >>> block = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    >>> result = fold(block, (torch.randn(1, 3, 8, 8),))
    >>> result.report.before.batch_norms, result.report.after.batch_norms
    (1, 0)
    """
    network = _read(model, example_inputs, kwargs)
    plan = make_plan(network.graph, network.target)
    deployed = network.write(plan)
    certificate = None
    if verify:
        certificate = certify(deployed.region_evidence(SEED), deployed.output_evidence(), seed=SEED, versions=_versions())
        demand(certificate)
    report = Report(
        tuple(_record(one, deployed) for one in deployed.folds),
        (*plan.refusals, *deployed.refusals),
        network.census,
        deployed.census,
        certificate,
        network.notes,
    )
    return FoldResult(report, deployed)


def check(model: Any, example_inputs: Any = None, *, kwargs: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """What would still fold, one line each; empty means ready to ship.

    >>> import torch
    >>> check(torch.nn.Conv2d(3, 8, 3), (torch.randn(1, 3, 8, 8),))
    ()
    """
    network = _read(model, example_inputs, kwargs)
    plan = make_plan(network.graph, network.target)
    return tuple(f"{one.value} ← {' + '.join(node.operation for node in one.nodes)}" for one in plan.folds)


def verify(original: Any, folded: Any, example_inputs: Any = None, *, kwargs: Mapping[str, Any] | None = None) -> Certificate:
    """Whether two networks compute the same function on the inputs: a `Certificate`, whose `passed` says so.

    `folded` may be no further from the float64 truth of `original` than a small multiple of what `original` itself is.

    >>> import torch
    >>> layer = torch.nn.Linear(4, 4)
    >>> verify(layer, torch.nn.Linear(4, 4), (torch.randn(2, 4),)).passed
    False
    """
    _need_torch(original)
    from refold.dialects.aten import compare

    return certify((), compare(original, folded, example_inputs, kwargs), versions=_versions())


def _read(model: Any, example_inputs: Any, kwargs: Mapping[str, Any] | None) -> Network:
    _need_torch(model)
    from refold.dialects.aten import AtenModel

    return AtenModel(model, example_inputs, kwargs)


def _need_torch(model: Any) -> None:
    if isinstance(model, (str, os.PathLike)):
        raise FoldError(f"{os.fspath(model)} is a path; load the model first and pass it with example inputs, or use the command line")


def _record(one: Fold, deployed: Deployed) -> FoldRecord:
    sources = dict.fromkeys(name for node in one.nodes for name in node.sources)
    return FoldRecord(
        deployed.name_of(one), tuple(node.operation for node in one.nodes), tuple(sources), one.laws, one.before, one.after
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("refold", "numpy", "torch", "onnx", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
