"""What acts on the channels alone folds across rearrangements of the other axes, in both dialects, and nothing gets dearer."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import refold
from refold.report import Report
from tests.dialects.onnx.models import run
from tests.families import layouts
from tests.families.test_folding import EXACT, distances, noise, settled

Shape = tuple[int, ...]

# The model, an input, the convolutions and linear layers that are left, and the operators in PyTorch before and after.
CASES: dict[str, tuple[Callable[[], nn.Module], Shape, int, tuple[int, int]]] = {
    "LinearNorm": (layouts.LinearNorm, (2, 5, 8), 1, (5, 2)),
    "ChannelsLast": (layouts.ChannelsLast, (2, 8, 9, 7), 1, (6, 3)),
    "TokensNorm": (layouts.TokensNorm, (2, 5, 8), 1, (3, 2)),
    "PatchEmbed": (layouts.PatchEmbed, (2, 8, 12, 20), 1, (5, 4)),
    "ThereAndBack": (layouts.ThereAndBack, (2, 8, 9, 7), 1, (5, 1)),
    "Tokens": (layouts.Tokens, (2, 8, 9, 7), 1, (8, 2)),
    "Shuffle": (layouts.Shuffle, (2, 8, 9, 7), 2, (7, 3)),
    "ShuffleBehind": (layouts.ShuffleBehind, (2, 8, 9, 7), 1, (6, 2)),
    "FlatHead": (layouts.FlatHead, (2, 8, 9, 7), 2, (5, 4)),
    "Frames": (layouts.Frames, (2, 4, 3, 9, 7), 1, (6, 5)),
    "TwoRoots": (layouts.TwoRoots, (2, 5, 8), 2, (8, 7)),
    "Residual": (layouts.Residual, (2, 8, 9, 7), 3, (8, 7)),
    "Swapped": (layouts.Swapped, (2, 8, 9, 7), 1, (4, 3)),
    "ShapeOfTheNorm": (layouts.ShapeOfTheNorm, (2, 8, 9, 7), 1, (5, 4)),
    "Heads": (layouts.Heads, (2, 5, 8), 1, (8, 3)),
}
FIXED = {"FlatHead"}
"""Networks that take one size of image."""


def exported(model: nn.Module, x: Tensor, path: Path, **options: Any) -> Path:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), input_names=["x"], **options)
    return path


def assert_proven(report: Report, layers: int) -> None:
    before, after = report.before, report.after
    assert report.certificate is not None
    assert report.certificate.passed
    assert after.convolutions + after.linears == layers
    assert after.batch_norms == 0
    assert after.operators < before.operators
    assert after.multiply_adds <= before.multiply_adds
    assert after.parameters <= before.parameters


@pytest.mark.parametrize("name", CASES)
def test_a_module_folds_across_layouts(name: str, seed: int) -> None:
    make, shape, layers, operators = CASES[name]
    model, x = settled(make()), noise(*shape)
    result = refold.fold(model, (x,))
    assert_proven(result.report, layers)
    assert (result.report.before.operators, result.report.after.operators) == operators
    other = noise(3, *shape[1:]) if name in FIXED else noise(3, *(size if size in (3, 8) else size + 4 for size in shape[1:]))
    for one in (x, other):
        assert distances(model(one), result.model(one)) < EXACT


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_file_folds_across_layouts(name: str, dynamo: bool, tmp_path: Path, seed: int) -> None:
    make, shape, layers, _ = CASES[name]
    model, x = settled(make(), torch.float32), noise(*shape, dtype=torch.float32)
    result = refold.fold(exported(model, x, tmp_path / "in.onnx", dynamo=dynamo))
    assert_proven(result.report, layers)
    (out,) = run(onnx.load(result.save(tmp_path / "out.onnx")), {"x": x.numpy()})
    with torch.no_grad():
        assert np.abs(out - model(x).numpy()).max() <= 2.0**-18 * np.abs(out).max()


@pytest.mark.parametrize("name", ["LinearNorm", "ChannelsLast", "TokensNorm", "PatchEmbed", "ThereAndBack", "Tokens", "Shuffle"])
def test_a_file_with_a_free_batch_folds_across_layouts(name: str, tmp_path: Path, seed: int) -> None:
    make, shape, layers, _ = CASES[name]
    model, x = settled(make(), torch.float32), noise(*shape, dtype=torch.float32)
    result = refold.fold(exported(model, x, tmp_path / "in.onnx", dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},)))
    assert_proven(result.report, layers)


@pytest.mark.parametrize("name", ["LinearNorm", "ChannelsLast", "TokensNorm", "PatchEmbed", "ThereAndBack", "Tokens", "ShapeOfTheNorm"])
def test_a_file_whose_shapes_are_worked_out_folds_across_layouts(name: str, tmp_path: Path, seed: int) -> None:
    make, shape, layers, _ = CASES[name]
    model, x = settled(make(), torch.float32), noise(*shape, dtype=torch.float32)
    source = exported(model, x, tmp_path / "in.onnx", dynamo=False, dynamic_axes={"x": {0: "n"}})
    result = refold.fold(source)
    assert_proven(result.report, layers)
    out = onnx.load(result.save(tmp_path / "out.onnx"))
    for batch in (1, 2, 3):
        one = noise(batch, *shape[1:], dtype=torch.float32)
        with torch.no_grad():
            truth = model(one).numpy()
        assert np.abs(run(out, {"x": one.numpy()})[0] - truth).max() <= 2.0**-18 * np.abs(truth).max()


def test_what_two_norms_read_stays(seed: int) -> None:
    result = refold.fold(settled(layouts.TwoReaders()), (noise(2, 5, 8),))
    assert result.report.after.batch_norms == 2
    assert result.report.after.operators == result.report.before.operators
    (refusal,) = result.report.refusals
    assert refusal.law == "cost"
    assert "since 2 nodes read it" in refusal.fact


class Split(nn.Module):
    """A product over half of the channels, one half after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(8, 12, 1), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return torch.relu(self.fc(self.conv(x).view(b, 2, 6, h, w).permute(0, 1, 3, 4, 2)))


def test_channels_that_are_torn_apart_are_refused_by_name(seed: int) -> None:
    result = refold.fold(settled(Split()), (noise(2, 8, 9, 7),))
    assert result.report.folds == ()
    (refusal,) = result.report.refusals
    assert refusal.law == "rearrangement"
    assert "the 6 channels are not one whole axis on the other side" in refusal.fact


class Grouped(nn.Module):
    """A shuffle between two convolutions in groups, with nothing else between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(8, 12, 1, groups=2), nn.Conv2d(12, 12, 3, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        return torch.relu(self.last(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)))


def test_a_shuffle_between_groups_is_refused_by_name(seed: int) -> None:
    result = refold.fold(settled(Grouped()), (noise(2, 8, 9, 7),))
    assert result.report.folds == ()
    (refusal,) = result.report.refusals
    assert refusal.law == "rearrangement"
    assert "the second map takes them in 4 groups" in refusal.fact
