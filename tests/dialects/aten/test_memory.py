"""What reads strides or bytes gets what it got: layouts that a network states are kept where anything reads them, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from torch import nn

from refold import fold

LAST = torch.channels_last
Body: TypeAlias = "Callable[[Net, torch.Tensor], torch.Tensor]"


class Net(nn.Module):
    """A convolution and a batch norm, and what a test makes of their output."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 1)
        nn.init.uniform_(self.norm.weight)
        self.body = body

    def first(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.conv(x))
        return y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self, x)


def strided(x: torch.Tensor) -> torch.Tensor:
    """Numbers as they lie, whatever their places."""
    return torch.as_strided(x, (2, 16), (256, 1))


def written_in_place(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.first(x).contiguous(memory_format=LAST)
    torch.as_strided(y, (2, 16), (256, 1)).mul_(2)
    return y


BODIES: dict[str, Body] = {
    "contiguous": lambda net, x: strided(net.first(x).contiguous(memory_format=LAST)),
    "clone": lambda net, x: strided(net.first(x).clone(memory_format=LAST)),
    "to": lambda net, x: strided(net.first(x).to(memory_format=LAST)),
    "a scale between": lambda net, x: strided(net.first(x).contiguous(memory_format=LAST) * 2.0),
    "a convolution between": lambda net, x: strided(net.other(net.first(x).contiguous(memory_format=LAST))),
    "an activation between": lambda net, x: strided(net.first(x).contiguous(memory_format=LAST).relu()),
    "permuted": lambda net, x: strided(net.first(x).permute(0, 2, 3, 1).contiguous()),
    "permuted back": lambda net, x: strided(net.first(x).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)),
    "transposed": lambda net, x: strided(net.other(net.first(x).transpose(2, 3)).transpose(2, 3)),
    "a sum": lambda net, x: strided(net.first(x) + net.other(net.first(x))),
    "an activation itself": lambda net, x: strided(net.first(x)),
    "bytes": lambda net, x: net.first(x).contiguous(memory_format=LAST).permute(0, 2, 3, 1).view(torch.int32),
    "written in place": written_in_place,
    "a view": lambda net, x: net.first(x).contiguous(memory_format=LAST).permute(0, 2, 3, 1).view(2, -1, 4),
    "an output": lambda net, x: net.first(x).contiguous(memory_format=LAST),
    "an output in order": lambda net, x: net.first(x).permute(0, 2, 3, 1).contiguous(),
}


@pytest.mark.parametrize("last", [False, True], ids=["in order", "channels last"])
@pytest.mark.parametrize("name", BODIES)
def test_what_is_read_by_memory_is_what_it_was(name: str, last: bool) -> None:
    model, x = Net(BODIES[name]).eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    if last:
        model, x = model.to(memory_format=LAST), x.to(memory_format=LAST)  # type: ignore[call-overload]
    result = fold(model, (x,))
    with torch.no_grad():
        expected, found = model(x), result.model(x)
    assert found.stride() == expected.stride()
    if expected.is_floating_point():
        torch.testing.assert_close(found, expected)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["an activation itself", "a sum", "bytes"])
def test_what_strides_are_read_of_is_refused_in_words(name: str) -> None:
    result = fold(Net(BODIES[name]).eval(), (torch.randn(2, 3, 8, 8),))
    reader = "view(dtype)" if name == "bytes" else "as_strided"
    facts = {one.fact for one in result.report.refusals if one.law == "memory"}
    assert facts == {f"`{reader}` reads how its output lies in memory, which a merged layer may change"}
    before, after = result.report.before, result.report.after
    assert after.batch_norms == before.batch_norms
    assert after.multiply_adds == before.multiply_adds > 0


@pytest.mark.parametrize("name", ["contiguous", "clone", "to", "permuted", "written in place", "a view", "an output"])
def test_what_stands_in_front_of_a_stated_layout_folds(name: str) -> None:
    result = fold(Net(BODIES[name]).eval(), (torch.randn(2, 3, 8, 8),))
    assert result.report.after.batch_norms == 0


def test_a_layout_that_nothing_reads_is_in_nobodys_way() -> None:
    model = Net(lambda net, x: net.norm(net.conv(x).contiguous(memory_format=LAST)).relu()).eval()
    result = fold(model, (torch.randn(2, 3, 8, 8),))
    assert result.report.after.batch_norms == 0
    assert len(result.report.folds) == 1
