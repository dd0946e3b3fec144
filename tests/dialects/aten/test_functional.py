"""Taking in-place operators out of a graph: by renaming where that is the same, by torch's own pass where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refold.dialects.aten._functional import has_effect, rename_in_place

Forward: TypeAlias = "Callable[[Written, torch.Tensor], torch.Tensor]"


class Written(nn.Module):
    """A convolution and what a test does with its output."""

    count: torch.Tensor

    def __init__(self, act: Forward) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.register_buffer("count", torch.zeros(1))
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self, x)


def relu_of_its_own(self: Written, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = self.bn(self.conv(x))
    return F.relu(y, inplace=True)


def added_to(self: Written, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = self.conv(x)
    y += 2 * y
    y *= 3
    return y + y


def read_before_and_after(self: Written, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = self.conv(x)
    before = torch.sigmoid(y)
    y.relu_()
    return before + y


def viewed_before(self: Written, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = self.conv(x)
    part = y[:, :2]
    y.relu_()
    return part.sum((1, 2, 3)) + y.sum((1, 2, 3))


def a_view_written(self: Written, x: torch.Tensor) -> torch.Tensor:
    y = F.pad(self.conv(x), (1, 1, 1, 1))
    y[:, :, 0] = 5.0
    return y


def the_input_written(self: Written, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = self.conv(x.add_(1.0))
    return y


def a_buffer_written(self: Written, x: torch.Tensor) -> torch.Tensor:
    self.count += 1
    y: torch.Tensor = self.conv(x) + self.count
    return y


def dropped_and_written(self: Written, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = self.conv(x)
    same = F.dropout(y, 0.5, training=False)
    y.relu_()
    return same


def widened(self: Written, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = self.conv(x).half().add_(torch.ones(1, 4, 1, 1))
    return y


def without_a_namesake(self: Written, x: torch.Tensor) -> torch.Tensor:
    """`pow_.Tensor` writes what `pow.Tensor_Tensor` gives."""
    y: torch.Tensor = self.conv(x).pow_(torch.full((1, 4, 1, 1), 2.0))
    return y


def with_a_namesake_that_writes(self: Written, x: torch.Tensor) -> torch.Tensor:
    y = self.conv(x)
    made: torch.Tensor = torch.ops.aten.rrelu_with_noise_(y, torch.zeros_like(y))
    return made


RENAMED = (relu_of_its_own, added_to, read_before_and_after)
LEFT = (
    viewed_before,
    a_view_written,
    the_input_written,
    a_buffer_written,
    dropped_and_written,
    widened,
    without_a_namesake,
    with_a_namesake_that_writes,
)


def traced(act: Forward) -> torch.export.ExportedProgram:
    return torch.export.export(Written(act).eval(), (torch.randn(2, 3, 8, 8),))


@pytest.mark.parametrize("act", RENAMED)
def test_a_write_that_nothing_else_sees_is_renamed(act: Forward) -> None:
    program, x = traced(act), torch.randn(2, 3, 8, 8)
    expected = program.module()(x.clone())
    assert rename_in_place(program)
    targets = [node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert not any(target._schema.is_mutable for target in targets)
    program.graph_module.recompile()
    weights = [program.state_dict[spec.target] for spec in program.graph_signature.input_specs if spec.target in program.state_dict]
    extra = [program.constants[spec.target] for spec in program.graph_signature.input_specs if spec.target in program.constants]
    (result,) = program.graph_module(*weights, *extra, x)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("act", LEFT)
def test_a_write_that_something_else_may_see_is_left_to_torch(act: Forward) -> None:
    program = traced(act)
    before = str(program.graph)
    assert not rename_in_place(program)
    assert str(program.graph) == before


def test_a_dropout_in_eval_has_no_effect_and_a_check_has() -> None:
    program = traced(lambda self, x: F.dropout(self.conv(x), 0.5, training=False))
    (dropout,) = (node for node in program.graph.nodes if "dropout" in str(node.target))
    assert not has_effect(dropout)
    check = torch.fx.Graph().call_function(torch.ops.aten._assert_async.msg, (None, "no"))
    assert has_effect(check)
