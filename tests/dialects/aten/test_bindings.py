"""Written modules call torch's own functions, and are the same modules."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import refold
from refold.dialects.aten._bindings import PLACES


@pytest.mark.parametrize("name", PLACES)
def test_every_function_is_there_and_an_operator(name: str) -> None:
    place = torch if PLACES[name] == "torch" else torch._C._nn
    assert callable(getattr(place, name))
    assert hasattr(torch.ops.aten, name)


class Many(nn.Module):
    """Operators with lists, keywords and numbers among what they take."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.conv(x)), approximate="tanh")
        x = F.hardtanh(x, 0.0, 6.0) + torch.add(x, x.sigmoid(), alpha=2)
        x = F.pad(self.up(x).clamp(min=-1.0), (1, 1, 1, 1))
        pooled = F.adaptive_avg_pool2d(F.max_pool2d(x, 3, stride=2, ceil_mode=True), (1, 1))
        both = torch.cat([pooled, x.mean((2, 3), keepdim=True)], 1).flatten(1)
        return torch.softmax(F.leaky_relu(self.head(both), 0.1), dim=-1)


def test_the_code_calls_functions_and_the_graph_keeps_operators() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 9)
    folded = refold.fold(Many().eval(), (x,)).model
    assert "torch.sigmoid(" in folded.code
    assert "torch._C._nn.gelu(" in folded.code
    assert "torch.ops.aten.sigmoid" not in folded.code
    assert torch.ops.aten.sigmoid.default in {node.target for node in folded.graph.nodes}
    before = torch.fx.GraphModule(folded, copy.deepcopy(folded.graph))
    before.graph.on_generate_code(lambda _: lambda lines: lines)
    before.recompile()
    assert "torch.ops.aten.sigmoid" in before.code
    for form in (folded, copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert "torch.sigmoid(" in form.code
        assert torch.equal(form(x), before(x))
    assert refold.check(folded, (x,)) == ()
