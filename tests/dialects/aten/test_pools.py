"""Pools over one axis leave its length free, in what is folded and in the files that are written from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import refold
from refold.dialects.aten import _files
from refold.dialects.aten._trace import export_with

POOLS: list[Callable[[Tensor], Tensor]] = [
    nn.MaxPool1d(2),
    nn.MaxPool1d(3, 1),
    nn.MaxPool1d(3, 2, 1, 2, False, True),
    lambda x: torch.max_pool1d(x, [3]),
    lambda x: torch.max_pool1d(x, 3, 2, padding=1),
    lambda x: F.max_pool1d(x, 2, return_indices=True)[0],
    lambda x: F.max_pool1d(x, 2, 2, 0, 1, False, True)[0],
    lambda x: F.max_pool2d(x.unsqueeze(-2), (2, 2), padding=(1, 0)).squeeze(-2),
    lambda x: F.max_pool2d(x.unsqueeze(-2), (1, 2)).squeeze(-2) + F.max_pool1d(x, 2),
    lambda x: torch.max_pool2d(x.unsqueeze(-2), [1, 3], [1]).squeeze(-2),
    lambda x: torch.max_pool2d(x.unsqueeze(-2), [1, 3], [1, 2], [0], [1]).squeeze(-2),
    lambda x: torch.max_pool2d(x.unsqueeze(-2), [1]).squeeze(-2),
]


class Net(nn.Module):
    """A pool between two convolutions."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pool = pool
        self.first, self.norm, self.last = nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.pool(self.norm(self.first(x))))
        return y


@pytest.mark.parametrize("pool", POOLS)
def test_the_length_is_free(pool: Callable[[Tensor], Tensor]) -> None:
    model = Net(pool).eval()
    folded = refold.fold(model, torch.randn(2, 3, 16)).model
    for length in (9, 16, 17, 40):
        x = torch.randn(1, 3, length)
        torch.testing.assert_close(folded(x), model(x))


def test_a_pool_that_is_an_output_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pooled(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.norm(self.first(x)))

    model = Pooled(POOLS[0]).eval()
    for net in (model, Net(lambda x: torch.cat([POOLS[0](x), POOLS[0](x)], 2)).eval()):
        refold.fold(net, torch.randn(2, 3, 16)).save(tmp_path / "net.onnx")
        file = onnx.load(tmp_path / "net.onnx")
        onnx.checker.check_model(file, full_check=True)
        session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
        x = torch.randn(3, 3, 29)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], net(x).numpy(), atol=1e-5)
        assert [node.op_type for node in file.graph.node][:2] == ["Conv", "MaxPool"]
        with monkeypatch.context() as patch:
            patch.setattr(_files, "restore_onnx_pools", lambda model: None)
            refold.fold(net, torch.randn(2, 3, 16)).save(tmp_path / "plane.onnx")
        plane = onnx.load(tmp_path / "plane.onnx").graph
        assert "Squeeze" in [node.op_type for node in plane.node]
        assert [one.name for one in file.graph.output] == [one.name for one in plane.output]
        refold.fold(net, torch.randn(2, 3, 16)).save(tmp_path / "net.pt2")
        with torch.no_grad():
            torch.testing.assert_close(torch.export.load(tmp_path / "net.pt2").module()(x), net(x))


def test_the_graph_says_the_pool_that_was_written() -> None:
    program = export_with(nn.MaxPool1d(3, 2, 1), (torch.randn(2, 3, 16),), {}, lambda number, axis: True, True)
    (pool,) = (node for node in program.graph.nodes if node.op == "call_function")
    assert pool.target is torch.ops.aten.max_pool1d.default
    assert list(pool.args[1:]) == [[3], [2], [1]]


def test_a_pool_over_both_axes_stays_one() -> None:
    program = export_with(Net(POOLS[7]), (torch.randn(2, 3, 16),), {}, lambda number, axis: True, True)
    assert any(node.target is torch.ops.aten.max_pool2d.default for node in program.graph.nodes)


@pytest.mark.parametrize("pool", [POOLS[0], POOLS[2]])
def test_in_a_file_too(pool: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    model = Net(pool).eval()
    result = refold.fold(model, torch.randn(2, 3, 16))
    result.save(tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [node.op_type for node in graph.node] == ["Conv", "MaxPool", "Conv"]
    assert len(graph.initializer) == 4
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    x = torch.randn(3, 3, 29)
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], model(x).numpy(), atol=1e-5)
