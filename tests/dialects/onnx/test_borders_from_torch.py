"""Blocks that overwrite a border with slice assignments, from both exporters of torch: one convolution, or the fact that forbids it."""

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
from onnx import TensorProto, numpy_helper

import refold
from refold.folding import FoldResult
from refold.verification import FACTOR
from tests.dialects.onnx.folding import written
from tests.dialects.onnx.models import kinds, run

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")


def blocks() -> dict[str, Callable[[], Any]]:
    """The blocks by name, from modules that need torch."""
    from refold.nn import DiverseBranchBlock
    from tests.families.models import DBB, ECB

    return {
        "DBB": DBB,
        "DBB, kernel 5, stride 2": lambda: DBB(8, 16, kernel=5, groups=2, stride=2),
        "DBB of ours": lambda: DiverseBranchBlock(8, 8),
        "ECB": ECB,
    }


BLOCKS = blocks()
FREE = {0: "n", 2: "h", 3: "w"}


def exported(make: Callable[[], Any], path: Path, *, batch: int = 2, **options: Any) -> Any:
    """The block in eval with statistics that a training would leave, in a file."""
    torch.manual_seed(1)
    block = make().eval()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(block, (torch.randn(batch, 8, 12, 12),), str(path), input_names=["x"], **options)
    return block


def assert_one_convolution(result: FoldResult, block: Any, *shapes: tuple[int, ...]) -> None:
    """One Conv, the function of the block, and as near the truth as the file that it was made of."""
    new = written(result)
    assert kinds(new).count("Conv") == 1
    assert not {"ScatterND", "Pad", "BatchNormalization", "AveragePool", "Add"} & set(kinds(new))
    certificate = result.report.certificate
    assert certificate is not None
    known = [output for output in certificate.outputs if output.original_error is not None]
    assert known
    for output in known:
        assert output.original_error is not None
        assert output.folded_error is not None
        assert output.folded_error <= FACTOR * (output.original_error + 2.0**-24 * output.scale)
    for shape in shapes:
        x = torch.randn(shape)
        with torch.no_grad():
            expected = block(x).numpy()
        np.testing.assert_allclose(run(new, {"x": x.numpy()})[0], expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_from_the_default_exporter(name: str, tmp_path: Path) -> None:
    free = (dict.fromkeys(FREE, torch.export.Dim.DYNAMIC),)
    block = exported(BLOCKS[name], tmp_path / "block.onnx", dynamo=True, verbose=False, dynamic_shapes=free)
    assert_one_convolution(refold.fold(tmp_path / "block.onnx"), block, (2, 8, 12, 12), (3, 8, 9, 16))


@pytest.mark.parametrize("folding", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_from_the_first_exporter_at_sizes_that_are_fixed(name: str, folding: bool, tmp_path: Path) -> None:
    block = exported(BLOCKS[name], tmp_path / "block.onnx", dynamo=False, do_constant_folding=folding)
    assert_one_convolution(refold.fold(tmp_path / "block.onnx"), block, (2, 8, 12, 12))


@pytest.mark.parametrize("name", ["DBB", "ECB"])
def test_a_batch_that_is_free_where_the_tracer_saw_one(name: str, tmp_path: Path) -> None:
    """A batch of one in the sizes that were traced spreads over any."""
    block = exported(BLOCKS[name], tmp_path / "block.onnx", batch=1, dynamo=False, dynamic_axes={"x": {0: "n"}})
    assert_one_convolution(refold.fold(tmp_path / "block.onnx"), block, (1, 8, 12, 12), (3, 8, 12, 12))


@pytest.mark.parametrize("axes", [FREE, {0: "n"}])
@pytest.mark.parametrize("name", ["DBB", "ECB"])
def test_sizes_that_were_traced_and_are_called_free_are_refused(name: str, axes: dict[int, str], tmp_path: Path) -> None:
    """The file runs at the sizes that were traced and at no other, so a padding of every size would be another function."""
    path = tmp_path / "block.onnx"
    exported(BLOCKS[name], path, dynamo=False, dynamic_axes={"x": axes})
    result = refold.fold(path, verify=False)
    before = kinds(onnx.load(path)).count("ScatterND")
    assert kinds(written(result)).count("ScatterND") == before > 0
    refusals = [refusal for refusal in result.report.refusals if refusal.operation == "ScatterND"]
    assert len(refusals) == before // 4
    for refusal in refusals:
        assert "works at some sizes only, although its sizes are free: it fails at 9 x " in refusal.fact
        assert "could not be broadcast together with shapes (2,8,1,14)" in refusal.fact or "(2,16,1,14)" in refusal.fact


def test_what_was_taken_as_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "block.onnx"
    exported(BLOCKS["DBB"], path, dynamo=True, verbose=False)
    (note,) = refold.fold(path).report.notes
    assert "rounded apart and are taken as one, which moves what they make of a border by at most" in note
    moved = float(note.rpartition("at most ")[2].split()[0])
    assert 0 < moved < 16 * 2.0**-24
    exported(BLOCKS["ECB"], path, dynamo=True, verbose=False)
    assert refold.fold(path).report.notes == ()


def test_a_fill_that_is_a_little_off_stays(tmp_path: Path) -> None:
    """The same file with one of its fills scaled by 1 + 2**-18."""
    path = tmp_path / "block.onnx"
    exported(BLOCKS["DBB"], path, dynamo=True, verbose=False)
    model = onnx.load(path)
    lines = {node.input[2] for node in model.graph.node if node.op_type == "ScatterND"}
    moved = 0
    for tensor in model.graph.initializer:
        if tensor.name in lines and tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor) * np.float32(1 + 2.0**-18)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            moved += 1
    assert moved > 0
    assert kinds(written(refold.fold(model))).count("ScatterND") == kinds(model).count("ScatterND")
