"""The floor: every convolution of a network and nothing else, fed by one another where the shapes allow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")
import onnx
import torch
from torch import Tensor, nn

import refold
from refold.bench._engine import Task
from refold.bench._floor import chain, floor_of
from refold.dialects import aten
from refold.dialects import onnx as onnx_dialect


@dataclass
class Shaped:
    takes: tuple[int, ...]
    gives: tuple[int, ...]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.point = nn.Conv2d(4, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 8, 3, stride=2, dilation=1, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.wide(x) + self.point(x)))
        result: Tensor = self.head(self.up(self.down(x)).flatten(1))
        return result


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_layer_reads_what_none_reads_yet_and_else_the_last() -> None:
    a, b = (1, 4, 8, 8), (1, 4, 4, 4)
    assert chain([Shaped(a, a), Shaped(a, a), Shaped(a, b), Shaped(a, a)]) == [None, 0, 1, 1]
    assert chain([Shaped(b, a), Shaped(b, a), Shaped(a, b), Shaped(a, b)]) == [None, None, 1, 0]


def test_a_layer_of_another_rank_reads_as_many_numbers_reshaped() -> None:
    assert chain([Shaped((1, 3, 2, 2), (1, 4, 2, 2)), Shaped((1, 16), (1, 10)), Shaped((1, 8, 2, 1), (1, 1))]) == [None, 0, None]


def test_torch_layers_are_met_by_running(x: Tensor) -> None:
    called = aten.called_layers(Net(), (x,), {})
    assert [one.kernel for one in called] == [(4, 2, 3, 3), (4, 4, 1, 1), (8, 4, 3, 3), (8, 4, 2, 2), (10, 256)]
    assert [one.has_bias for one in called] == [True, False, True, True, True]
    with torch.inference_mode():
        assert len(aten.called_layers(Net(), (x,), {})) == 5


def test_torch_layers_alone_are_the_same_layers(x: Tensor) -> None:
    called = aten.called_layers(Net(), (x,), {})
    module, inputs = aten.layers_alone(called, chain(called))
    assert aten.called_layers(module, inputs, {}) == called
    assert len(inputs) == 1
    outputs = module(*inputs)
    assert [tuple(one.shape) for one in outputs] == [(2, 10)]
    assert all(0.01 < float(one.std()) < 100 for one in outputs)  # neither denormal nor infinite, which would change the time


def test_channels_last_stays_channels_last(x: Tensor) -> None:
    net = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    called = aten.called_layers(net, (x.to(memory_format=torch.channels_last),), {})
    assert [one.channels_last for one in called] == [True]
    module, inputs = aten.layers_alone(called, chain(called))
    assert aten.called_layers(module, inputs, {}) == called


def test_onnx_layers_alone_are_the_same_layers(x: Tensor, tmp_path: Path) -> None:
    path = refold.fold(Net(), (x,), verify=False).save(tmp_path / "net.onnx")
    feeds = onnx_dialect.feeds_for(path, [x.numpy()])
    called = onnx_dialect.called_nodes(path, feeds)
    assert [one.node.op_type for one in called] == ["Conv", "Conv", "Conv", "ConvTranspose", "Gemm"]
    model, inputs = onnx_dialect.nodes_alone(called, chain(called))
    onnx.checker.check_model(model, full_check=True)
    again = onnx_dialect.called_nodes(model, inputs)
    assert [(one.takes, one.gives, one.weights, one.node.op_type) for one in again] == [
        (one.takes, one.gives, one.weights, one.node.op_type) for one in called
    ]
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv", "Conv", "ConvTranspose", "Reshape", "Gemm"]


def test_a_network_without_layers_has_no_floor(x: Tensor, tmp_path: Path) -> None:
    assert floor_of(Task(nn.ReLU(), (x,), {}), "torch", tmp_path) is None
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (2, 4, 8, 8)) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]), ir_version=8), tmp_path / "relu.onnx")
    assert floor_of(Task(tmp_path / "relu.onnx", (), {"x": x.numpy()}), "onnx", tmp_path) is None
