"""Files: an exported program, ONNX, weights alone; sizes stay free; what cannot be written says so."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import refold
from refold.folding import FoldResult
from tests.dialects.aten.nets import EXACT, conv_norm, distance, noise, settled


@pytest.fixture
def model(seed: int) -> torch.nn.Module:
    return settled(torch.nn.Sequential(conv_norm(), torch.nn.ReLU(), conv_norm(6, 3))).float()


@pytest.fixture
def result(model: torch.nn.Module) -> FoldResult:
    return refold.fold(model, (noise(1, 4, 9, 8, dtype=torch.float32),))


X = noise(3, 4, 12, 7, dtype=torch.float32)


def test_an_exported_program(model: torch.nn.Module, result: FoldResult, tmp_path: Path) -> None:
    program = torch.export.load(result.save(tmp_path / "folded.pt2"))
    assert distance(result.model(X).detach(), program.module()(X).detach()) < EXACT
    assert refold.verify(program, result.model, (X,)).passed


def test_onnx(model: torch.nn.Module, result: FoldResult, tmp_path: Path) -> None:
    path = result.save(tmp_path / "folded.onnx")
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds == ["Conv", "Relu", "Conv"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert distance(model(X).detach(), torch.from_numpy(found)) < 1e-6
    assert refold.check(path) == ()


def test_weights_alone(result: FoldResult, tmp_path: Path) -> None:
    state = load_file(result.save(tmp_path / "folded.safetensors"))
    assert state.keys() == result.model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in result.model.state_dict().items())


def test_another_ending(result: FoldResult, tmp_path: Path) -> None:
    with pytest.raises(refold.FoldError, match="pt2, onnx, safetensors"):
        result.save(tmp_path / "folded.tflite")
    assert list(tmp_path.iterdir()) == []
