"""Quantization: figures worked out by hand, regions that get worse and that do not, and the int8 model of ONNX Runtime."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
import onnx
import torch
from torch import Tensor, nn

import refold
from refold.cli import main
from refold.errors import FoldError
from refold.nn import RepVggBlock
from refold.quantization import KernelFigures, Region, examine, find_regions, quantize

NETS = """
import torch
from torch import nn
from refold.nn import RepVggBlock
def net(): return nn.Sequential(RepVggBlock(3, 8), nn.Flatten(), nn.Linear(8 * 36, 5)), (torch.zeros(1, 3, 6, 6),)
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(RepVggBlock(3, 8), RepVggBlock(8, 8, identity=True), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "samples.npz"
    np.savez(path, rng.standard_normal((40, 3, 6, 6)).astype(np.float32))
    return path


def by_hand(kernel: list[list[float]], scale: float) -> float:
    numbers = [number for row in kernel for number in row]
    return sum((number - round(number / scale) * scale) ** 2 for number in numbers) / sum(number**2 for number in numbers)


def test_figures_against_a_loop_by_hand() -> None:
    kernel = [[1.0, -0.31, 0.017], [0.02, -0.013, 0.0171]]
    figures = KernelFigures.of("layer", np.array(kernel)[:, :, None])
    assert figures.per_tensor == pytest.approx(-10 * math.log10(by_hand(kernel, 1 / 127)))
    channels = [by_hand(kernel[:1], 1 / 127), by_hand(kernel[1:], 0.02 / 127)]
    assert figures.per_channel == pytest.approx(-10 * math.log10(sum(channels) / 2))
    assert (figures.largest, figures.smallest_channel, figures.shape) == (1.0, 0.02, (2, 3, 1))


def test_kurtosis_is_three_for_normal_numbers_and_more_for_long_tails(rng: np.random.Generator) -> None:
    assert KernelFigures.of("normal", rng.standard_normal((100, 1000))).kurtosis == pytest.approx(3, abs=0.1)  # deviation 0.015
    assert KernelFigures.of("uniform", rng.random((100, 1000))).kurtosis == pytest.approx(1.8, abs=0.1)
    assert KernelFigures.of("laplace", rng.laplace(size=(100, 1000))).kurtosis > 5
    assert math.isnan(KernelFigures.of("one number", np.ones((2, 2))).kurtosis)


def test_what_needs_no_rounding_has_no_noise() -> None:
    assert KernelFigures.of("whole", np.array([[127.0, -3.0], [1.0, 0.0]])).per_tensor == math.inf
    assert KernelFigures.of("zeros", np.zeros((2, 2))).per_channel == math.inf


def test_an_identity_beside_small_kernels_makes_a_region_worse(x: Tensor) -> None:
    regions = list(find_regions(refold.fold(network(), (x,), verify=False)))
    assert [len(region.before) for region in regions] == [2, 2]
    assert {one.name for one in regions[1].before} == {"1.conv1.conv.weight", "1.conv2.conv.weight"}
    assert regions[1].worse == ("per tensor", "per channel")
    assert regions[1].after.kurtosis > max(one.kurtosis for one in regions[1].before)


def test_a_scale_for_each_channel_is_no_hazard_per_channel(x: Tensor) -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16))
    assert isinstance(block[1], nn.BatchNorm2d)
    with torch.no_grad():
        block[1].weight.copy_(torch.logspace(-2, 2, 16))
    (region,) = find_regions(refold.fold(block, (x,), verify=False))
    assert region.worse == ("per tensor",)
    with torch.no_grad():
        block[1].weight.fill_(0.3)
    (region,) = find_regions(refold.fold(block, (x,), verify=False))
    assert region.worse == ()


def test_a_region_is_worse_where_it_is_noisier_than_all_that_went_in() -> None:
    def figures(decibels: float) -> KernelFigures:
        return KernelFigures("k", (1, 1), 1.0, 1.0, 3.0, decibels, decibels)

    before = (figures(40.0), figures(30.0))
    assert Region("r", before, figures(29.9)).worse == ("per tensor", "per channel")
    assert Region("r", before, figures(35.0)).worse == ()
    assert Region("r", (figures(math.inf),), figures(math.inf)).worse == ()
    assert Region("r", (), figures(1.0)).worse == ()


def test_onnx_files_have_regions_too(x: Tensor, tmp_path: Path) -> None:
    from refold.dialects import aten

    path = tmp_path / "train.onnx"
    aten.save(network(), (x,), {}, str(path), "onnx")
    report = examine(path)
    assert [len(region.before) for region in report.regions][-1] == 2
    assert report.regions[-1].worse == ("per tensor", "per channel")


def test_the_int8_model_is_calibrated_kept_and_compared(x: Tensor, samples: Path, tmp_path: Path) -> None:
    kept = tmp_path / "int8.onnx"
    report = examine(network(), (x,), data=samples, int8=kept)
    assert report.trial is not None
    assert report.trial.calibrated_on == report.trial.folded.samples == report.trial.int8.samples == 40
    assert report.trial.folded.top_1 == 1.0
    assert report.trial.folded.relative < 1e-5 < report.trial.int8.relative < 0.2
    model = onnx.load(kept)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 2
    assert "QuantizeLinear" in kinds
    scales = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer if tensor.name.endswith("weight_scale")}
    assert (8,) in scales.values()  # one for each output channel
    data = json.loads(json.dumps(report.to_dict()))
    assert data["trial"]["int8"]["relative"] == report.trial.int8.relative
    assert data["regions"][1]["worse"] == ["per tensor", "per channel"]
    table = str(report)
    assert "2 folded kernels, " in table
    assert "folded, int8" in table
    assert f"{report.regions[0].after.per_tensor:.1f}" in table


def test_a_model_of_one_batch_is_given_batches_of_that_size(x: Tensor, samples: Path, tmp_path: Path) -> None:
    path = refold.fold(network(), (x,), verify=False).save(tmp_path / "free.onnx")
    model = onnx.load(path)
    for size, number in zip(model.graph.input[0].type.tensor_type.shape.dim, (24, 3, 6, 6), strict=True):
        size.dim_value = number
    onnx.save(model, tmp_path / "fixed.onnx")
    report = examine(tmp_path / "fixed.onnx", data=samples)
    assert report.trial is not None
    assert report.trial.int8.samples == report.trial.calibrated_on == 24
    for size in model.graph.input[0].type.tensor_type.shape.dim[:1]:
        size.dim_value = 64
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(FoldError, match=r"samples.npz holds 40 samples and the model takes 64 at a time; give at least as many"):
        examine(tmp_path / "large.onnx", data=samples)


def test_int8_without_data_is_refused(x: Tensor, tmp_path: Path) -> None:
    with pytest.raises(FoldError, match=r"int8.onnx needs data to be calibrated on; give samples, as in --data samples.npz"):
        examine(network(), (x,), int8=tmp_path / "int8.onnx")


def test_samples_that_do_not_fit_are_refused_and_nothing_is_left(x: Tensor, tmp_path: Path, rng: np.random.Generator) -> None:
    path = refold.fold(network(), (x,), verify=False).save(tmp_path / "deploy.onnx")
    wrong = rng.standard_normal((4, 2, 6, 6)).astype(np.float32)
    with pytest.raises(FoldError, match=r"ONNX Runtime cannot quantize the folded model: .*; give samples of the shapes that it takes"):
        quantize(path, tmp_path / "int8.onnx", [(wrong,)])
    assert not (tmp_path / "int8.onnx").exists()


def test_a_network_where_nothing_folds(x: Tensor) -> None:
    report = examine(nn.Conv2d(3, 4, 3), (x,))
    assert report.regions == ()
    assert "0 folded kernels" in str(report)


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: Path) -> None:
    (tmp_path / "quantization_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def explain(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(main, ["explain", "quantization_nets:net", *arguments])
        return result.exit_code, result.stdout, result.stderr

    status, out, err = explain("--quantization", "--data", "samples.npz", "--int8", "kept.onnx")
    assert (status, err) == (0, "")
    assert "1 folded kernel, " in out
    assert (tmp_path / "kept.onnx").exists()
    status, out, _ = explain("--quantization", "--json")
    assert status == 0
    assert json.loads(out)["regions"][0]["name"].startswith("0")
    assert json.loads(out)["trial"] is None
    status, _, err = explain("--data", "samples.npz")
    assert status == 2
    assert "--data and --int8 go with --quantization; add it" in err
    status, _, err = explain("--quantization", "--data", "samples.npz", "--int8", "kept.pt2")
    assert status == 2
    assert "cannot write kept.pt2" in err
