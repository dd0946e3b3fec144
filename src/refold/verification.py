"""Judges whether a folded network is the same function: error measures, bounds that are derived, and the certificate.

No tolerance stands free. A region is compared in float64, where the only difference allowed is the one rounding of the folded weights
(`u |K| * |x|`, componentwise), the rounding of the float64 sums themselves, and what the fold says it changed by taking two constants as
one that are known no better than they differ. A whole network may be no further from its float64 truth than `FACTOR` times what the
original already was, one rounding of the output's scale granted; or, where every region has passed, no further than the roundings of sums
as long as its own explain.

Bounds on sums: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from array_api_compat import array_namespace, to_device

from refold.errors import VerificationError

if TYPE_CHECKING:
    from refold.ordering import Order, Run

FACTOR = 4.0
"""How many times the original's own distance from the truth a folded network may be away from it."""

SEED = 20_261
"""Seed of what is drawn at random: the inputs of a proof, and weights where a model comes without."""

UNIT = 2.0**-53
"""Unit roundoff of float64."""


def coarsest(own: float, read: float) -> float:
    """The unit roundoff of what is worked out in a dtype of roundoff `own` from what has roundoff `read`: the larger of both.

    A dtype that holds no floats has roundoff 0 and passes none on: whole numbers are equal or not.

    >>> coarsest(own=2.0**-53, read=2.0**-24) == 2.0**-24  # in float64, from float32
    True
    >>> coarsest(own=0.0, read=2.0**-24)
    0.0
    """
    return max(own, read) if own else 0.0


@dataclass(frozen=True, slots=True)
class RegionEvidence:
    """One region run both ways in float64 on the same random input.

    `magnitude` is the folded region with the absolute values of its weights and input, or less by no more than 2**-12 of it; `peak` the
    largest number that the original region had on its way, `length` the longest sum, `rounding` the unit roundoff of the dtype that the
    folded weights are stored in. `slack` is what the fold says that it changes, by taking constants as one that the original holds twice
    and rounded apart. `shapes` are those of what it reads, `further` the same region at other sizes. `like` is the region that was run at
    every size for this one, which differs from it in its numbers alone.

    Raises `VerificationError` where no bound can be derived.
    """

    name: str
    operations: tuple[str, ...]
    original: Any
    folded: Any
    magnitude: Any
    peak: float
    length: int
    rounding: float
    slack: Any = 0.0
    shapes: tuple[tuple[int, ...], ...] = ()
    further: tuple[RegionEvidence, ...] = ()
    like: str | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.length, int) and self.length >= 0 and isinstance(self.peak, float) and 0 <= self.rounding < 1):
            raise VerificationError(
                f"no bound can be derived for {self.name}: its longest sum is {self.length!r}, its largest number {self.peak!r} and its "
                f"rounding {self.rounding!r}; please report this model"
            )


@dataclass(frozen=True, slots=True)
class RegionProof:
    """What a region's comparison gave: the largest residual, the largest bound, and the largest ratio of the two at any place.

    They are those of the sizes at which the ratio is largest; `sizes` are all that were shown, the shapes of what the region reads.
    `like` is the region that was run at every residue for this one, which has the same operators and other numbers.
    """

    name: str
    operations: tuple[str, ...]
    residual: float
    bound: float
    ratio: float
    scale: float
    sizes: tuple[str, ...] = ()
    like: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the residual is within the bound everywhere; NaN is not."""
        return self.ratio <= 1.0


@dataclass(frozen=True, slots=True)
class OutputEvidence:
    """One output of the whole network: of the original and of the folded one as they ship, and of the original in float64 if it runs there.

    `length` is how many numbers are summed one after another from the input to the output; `noise` how far the original's own roundings
    move it, where that is known. `own` are what the original gives with inputs a rounding off or sums in another order, which shows what
    near ties do; `run` tells outputs of other inputs apart. `example_scale` is the largest number of the output on the example, for outputs
    at other sizes: what cancels there was as large on its way.
    """

    name: str
    original: Any
    folded: Any
    truth: Any | None
    rounding: float
    length: int
    noise: float = 0.0
    own: tuple[Any, ...] = ()
    run: int = 0
    example_scale: float = 0.0


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """What an output's comparison gave.

    `difference` is the largest between folded and original, `scale` the largest number of the output; `original_error` and
    `folded_error` are the distances from the float64 truth, None where the original does not run in float64. `agreement` is the share of
    positions with the same largest class where the output looks like class scores, or of equal numbers where it holds integers.
    `histogram` counts numbers by their difference relative to the scale: `(k, n)` for n of them from 2**k up to 2**(k + 1); `equal` are
    those without any. `order` says that items which all but tie came in another order, where that is the difference.
    """

    name: str
    difference: float
    scale: float
    original_error: float | None
    folded_error: float | None
    bound: float
    agreement: float | None
    passed: bool
    equal: int = 0
    histogram: tuple[tuple[int, int], ...] = ()
    order: Order | None = None

    @property
    def silence(self) -> str | None:
        """Why the comparison shows nothing, or None where it does: rounding alone may move an output by as much as it is."""
        if self.order is not None or not (self.passed and 0 < self.scale <= self.bound):
            return None
        return (
            f"rounding alone may move output {self.name} of the original by {self.bound:.3g} although it is no larger than "
            f"{self.scale:.3g}, so that comparing it shows nothing"
        )


@dataclass(frozen=True, slots=True)
class SizeEvidence:
    """The whole network at sizes that are not those of the example, where the original runs.

    `shapes` are those of the inputs, by name; `outputs` what both gave, or `refusal` what the folded network said instead of running.
    """

    shapes: Mapping[str, tuple[int, ...]]
    outputs: tuple[OutputEvidence, ...] = ()
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class SizeCheck:
    """What the comparison at other sizes gave: the largest difference of any output as a share of its scale, or the refusal in words."""

    shapes: Mapping[str, tuple[int, ...]]
    difference: float | None
    refusal: str | None
    passed: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """The proof of one fold: every region, every output, the sizes that were tried, the seed of the random inputs and the versions."""

    regions: tuple[RegionProof, ...] = ()
    outputs: tuple[OutputCheck, ...] = ()
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[SizeCheck, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every comparison is within its bound."""
        parts: tuple[tuple[RegionProof | OutputCheck | SizeCheck, ...], ...] = (self.regions, self.outputs, self.sizes)
        return all(one.passed for part in parts for one in part)

    @property
    def largest_difference(self) -> float:
        """The largest difference of any output, relative to the output's scale."""
        return max((output.difference / output.scale if output.scale else output.difference for output in self.outputs), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"passed": self.passed, "largest_difference": self.largest_difference, **asdict(self)}

    def __str__(self) -> str:
        worst = max((region.ratio for region in self.regions), default=0.0)
        regions = "1 region" if len(self.regions) == 1 else f"{len(self.regions)} regions"
        lines = [f"{regions} compared in float64, the worst at {worst:.2g} of its bound"] if self.regions else []
        for output in self.outputs:
            relative = output.difference / output.scale if output.scale else output.difference
            truth = (
                ""
                if output.folded_error is None
                else f"; from the float64 truth {output.folded_error:.2g}, the original {output.original_error:.2g}"
            )
            agreement = "" if output.agreement is None else f"; agreement {output.agreement:.2%}"
            named = "output" if output.name == "output" else f"output {output.name}"
            lines.append(f"{named}: largest difference {relative:.2g} of its scale{truth}{agreement}")
            if output.order is not None:
                lines.append(f"{named}: {output.order}")
        compared = [one for one in self.sizes if one.difference is not None]
        if compared:
            worst = max(one.difference or 0.0 for one in compared)
            sizes = "1 other size" if len(compared) == 1 else f"{len(compared)} other sizes"
            lines.append(f"{sizes} compared, from {_shown(compared[0])} on: largest difference {worst:.2g} of the scale")
        refused = [one for one in self.sizes if one.refusal is not None]
        if refused:
            lines.append(f"refused where the original runs: {_shown(refused[0])}, since {refused[0].refusal}")
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        """What was shown, and no more than that."""
        if not self.passed:
            return "NOT the same function"
        if self.outputs:
            return "same function"
        return "same function in each region; the outputs were not compared" if self.regions else "nothing was compared"


def _shown(check: SizeCheck) -> str:
    """Sizes in words."""
    return ", ".join(f"`{name}` {' x '.join(map(str, shape)) or 'scalar'}" for name, shape in check.shapes.items())


def judge_region(evidence: RegionEvidence) -> RegionProof:
    """Compare one region with its bound.

    >>> import numpy as np
    >>> y = np.array([1.0, 2.0])
    >>> judge_region(RegionEvidence("r", ("conv2d",), y, y + 1e-3, abs(y), 2.0, 1, 2.0**-24)).passed
    False
    """
    proofs = [_judge_trial(one) for one in (evidence, *evidence.further)]
    worst = max(proofs, key=lambda proof: proof.ratio)
    return replace(worst, sizes=tuple(size for proof in proofs for size in proof.sizes), like=evidence.like)


def _judge_trial(evidence: RegionEvidence) -> RegionProof:
    """Compare a region at the sizes of one run."""
    xp = array_namespace(evidence.original)
    sizes = (" and ".join("x".join(map(str, shape)) or "scalar" for shape in evidence.shapes),) if evidence.shapes else ()
    if tuple(evidence.original.shape) != tuple(evidence.folded.shape):
        return RegionProof(evidence.name, evidence.operations, math.inf, 0.0, math.inf, 0.0, sizes)
    # ±(1 + UNIT-sized) terms: the float64 sums of both sides, each no longer than `length`, over numbers no larger than `peak`.
    sums = 8 * evidence.length * UNIT
    bound = evidence.rounding * (1 + 2.0**-10) * evidence.magnitude + sums * (evidence.magnitude + evidence.peak) + evidence.slack
    residual = xp.abs(evidence.original - evidence.folded)
    nothing, one = xp.zeros_like(bound), xp.ones_like(bound)
    ratios = xp.where(bound > 0, residual / xp.where(bound > 0, bound, one), xp.where(residual == 0, nothing, math.inf * one))
    ratio = float(xp.max(ratios)) if math.prod(residual.shape) else 0.0
    largest = float(xp.max(residual)) if math.prod(residual.shape) else 0.0
    scale = float(xp.max(xp.abs(evidence.original))) if math.prod(residual.shape) else 0.0
    limit = float(xp.max(bound)) if math.prod(residual.shape) else 0.0
    return RegionProof(evidence.name, evidence.operations, largest, limit, math.inf if math.isnan(ratio) else ratio, scale, sizes)


def judge_output(evidence: OutputEvidence, *, proven: bool = False) -> OutputCheck:
    """Compare one output of the whole network with its bound.

    `proven` says that every region of the network has passed, so that nothing but rounding can part the two: then what rounding explains
    is allowed even where the original happens to lie closer to the truth.
    """
    original, folded = evidence.original, evidence.folded
    xp = array_namespace(original)
    if tuple(original.shape) != tuple(folded.shape):
        return OutputCheck(evidence.name, math.inf, 0.0, None, None, 0.0, None, False)
    if math.prod(original.shape) == 0:
        return OutputCheck(evidence.name, 0.0, 0.0, None, None, 0.0, None, True)
    if xp.isdtype(original.dtype, "complex floating"):
        return judge_output(_as_pairs(evidence), proven=proven)
    if not xp.isdtype(original.dtype, "real floating"):
        return _judge_integers(evidence)
    wide = [xp.astype(array, xp.float64) for array in (original, folded)]
    finite = xp.isfinite(wide[0]) & xp.isfinite(wide[1])
    both_nan = xp.isnan(wide[0]) & xp.isnan(wide[1])
    same_infinities = bool(xp.all(finite | both_nan | (wide[0] == wide[1])))
    zero = xp.zeros_like(wide[0])
    first, second = (xp.where(finite, array, zero) for array in wide)
    scale = float(xp.max(xp.abs(first)))
    gaps = xp.abs(first - second)
    difference = float(xp.max(gaps))
    spread = _histogram(gaps, scale)
    agreement = None
    if original.ndim == 2 and 2 <= original.shape[1] <= 100_000:
        agreement = float(xp.mean(xp.astype(xp.argmax(first, axis=1) == xp.argmax(second, axis=1), xp.float64)))
    # Both sides round on their way, by sqrt(length) units of the scale (Higham and Mary 2019, theorem 2.8).
    size = max(scale, evidence.example_scale)
    rounded = FACTOR * max(evidence.rounding * size * math.sqrt(max(1, evidence.length)), evidence.noise)
    if evidence.truth is None or evidence.rounding <= UNIT or not bool(xp.all(xp.isfinite(evidence.truth) | ~finite)):
        # No finer truth is to be had.
        passed = same_infinities and difference <= rounded
        return OutputCheck(evidence.name, difference, scale, None, None, rounded, agreement, passed, *spread)
    truth = xp.where(finite, evidence.truth, zero)
    errors = [float(xp.max(xp.abs(array - truth))) for array in (first, second)]
    bound = FACTOR * (errors[0] + evidence.rounding * size)
    if proven:
        bound = max(bound, rounded)
    passed = same_infinities and errors[1] <= bound
    return OutputCheck(evidence.name, difference, scale, errors[0], errors[1], bound, agreement, passed, *spread)


def judge_outputs(evidence: Iterable[OutputEvidence], *, proven: bool = False) -> tuple[OutputCheck, ...]:
    """Compare outputs with their bounds, and say where the order of items that all but tie is the difference.

    Numbers that are equal or not, as the places of the best k, may be in another order where the original's own are.
    """
    from refold.ordering import find_order  # with NumPy, which the help of the command line does not need

    evidence = tuple(evidence)
    checks = [judge_output(one, proven=proven) for one in evidence]
    for run in dict.fromkeys(one.run for one in evidence):
        places = [place for place, one in enumerate(evidence) if one.run == run and _has_order(one)]
        for place, order in zip(places, find_order([_as_run(evidence[place]) for place in places], FACTOR), strict=True):
            if order is not None:
                checks[place] = replace(checks[place], order=order, passed=checks[place].passed or evidence[place].rounding == 0)
    return tuple(checks)


def _has_order(evidence: OutputEvidence) -> bool:
    shape, xp = tuple(evidence.original.shape), array_namespace(evidence.original)
    is_complex = xp.isdtype(evidence.original.dtype, "complex floating")
    return bool(evidence.own) and not is_complex and math.prod(shape) > 0 and tuple(evidence.folded.shape) == shape


def _as_run(evidence: OutputEvidence) -> Run:
    """An output and the original's other ones, the float64 truth among them, as numpy in float64."""

    import numpy as np

    from refold.ordering import Run

    def plain(array: Any) -> Any:
        xp = array_namespace(array)
        return np.asarray(to_device(xp.astype(array, xp.float64), "cpu"))

    original = plain(evidence.original)
    others = evidence.own if evidence.truth is None else (*evidence.own, evidence.truth)
    finite = np.abs(original)[np.isfinite(original)]
    rounding = FACTOR * evidence.rounding * math.sqrt(max(1, evidence.length)) * float(finite.max(initial=0.0))
    return Run(original, plain(evidence.folded), tuple(map(plain, others)), rounding)


def _histogram(gaps: Any, scale: float) -> tuple[int, tuple[tuple[int, int], ...]]:
    """How many differences are none, and how many lie between each power of two of the scale and the next."""
    xp = array_namespace(gaps)
    unequal = gaps[gaps > 0] / (scale or 1.0)
    powers, counts = xp.unique_counts(xp.floor(xp.log2(unequal)))
    return math.prod(gaps.shape) - math.prod(unequal.shape), tuple((int(power), int(n)) for power, n in zip(powers, counts, strict=True))


def _judge_integers(evidence: OutputEvidence) -> OutputCheck:
    """Compare numbers that are equal or not: labels, masks, indices.

    They hang on comparisons that rounding tips over where two numbers all but tie, so the folded network may be wrong in `FACTOR` times
    as many places as the original is, one place among several granted.
    """
    original, folded, truth = evidence.original, evidence.folded, evidence.truth
    xp = array_namespace(original)
    places = math.prod(original.shape)

    def differing(one: Any, other: Any) -> int:
        return int(xp.sum(xp.astype(one != other, xp.int64)))

    between = differing(original, folded)
    errors = None if truth is None else (differing(original, truth), differing(folded, truth))
    granted = FACTOR * (errors[0] if errors else 0) + (1 if places > 1 else 0)
    wrong = errors[1] if errors else between
    mine, theirs = (None, None) if errors is None else (errors[0] / places, errors[1] / places)
    return OutputCheck(evidence.name, between / places, 1.0, mine, theirs, granted / places, 1 - between / places, wrong <= granted)


def _as_pairs(evidence: OutputEvidence) -> OutputEvidence:
    """Complex numbers as real and imaginary parts along a last axis."""
    xp = array_namespace(evidence.original)

    def pairs(array: Any) -> Any:
        return xp.stack([xp.real(array), xp.imag(array)], axis=-1)

    truth = None if evidence.truth is None else pairs(evidence.truth)
    rounding = float(xp.finfo(evidence.original.dtype).eps) / 2
    return replace(evidence, original=pairs(evidence.original), folded=pairs(evidence.folded), truth=truth, rounding=rounding)


def certify(
    regions: Iterable[RegionEvidence],
    outputs: Iterable[OutputEvidence],
    sizes: Iterable[SizeEvidence] = (),
    *,
    seed: int = 0,
    versions: Mapping[str, str] | None = None,
) -> Certificate:
    """Judge all evidence. The certificate says whether it passed; `demand` raises where it did not."""
    proofs = tuple(judge_region(one) for one in regions)
    proven = bool(proofs) and all(proof.passed for proof in proofs)
    checks = judge_outputs(outputs, proven=proven)
    elsewhere = tuple(judge_sizes(one, [check.scale for check in checks], proven=proven) for one in sizes)
    return Certificate(proofs, checks, seed, dict(versions or {}), elsewhere)


def judge_sizes(evidence: SizeEvidence, scales: Sequence[float] = (), *, proven: bool = False) -> SizeCheck:
    """Compare the whole network at other sizes; that the folded one says that it does not take them is no fault of its function.

    `scales` are those of the outputs on the example, in order, once or several times over.

    >>> import numpy as np
    >>> y = np.ones((1, 4), np.float32)
    >>> judge_sizes(SizeEvidence({"x": (1, 4)}, (OutputEvidence("y", y, y + 1, None, 2.0**-24, 1),))).passed
    False
    """
    if evidence.refusal is not None:
        return SizeCheck(dict(evidence.shapes), None, evidence.refusal, True)
    count = len(evidence.outputs)
    outputs = [replace(one, example_scale=max(scales[place::count], default=0.0)) for place, one in enumerate(evidence.outputs)]
    checks = judge_outputs(outputs, proven=proven)
    difference = max((one.difference / one.scale if one.scale else one.difference for one in checks), default=0.0)
    return SizeCheck(dict(evidence.shapes), difference, None, all(one.passed for one in checks))


def does_not_run(name: str, error: Exception) -> VerificationError:
    """What to raise where a region runs and what it was folded into does not, on the same input."""
    told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return VerificationError(
        f"what {name} was folded into does not run where the original does: {told}; nothing has been written, please report this model"
    )


def demand(certificate: Certificate) -> None:
    """Raise `VerificationError` that names the first comparison that failed."""
    for region in certificate.regions:
        if not region.passed:
            raise VerificationError(
                f"folding {region.name} ({', '.join(region.operations)}) changed its function: the float64 residual is "
                f"{region.residual:.3g}, {region.ratio:.3g} times its bound; nothing has been written, please report this model"
            )
    for output in certificate.outputs:
        if not output.passed:
            distance = output.difference if output.folded_error is None else output.folded_error
            raise VerificationError(
                f"output {output.name} of the folded model is {distance:.3g} away where at most {output.bound:.3g} is allowed "
                f"(scale {output.scale:.3g}); nothing has been written, please report this model"
            )
    for one in certificate.sizes:
        if not one.passed:
            shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in one.shapes.items())
            raise VerificationError(
                f"at other sizes than the example's ({shapes}) the folded model differs from the original by {one.difference:.3g} of the "
                "output's scale; nothing has been written, please report this model"
            )
