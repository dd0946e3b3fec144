"""The judges: right answers pass, answers that are wrong by little fail, and bounds follow the dtype."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from refold.errors import VerificationError
from refold.verification import (
    FACTOR,
    Certificate,
    OutputEvidence,
    RegionEvidence,
    SizeEvidence,
    certify,
    demand,
    judge_output,
    judge_region,
)

ROUNDING = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def folded_layer(dtype: torch.dtype, change: Any = None) -> RegionEvidence:
    """A scale after a convolution of 8 channels against the one convolution, its weights rounded to `dtype`, in float64."""
    generator = torch.Generator().manual_seed(3)
    kernel = torch.randn(8, 8, 3, 3, dtype=torch.float64, generator=generator)
    scale, bias = (torch.randn(8, dtype=torch.float64, generator=generator) for _ in range(2))
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64, generator=generator)
    original = torch.conv2d(x, kernel, padding=1) * scale[:, None, None] + bias[:, None, None]
    weight, offset = (kernel * scale[:, None, None, None]).to(dtype).double(), bias.to(dtype).double()
    if change is not None:
        weight, offset = change(weight, offset)
    folded = torch.conv2d(x, weight, offset, padding=1)
    magnitude = torch.conv2d(x.abs(), weight.abs(), offset.abs(), padding=1)
    return RegionEvidence(
        "stage", ("conv2d", "mul", "add"), original, folded, magnitude, float(original.abs().max()), 8 * 9 + 1, ROUNDING[dtype]
    )


def off(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One weight of 576 off by 1e-4 of itself."""
    weight = weight.clone()
    weight[3, 4, 1, 1] *= 1 + 1e-4
    return weight, bias


@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_rounded_fold_passes(dtype: torch.dtype) -> None:
    proof = judge_region(folded_layer(dtype))
    assert proof.passed
    assert 0 < proof.residual < proof.bound
    assert proof.ratio <= 1


@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_region_with_weights_of_a_lower_precision_fails(dtype: torch.dtype) -> None:
    """The bound is that of the dtype, not a wide one for all."""
    evidence = folded_layer(dtype)
    lower = {torch.float64: torch.float32, torch.float32: torch.float16}.get(dtype)
    if lower is None:
        coarse = folded_layer(dtype, lambda weight, bias: ((weight * 16).round() / 16, bias))
    else:
        coarse = replace(folded_layer(lower), rounding=evidence.rounding)
    assert not judge_region(coarse).passed


WRONG: dict[str, Any] = {
    "one weight off by 1e-4 of itself": off,
    "two channels swapped": lambda weight, bias: (weight[[1, 0, 2, 3, 4, 5, 6, 7]], bias[[1, 0, 2, 3, 4, 5, 6, 7]]),
    "two input channels swapped": lambda weight, bias: (weight[:, [1, 0, 2, 3, 4, 5, 6, 7]], bias),
    "flipped": lambda weight, bias: (weight.flip(-1), bias),
    "a bias off by 1e-4": lambda weight, bias: (weight, bias + 1e-4 * torch.eye(8, dtype=torch.float64)[2]),
    "one NaN": lambda weight, bias: (weight, bias.where(torch.arange(8) != 2, math.nan)),
    "one infinity": lambda weight, bias: (weight, bias.where(torch.arange(8) != 2, math.inf)),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_region_that_is_slightly_wrong_fails(change: Any, dtype: torch.dtype) -> None:
    proof = judge_region(folded_layer(dtype, change))
    assert not proof.passed
    assert not certify([folded_layer(dtype), folded_layer(dtype, change)], []).passed


def test_a_border_that_is_wrong_in_one_place_fails() -> None:
    evidence = folded_layer(torch.float32)
    folded = evidence.folded.clone()
    folded[1, 5, 0, 6] += 1e-3
    assert not judge_region(replace(evidence, folded=folded)).passed


def test_what_a_fold_says_it_changed_is_granted_and_no_more() -> None:
    """A constant that was taken for another adds so much to the bound where it is seen, and there alone."""
    evidence = folded_layer(torch.float32)
    slack = torch.zeros(8, 1, 1, dtype=torch.float64)
    slack[2] = 1e-3
    plain, granted = judge_region(evidence), judge_region(replace(evidence, slack=slack))
    assert granted.bound == pytest.approx(1e-3, rel=0.1)
    assert granted.residual == plain.residual
    for channel, moved, passed in ((2, 1e-3, True), (2, 1.1e-3, False), (3, 1e-3, False)):
        folded = evidence.original.clone()
        folded[:, channel] += moved
        assert judge_region(replace(evidence, folded=folded, slack=slack)).passed is passed
        assert not judge_region(replace(evidence, folded=folded)).passed


def test_a_region_of_another_shape_fails() -> None:
    evidence = folded_layer(torch.float32)
    proof = judge_region(replace(evidence, folded=evidence.folded[..., 1:]))
    assert (proof.passed, proof.residual, proof.ratio) == (False, math.inf, math.inf)
    broadcast = replace(evidence, original=evidence.original[:1], folded=evidence.folded[:1, :, :, :1])
    assert not judge_region(broadcast).passed


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_where_nothing_may_differ_nothing_does(library: str) -> None:
    """A position whose bound is zero takes zero alone, without a warning."""
    zeros: Any = np.zeros(3) if library == "numpy" else torch.zeros(3, dtype=torch.float64)
    evidence = RegionEvidence("r", ("slice",), zeros, zeros, zeros, 0.0, 1, 2.0**-24)
    assert judge_region(evidence).passed
    assert not judge_region(replace(evidence, folded=zeros + 1e-30)).passed
    assert not judge_region(replace(evidence, folded=zeros + 1e10)).passed


def test_an_empty_region_passes() -> None:
    empty = np.zeros((2, 0))
    assert judge_region(RegionEvidence("r", ("mul",), empty, empty, empty, 0.0, 1, 2.0**-24)).passed


def test_bounds_of_regions_scale_with_the_dtype() -> None:
    bounds = [judge_region(folded_layer(dtype)).bound / rounding for dtype, rounding in ROUNDING.items() if dtype != torch.float64]
    assert max(bounds) / min(bounds) < 1.01


# ------------------------------------------------------------------------------------------------------------------------ whole outputs


def output(folded_error: float = 1e-7, original_error: float = 1e-7, dtype: torch.dtype = torch.float32) -> OutputEvidence:
    """Class scores of 16 items, each side off the truth by a given error in one place."""
    truth = torch.rand(16, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    truth[0, 0] = 1.0
    original, folded = truth.clone(), truth.clone()
    original[3, 3] += original_error
    folded[5, 5] += folded_error
    return OutputEvidence("output", original.to(dtype), folded.to(dtype), truth, ROUNDING[dtype], 30)


def test_an_output_as_near_the_truth_as_the_original_passes() -> None:
    check = judge_output(output())
    assert check.passed
    assert check.agreement == 1.0
    assert check.original_error is not None
    assert check.bound == FACTOR * (check.original_error + 2.0**-24 * check.scale)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_an_output_further_from_the_truth_than_its_bound_fails(dtype: torch.dtype) -> None:
    unit = ROUNDING[dtype]
    if dtype == torch.float64:
        pytest.skip("nothing is finer than float64")
    assert judge_output(output(2 * unit, 2 * unit, dtype)).passed
    assert not judge_output(output(40 * unit, 2 * unit, dtype)).passed
    assert judge_output(output(40 * unit, 20 * unit, dtype)).passed


@pytest.mark.parametrize("dtype", ROUNDING)
def test_without_a_finer_truth_the_bound_is_the_rounding_of_sums(dtype: torch.dtype) -> None:
    evidence = output(16 * ROUNDING[dtype], 0.0, dtype)
    if dtype != torch.float64:
        evidence = replace(evidence, truth=None)
    check = judge_output(evidence)
    assert check.passed
    assert (check.original_error, check.folded_error) == (None, None)
    assert check.bound == FACTOR * ROUNDING[dtype] * math.sqrt(30)
    assert not judge_output(replace(evidence, length=4)).passed
    assert not judge_output(replace(evidence, folded=evidence.folded[:, [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]])).passed


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("change", ["NaN", "infinity", "swapped", "shape", "zeros"])
def test_an_output_that_is_wrong_fails(change: str, truth: bool) -> None:
    evidence = output()
    folded = evidence.folded.clone()
    match change:
        case "NaN":
            folded[2, 2] = math.nan
        case "infinity":
            folded[2, 2] = math.inf
        case "swapped":
            folded = folded.flip(1)
        case "shape":
            folded = folded[:1]
        case "zeros":
            folded = 0 * folded
    check = judge_output(replace(evidence, folded=folded, truth=evidence.truth if truth else None))
    assert not check.passed
    assert check.agreement is None or change not in ("swapped", "zeros") or check.agreement < 1


@pytest.mark.parametrize("truth", [True, False])
def test_numbers_that_are_not_finite_must_be_the_same(truth: bool) -> None:
    evidence = output()
    assert evidence.truth is not None
    values = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
    for mine, a in values.items():
        for theirs, b in values.items():
            original, folded, exact = evidence.original.clone(), evidence.folded.clone(), evidence.truth.clone()
            original[2, 2] = exact[2, 2] = a
            folded[2, 2] = b
            check = judge_output(replace(evidence, original=original, folded=folded, truth=exact if truth else None))
            assert check.passed == (mine == theirs), (mine, theirs)


def test_integers_must_agree_but_for_one_tie() -> None:
    labels = torch.tensor([3, 1, 2, 2])
    evidence = OutputEvidence("labels", labels, labels.clone(), None, 0.0, 5)
    assert judge_output(evidence).passed
    check = judge_output(replace(evidence, folded=torch.tensor([3, 1, 2, 0])))
    assert (check.agreement, check.passed) == (0.75, True)
    assert not judge_output(replace(evidence, folded=torch.tensor([3, 1, 0, 0]))).passed
    assert not judge_output(OutputEvidence("label", labels[:1], labels[1:2], None, 0.0, 5)).passed
    masks = OutputEvidence("mask", labels > 2, labels > 2, None, 0.0, 5)
    assert judge_output(masks).passed
    assert not judge_output(replace(masks, folded=labels <= 2)).passed


def test_integers_may_disagree_where_the_original_disagrees_with_the_truth() -> None:
    truth = torch.tensor([3, 1, 2, 2, 0, 0, 0, 0])
    original, folded = truth.clone(), truth.clone()
    original[0] = 0
    folded[1] = 0
    evidence = OutputEvidence("labels", original, folded, truth, 0.0, 5)
    assert judge_output(evidence).passed
    assert not judge_output(replace(evidence, folded=1 - truth)).passed


def test_complex_numbers_are_compared() -> None:
    original = torch.view_as_complex(torch.rand(4, 2, generator=torch.Generator().manual_seed(1)))
    evidence = OutputEvidence("spectrum", original, original.clone(), None, 2.0**-24, 3)
    assert judge_output(evidence).passed
    assert not judge_output(replace(evidence, folded=original.conj().resolve_conj())).passed


def test_an_empty_output_passes() -> None:
    empty = torch.zeros(0, 10)
    assert judge_output(OutputEvidence("output", empty, empty, empty.double(), 2.0**-24, 3)).passed


def test_differences_are_counted_by_powers_of_two_of_the_scale() -> None:
    original = torch.tensor([[8.0, 1.0, 2.0, 4.0, 0.5]])
    gaps = torch.tensor([[0.0, 8 * 2.0**-10, 8 * 1.5 * 2.0**-10, 8 * 2.0**-9, 0.0]])
    check = judge_output(OutputEvidence("output", original, original + gaps, original.double(), 2.0**-24, 3))
    assert (check.equal, check.histogram) == (2, ((-10, 2), (-9, 1)))
    assert check.equal + sum(count for _, count in check.histogram) == original.numel()
    same = judge_output(OutputEvidence("output", original, original.clone(), original.double(), 2.0**-24, 3))
    assert (same.equal, same.histogram) == (5, ())


def test_a_network_of_zeros_has_no_room() -> None:
    zeros = torch.zeros(2, 3)
    evidence = OutputEvidence("output", zeros, zeros, zeros.double(), 2.0**-24, 3)
    assert judge_output(evidence).passed
    assert not judge_output(replace(evidence, folded=zeros + 1e-6)).passed


def test_numpy_arrays_are_judged_alike() -> None:
    region = folded_layer(torch.float32)
    arrays = replace(region, original=region.original.numpy(), folded=region.folded.numpy(), magnitude=region.magnitude.numpy())
    assert judge_region(arrays) == judge_region(region)
    whole = output()
    assert whole.truth is not None
    assert judge_output(replace(whole, original=whole.original.numpy(), folded=whole.folded.numpy(), truth=whole.truth.numpy())) == (
        judge_output(whole)
    )


# ----------------------------------------------------------------------------------------------------------------------- the certificate


def test_a_certificate_passes_and_is_plain_data() -> None:
    certificate = certify([folded_layer(torch.float32)], [output()], seed=7, versions={"torch": "2"})
    assert certificate.passed
    demand(certificate)
    data = json.loads(json.dumps(certificate.to_dict()))
    assert (data["passed"], data["seed"], data["versions"]) == (True, 7, {"torch": "2"})
    assert data["regions"][0]["name"] == "stage"
    assert data["largest_difference"] == certificate.largest_difference > 0
    text = str(certificate)
    assert text.startswith("1 region compared in float64, the worst at 0.")
    assert "from the float64 truth" in text
    assert text.endswith("same function")
    assert "NOT" not in text


def test_nothing_to_compare_passes() -> None:
    certificate = certify([], [])
    assert certificate == Certificate()
    assert (certificate.passed, certificate.largest_difference) == (True, 0.0)
    assert str(certificate) == "nothing was compared"


def test_a_certificate_says_no_more_than_was_compared() -> None:
    assert str(certify([folded_layer(torch.float32)], [])).endswith("\nsame function in each region; the outputs were not compared")
    assert str(certify([], [output()])).endswith("\nsame function")
    assert str(certify([folded_layer(torch.float32, off)], [])).endswith("\nNOT the same function")


def test_demand_names_the_region_that_failed() -> None:
    certificate = certify([folded_layer(torch.float32), replace(folded_layer(torch.float32, off), name="neck")], [output()])
    with pytest.raises(
        VerificationError, match=r"folding neck \(conv2d, mul, add\) changed its function: the float64 residual is .*times its bound"
    ):
        demand(certificate)
    assert str(certificate).endswith("NOT the same function")


def test_demand_names_the_output_that_failed() -> None:
    with pytest.raises(VerificationError, match=r"output output of the folded model is 0\.1 away where at most .* is allowed \(scale 1\)"):
        demand(certify([folded_layer(torch.float32)], [output(0.1)]))
    with pytest.raises(VerificationError, match=r"is 0\.1 away where at most"):
        demand(certify([], [replace(output(0.1, 0.0), truth=None)]))


def test_a_truth_that_is_not_finite_where_the_original_is_proves_nothing() -> None:
    """An infinite error of the original is no room for the folded network."""
    evidence = output()
    assert evidence.truth is not None
    truth = evidence.truth.clone()
    truth[2, 2] = math.inf
    assert judge_output(replace(evidence, truth=truth)).passed
    assert not judge_output(replace(evidence, truth=truth, folded=evidence.folded + 1)).passed


def test_what_rounding_explains_passes_only_where_every_region_did() -> None:
    truth = np.linspace(-1.0, 1.0, 64)
    original = truth.astype(np.float32)
    folded = original + np.float32(16 * 2.0**-24)
    evidence = OutputEvidence("output", original, folded, truth, 2.0**-24, 10_000)
    assert not judge_output(evidence).passed
    assert judge_output(evidence, proven=True).passed
    region = RegionEvidence("r", ("conv2d",), truth, truth, abs(truth), 1.0, 1, 2.0**-24)
    wrong = RegionEvidence("r", ("conv2d",), truth, truth + 1e-3, abs(truth), 1.0, 1, 2.0**-24)
    assert certify([region], [evidence]).passed
    assert not certify([region, wrong], [evidence]).passed
    assert not certify([], [evidence]).passed
    far = OutputEvidence("output", original, original + np.float32(1e-3), truth, 2.0**-24, 10_000)
    assert not judge_output(far, proven=True).passed


def test_what_cancels_at_another_size_is_measured_by_the_example() -> None:
    unit = 2.0**-24
    example = OutputEvidence("y", np.ones((1, 4), np.float32), np.ones((1, 4), np.float32), None, unit, 4)
    zeros = np.zeros((1, 2), np.float32)
    for off, passed in ((2 * unit, True), (20 * unit, False)):
        elsewhere = SizeEvidence({"x": (1, 2)}, (OutputEvidence("y", zeros, zeros + np.float32(off), None, unit, 4),))
        assert certify((), (example,), (elsewhere,)).passed is passed
        assert certify((), (), (elsewhere,)).passed is False
