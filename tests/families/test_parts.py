"""Parts of the channels and products along an axis fold in both dialects where that is no dearer, and what does not says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import refold
from refold.report import Report
from tests.dialects.onnx.models import run
from tests.families import parts
from tests.families.test_folding import EXACT, distances, noise, settled
from tests.families.test_layouts import exported

Shape = tuple[int, ...]
IMAGE, TOKENS = (2, 8, 9, 7), (2, 5, 8)

# The model, an input, the convolutions and linear layers that are left, the batch norms, and what a refusal says.
CASES: dict[str, tuple[Callable[[], nn.Module], Shape, int, int, str]] = {
    "Halves": (parts.Halves, IMAGE, 2, 0, ""),
    "Cropped": (parts.Cropped, IMAGE, 1, 0, ""),
    "Unsplit": (parts.Unsplit, IMAGE, 2, 0, ""),
    "SwappedHalves": (parts.SwappedHalves, IMAGE, 2, 0, ""),
    "Bottlenecks": (parts.Bottlenecks, IMAGE, 3, 0, "only some parts of a concatenation merge"),
    "PartialConv": (parts.PartialConv, IMAGE, 3, 0, "multiply-adds instead of"),
    "NormOfAPart": (parts.NormOfAPart, IMAGE, 1, 1, "2 nodes read it, some of them a part of its channels"),
    "Einsum": (parts.Einsum, IMAGE, 2, 0, ""),
    "FromTheLeft": (parts.FromTheLeft, IMAGE, 1, 0, ""),
    "FromTheRight": (parts.FromTheRight, TOKENS, 1, 0, ""),
    "Masked": (parts.Masked, IMAGE, 1, 0, ""),
    "Pooled": (parts.Pooled, IMAGE, 2, 0, ""),
    "PooledBehind": (parts.PooledBehind, TOKENS, 1, 0, ""),
    "Span": (parts.Span, IMAGE, 2, 0, ""),
}
STAY = {"NormOfAPart"}
"""Networks in which nothing folds; the exporters merge the norms of others themselves."""


def assert_as_stated(report: Report, name: str) -> None:
    _, _, layers, norms, refusal = CASES[name]
    before, after = report.before, report.after
    assert report.certificate is not None
    assert report.certificate.passed
    assert after.convolutions + after.linears == layers
    assert after.batch_norms == norms
    assert after.operators <= before.operators
    assert after.multiply_adds <= before.multiply_adds
    assert after.parameters <= before.parameters
    assert any(refusal in one.fact for one in report.refusals) or not refusal


@pytest.mark.parametrize("name", CASES)
def test_a_module(name: str, seed: int) -> None:
    make, shape, *_ = CASES[name]
    model, x = settled(make()), noise(*shape)
    result = refold.fold(model, (x,))
    assert_as_stated(result.report, name)
    assert bool(result.report.folds) == (name not in STAY)
    for one in (x, noise(3, *(size if size == 8 else size + 4 for size in shape[1:]))):
        assert distances(model(one), result.model(one)) < EXACT


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_file(name: str, dynamo: bool, tmp_path: Path, seed: int) -> None:
    make, shape, *_ = CASES[name]
    model, x = settled(make(), torch.float32), noise(*shape, dtype=torch.float32)
    result = refold.fold(exported(model, x, tmp_path / "in.onnx", dynamo=dynamo))
    assert_as_stated(result.report, name)
    (out,) = run(onnx.load(result.save(tmp_path / "out.onnx")), {"x": x.numpy()})
    with torch.no_grad():
        assert np.abs(out - model(x).numpy()).max() <= 2.0**-18 * np.abs(out).max()
