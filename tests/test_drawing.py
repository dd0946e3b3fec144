"""The boxes of a network before and after folding, and a fold told branch by branch, in both formats."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import pytest

import refold
from refold.drawing import INPUT, Box, branches
from refold.folding import FoldResult

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from refold.nn import RepVggBlock

X = torch.linspace(-1.0, 1.0, 4 * 8 * 8).reshape(1, 4, 8, 8)


def in_torch(model: nn.Module) -> tuple[FoldResult, list[str]]:
    """A model folded, and the operators that PyTorch says it has."""
    program = torch.export.export(model.eval(), (X,))
    called = [node.target.__name__.partition(".")[0] for node in program.graph.nodes if node.op == "call_function"]
    return refold.fold(model.eval(), (X,)), called


def in_onnx(model: nn.Module) -> tuple[FoldResult, list[str]]:
    """The same of the model as `torch.onnx.export` writes it, nothing merged."""
    file, preserve = io.BytesIO(), torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (X,), file, dynamo=False, do_constant_folding=False, training=preserve, input_names=["x"])  # type: ignore[arg-type]
    proto = onnx.load_from_string(file.getvalue())
    return refold.fold(proto), [node.op_type for node in proto.graph.node]


Format = Callable[[nn.Module], tuple[FoldResult, list[str]]]
both = pytest.mark.parametrize("read", [in_torch, in_onnx])


def settled(model: nn.Module) -> nn.Module:
    """No two tensors alike, so that no exporter takes two for one."""
    torch.manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def block() -> nn.Module:
    return settled(RepVggBlock(4, 4, alpha=True, identity=True))


def operators(boxes: tuple[Box, ...]) -> list[str]:
    return [box.operation for box in boxes if box.operation != INPUT]


@both
def test_before_has_every_operator(read: Format) -> None:
    result, called = read(block())
    before = result.drawing.before
    assert before[0] == Box("x", INPUT, shape=before[0].shape)
    assert operators(before) == called
    assert len(called) == 9
    assert [box.fold for box in before] == [None, *[0] * 8, None]


@both
def test_after_has_one_box_for_a_fold(read: Format) -> None:
    result, _ = read(block())
    before, (x, folded, last) = result.drawing.before, result.drawing.after
    assert x == before[0]
    assert (folded.fold, folded.reads, folded.shape) == (0, ("x",), before[-2].shape)
    assert folded.operation == " + ".join(result.report.folds[0].became)
    assert folded.sources == result.report.folds[0].sources
    assert last == before[-1]
    assert last.reads == (folded.name,)


@both
def test_a_fold_reads_its_roots(read: Format) -> None:
    result, _ = read(nn.Sequential(block(), block()))
    x, first, relu, second, _ = result.drawing.after
    assert (first.fold, first.reads) == (0, (x.name,))
    assert (relu.fold, relu.reads) == (None, (first.name,))
    assert (second.fold, second.reads) == (1, (relu.name,))
    assert [len(result.drawing.folded(number)) for number in (0, 1)] == [8, 8]


class TwoInputs(nn.Module):
    """K1 x + K1 y for two values that are not linear in each other, and a third that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(x)
        return self.norm(self.one(x)) + self.one(x), torch.sigmoid(self.other(y))


@both
def test_what_is_not_folded_is_still_there(read: Format) -> None:
    result, called = read(settled(TwoInputs()))
    drawing = result.drawing
    untouched = [box for box in drawing.before if box.fold is None]
    assert {box.operation.lower() for box in untouched} == {"input", "relu", "conv2d" if read is in_torch else "conv", "sigmoid"}
    assert [box for box in drawing.after if box.fold is None] == untouched
    assert operators(drawing.before) == called


class Spare(nn.Module):
    def forward(self, x: Tensor, spare: Tensor) -> Tensor:
        return torch.relu(x)


def test_an_input_that_nothing_reads_is_left_out() -> None:
    result = refold.fold(Spare(), (X, X))
    assert [box.name for box in result.drawing.before] == [box.name for box in result.drawing.after] == ["x", "relu"]


def test_an_input_that_nothing_reads_is_left_out_of_onnx() -> None:
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("x", "spare", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", info[:2], info[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    result = refold.fold(model)
    assert [box.name for box in result.drawing.before] == [box.name for box in result.drawing.after] == ["x", "y"]


def test_branches_of_a_block() -> None:
    result, _ = in_torch(block())
    assert list(result.drawing.branches_of(0)) == [
        "add",
        "├─ batch_norm conv1.bn ← conv2d conv1.conv ← x",
        "├─ mul ← batch_norm conv2.bn ← conv2d conv2.conv ← x",
        "└─ batch_norm identity ← x",
    ]


def test_branches_of_a_block_in_onnx() -> None:
    result, _ = in_onnx(block())
    assert list(result.drawing.branches_of(0)) == [
        "Add",
        "├─ BatchNormalization conv1.bn ← Conv conv1.conv ← x",
        "├─ Mul ← BatchNormalization conv2.bn ← Conv conv2.conv ← x",
        "└─ BatchNormalization identity ← x",
    ]


class Twice(nn.Module):
    """B y + y for y = K1 x."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z: Tensor = self.norm(y) + y
        return z


def test_what_is_read_twice_is_told_once() -> None:
    result, _ = in_torch(settled(Twice()))
    assert list(result.drawing.branches_of(0)) == ["add", "├─ batch_norm norm ← conv2d conv ← x", "└─ conv2d conv as above"]


class Shared(nn.Module):
    """K1 relu and K3 relu of the same B x, which goes into both."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.other = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x)
        return torch.relu(self.one(y)), torch.relu(self.other(y))


def test_what_goes_into_two_folds_is_told_in_both() -> None:
    result, _ = in_torch(settled(Shared()))
    lines = [list(result.drawing.branches_of(number)) for number in (0, 1)]
    assert lines == [["conv2d one ← batch_norm norm ← x"], ["conv2d other ← batch_norm norm ← x"]]


def told(*boxes: Box) -> list[str]:
    return list(branches(boxes, boxes[-1].name))


def add(name: str, *reads: str) -> Box:
    return Box(name, "add", reads, adds=True)


def test_a_sum_of_sums_is_one_sum() -> None:
    boxes = (Box("a", "conv", ("x",)), add("s", "a", "y"), add("t", "s", "z"), Box("n", "norm", ("t",)))
    assert told(*boxes[:3]) == ["add", "├─ conv ← x", "├─ y", "└─ z"]
    assert told(*boxes) == ["norm ← add", "├─ conv ← x", "├─ y", "└─ z"]


def test_a_difference_is_no_sum() -> None:
    difference = Box("d", "sub", ("x", "y"))
    assert told(difference, add("s", "d", "z")) == ["add", "├─ sub", "│  ├─ x", "│  └─ y", "└─ z"]
    assert told(add("s", "x", "y"), Box("d", "sub", ("s", "z"))) == ["sub", "├─ add", "│  ├─ x", "│  └─ y", "└─ z"]


def test_a_sum_of_one_value_is_a_step() -> None:
    assert told(Box("m", "mul", ("x",), adds=True), add("s", "m", "y")) == ["add", "├─ mul ← x", "└─ y"]


def test_a_sum_that_is_read_twice_keeps_its_line() -> None:
    boxes = (add("s", "x", "y"), Box("n", "norm", ("s",)), add("t", "s", "n"))
    assert told(*boxes) == ["add", "├─ add", "│  ├─ x", "│  └─ y", "└─ norm ← add as above"]


def test_a_chain_is_a_line() -> None:
    assert told(Box("a", "conv", ("x",), sources=("stem.conv.weight",)), Box("b", "norm", ("a",))) == ["norm ← conv stem.conv ← x"]


def test_an_input_is_told_by_its_name_as_often_as_it_is_read() -> None:
    assert told(Box("a", "conv", ("x",)), Box("b", "conv", ("x",)), add("s", "a", "b")) == ["add", "├─ conv ← x", "└─ conv ← x"]


def test_a_place_is_the_folder_of_all_parameters() -> None:
    assert Box("y", "conv", sources=("stem.conv.weight", "stem.bn.bias")).place == "stem"
    assert Box("y", "conv", sources=("weight",)).place == Box("y", "relu").place == ""


def test_nothing_folds() -> None:
    result = refold.fold(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()).eval(), (X,))
    drawing: Any = result.drawing
    assert drawing.before == drawing.after
    assert operators(drawing.before) == ["conv2d", "relu"]
    assert drawing.folded(0) == ()
