"""The verbs: fold a network, check whether anything still folds, verify that two are the same function."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from refold.census import Census
from refold.certificates import Proof, Tensor, beside, hash_weights
from refold.dialects import is_onnx
from refold.drawing import Drawing, draw
from refold.errors import FoldError
from refold.graph import Graph, Refusal
from refold.plan import Fold, Plan, Target, make_plan
from refold.report import FoldRecord, Report, counted, origin
from refold.runtime import Background, prepare
from refold.saving import files_of, save
from refold.verification import SEED, Certificate, OutputEvidence, RegionEvidence, SizeEvidence, certify, demand


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

    def operations_of(self, fold: Fold) -> tuple[str, ...]:
        """The operators that a fold became."""

    def region_evidence(self, seed: int) -> Iterator[RegionEvidence]:
        """Each fold, run both ways."""

    def output_evidence(self) -> Iterator[OutputEvidence]:
        """Each output, run both ways."""

    def size_evidence(self) -> Iterator[SizeEvidence]:
        """The whole network at other sizes, where the original runs."""

    def save(
        self,
        path: Path,
        kind: str,
        text_for: Callable[[Iterable[Tensor]], str] | None = None,
        open_file: Callable[[Path], Callable[[Sequence[Any]], list[Any]]] | None = None,
    ) -> tuple[str, ...]:
        """Write the network to a new file, and in it the text that is made from its weights, if the file can take one as it is written.

        `open_file` opens an ONNX file in a runtime. What comes back says what the file takes, where that is not what the network takes.
        """


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

    @property
    def inputs(self) -> tuple[str, ...]:
        """The example inputs in words."""

    def weights(self) -> Iterator[Tensor]:
        """The weights, one by one."""

    def write(self, plan: Plan) -> Deployed:
        """The network folded by a plan."""


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A folded network and what there is to say of it.

    `name` is what the original is called; `drawing` is the network before and after as boxes and arrows; `files` are those that the
    original lies in, if it does; `proof` is what a certificate says, None where nothing was verified.
    """

    report: Report
    name: str
    deployed: Deployed = field(repr=False)
    drawing: Drawing = field(repr=False)
    files: tuple[Path, ...] = ()
    proof: Proof | None = None
    file_notes: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """What a person should know of the sizes that each file takes which was written, by its name."""

    @property
    def model(self) -> Any:
        """The folded network: a `torch.nn.Module`, or an `onnx_ir.Model`."""
        return self.deployed.model

    def save(self, path: str | os.PathLike[str], *, in_place: bool = False) -> Path:
        """Write the folded network, atomically; the ending says how: `.pt2`, `.onnx` or `.safetensors` (weights alone).

        An ONNX model whose weights lie beside it is written with its weights beside it, in `<name>.<hash of them>.data`. The original's own
        files are replaced only where `in_place` says so. What was verified has its certificate beside it, in `<stem>.certificate.json`, and
        within a `.pt2` (among the extra files) or `.onnx` (in the metadata) another, both under `refold.certificate`. A model that stood
        there before goes with its data and its certificate; at every moment the old stands or the new, whole, whenever the process ends.

        Raises `FoldError` where the ending is another or the file cannot be written.
        """
        return save(Path(path), self._put, self.proof, protected=() if in_place else self.files)

    def save_report(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        output: str | os.PathLike[str] | None = None,
        latency: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write all that there is to say as one page, an .html that opens from disk: figures, the network before and after, the proof.

        `name` is what to call the original; `output` the file that `save` wrote, whose certificate is shown; `latency` what
        `refold.bench.bench(...).to_dict()` gave.

        Raises `FoldError` where the ending is another, the file cannot be written, or the packages of `refold[report]` are missing.
        """
        from refold.page import write_page

        saved = None if output is None else Path(output)
        if saved is not None and not saved.exists():
            raise FoldError(f"{saved} is not there; save the folded network to it first, or leave `output` out")
        files = [] if saved is None else files_of(saved)
        names = " and ".join(one.name for one in files)
        written = {"output": names or None, "bytes": sum(one.stat().st_size for one in files) if files else None}
        facts = {"model": name or self.name, **written, **self.report.to_dict(), "latency": None if latency is None else dict(latency)}
        certificate = None
        if saved is not None and self.proof is not None:
            certificate = json.loads(beside(saved).read_text(encoding="utf-8"))
        return write_page(path, facts, self.drawing, certificate)

    def _put(self, draft: Path, text_for: Callable[[Iterable[Tensor]], str] | None) -> Mapping[str, str]:
        """Write a file as its ending says; the digests that are known already, by name."""
        kind = _kind(draft)
        if kind != "onnx":
            self.file_notes[draft.name] = self.deployed.save(draft, kind, text_for)
            return {}
        from refold.dialects import onnx

        self.file_notes[draft.name] = self.deployed.save(draft, "onnx", open_file=onnx.open_file)
        return {} if text_for is None else {draft.name: onnx.annotate(draft, text_for)}


def fold(
    model: Any,
    example_inputs: Any = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    verify: bool = True,
    progress: Callable[[str], None] = lambda stage: None,
) -> FoldResult:
    """Fold every linear stretch of a network into the fewest convolutions that compute the same function, and prove that they do.

    `model` is a `torch.nn.Module`, a `torch.export.ExportedProgram`, or an ONNX model: a path, an `onnx.ModelProto` or an
    `onnx_ir.Model`.

    For PyTorch, `example_inputs` are a tuple of what its forward takes (one tensor may stand alone; a dict holds keyword arguments;
    `kwargs` adds more). The eval function is folded whatever mode the model is in, and the model is left as it was. The inputs say what
    the model takes, not what it is limited to: the batch stays free, and spatial sizes where the model allows. An ONNX model needs no
    inputs; arrays by name or a `.npz` may be given.

    With `verify`, each region is compared in float64 with the original's operators, and the whole network on the example inputs; see
    `refold.verification`. `progress` is called with the name of each stage as it begins.

    Raises `FoldError` where the model does not run on the inputs, cannot be traced or holds NaN, and `VerificationError` where the result
    is not the same function.

    >>> import torch
    >>> block = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    >>> result = fold(block, (torch.randn(1, 3, 8, 8),))
    >>> result.report.before.batch_norms, result.report.after.batch_norms
    (1, 0)
    """
    if verify and _is_onnx(model):
        prepare()
    progress("tracing")
    network, files = _read(model, example_inputs, kwargs)
    progress("planning")
    plan = make_plan(network.graph, network.target)
    progress("folding")
    deployed = network.write(plan)
    certificate, weights = None, None
    if verify:
        outputs = deployed.output_evidence()
        hashed = Background(lambda: hash_weights(network.weights()))
        regions = _announced(deployed.region_evidence(SEED), len(deployed.folds), progress)
        certificate = certify(regions, outputs, deployed.size_evidence(), seed=SEED, versions=_versions())
        demand(certificate)
        weights = hashed.result()
    report = Report(
        tuple(_record(one, deployed) for one in deployed.folds),
        (*plan.refusals, *deployed.refusals),
        network.census,
        deployed.census,
        certificate,
        (*network.notes, *_silences(certificate)),
    )
    proof = None
    if certificate is not None and weights is not None:
        inputs = {"given": list(network.inputs)} if network.inputs else {"drawn_from_seed": SEED}
        laws = {record.name: record.laws for record in report.folds}
        proof = Proof(_name(model), weights, inputs, laws, certificate)
    drawing = draw(network.graph, deployed.folds, deployed.operations_of)
    return FoldResult(report, _name(model), deployed, drawing, files, proof)


def check(model: Any, example_inputs: Any = None, *, kwargs: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """What would still fold, one line each; empty means ready to ship.

    >>> import torch
    >>> check(torch.nn.Conv2d(3, 8, 3), (torch.randn(1, 3, 8, 8),))
    ()
    """
    network, _ = _read(model, example_inputs, kwargs)
    plan = make_plan(network.graph, network.target)
    return tuple(f"{origin(one)} ← {counted(node.operation for node in one.nodes)}" for one in plan.folds)


def verify(original: Any, folded: Any, example_inputs: Any = None, *, kwargs: Mapping[str, Any] | None = None) -> Certificate:
    """Whether two networks compute the same function on the inputs: a `Certificate`, whose `passed` says so.

    `folded` may be no further from the float64 truth of `original` than a small multiple of what `original` itself is.

    >>> import torch
    >>> layer = torch.nn.Linear(4, 4)
    >>> verify(layer, torch.nn.Linear(4, 4), (torch.randn(2, 4),)).passed
    False
    """
    if _is_onnx(original):
        from refold.dialects import onnx

        prepare()
        evidence = onnx.compare(original, folded, example_inputs, kwargs)
    else:
        from refold.dialects import aten

        evidence = aten.compare(original, folded, example_inputs, kwargs)
    certificate = certify((), evidence, versions=_versions())
    silence = next((output.silence for output in certificate.outputs if output.difference > 0 and output.silence is not None), None)
    if certificate.passed and silence is not None:
        raise FoldError(f"{silence}; give inputs on which the model is steadier, or fold it anew to have each region compared")
    return certificate


def _silences(certificate: Certificate | None) -> Iterator[str]:
    for output in () if certificate is None else certificate.outputs:
        if output.silence is not None:
            yield output.silence


def _announced(regions: Iterator[RegionEvidence], total: int, progress: Callable[[str], None]) -> Iterator[RegionEvidence]:
    for number in range(1, total + 1):
        progress(f"proving region {number} of {total}")
        yield from islice(regions, 1)
    progress("comparing outputs")


def _read(model: Any, example_inputs: Any, kwargs: Mapping[str, Any] | None) -> tuple[Network, tuple[Path, ...]]:
    """The network as its dialect reads it, and the files that it lies in."""
    if _is_onnx(model):
        from refold.dialects.onnx import OnnxModel

        network = OnnxModel(model, example_inputs, kwargs)
        return network, network.files
    from refold.dialects.aten import AtenModel

    return AtenModel(model, example_inputs, kwargs), ()


def _kind(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _name(model: Any) -> str:
    """What a certificate calls the original: the name of its file, without the folders of this machine, or its class."""
    return Path(model).name if isinstance(model, (str, os.PathLike)) else type(model).__name__


def _is_onnx(model: Any) -> bool:
    """Whether the ONNX dialect reads a model; a path to something of PyTorch's is misuse."""
    if isinstance(model, (str, os.PathLike)) and Path(model).suffix.lower() in (".pt2", ".pt", ".pth", ".safetensors"):
        raise FoldError(f"{os.fspath(model)} is a path; load the model first and pass it with example inputs, or use the command line")
    return is_onnx(model)


def _record(one: Fold, deployed: Deployed) -> FoldRecord:
    sources = dict.fromkeys(name for node in one.nodes for name in node.sources)
    operations = tuple(node.operation for node in one.nodes)
    became = deployed.operations_of(one)
    return FoldRecord(deployed.name_of(one), operations, became, tuple(sources), one.laws, one.before, one.after)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("refold", "numpy", "torch", "onnx", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
