"""What looks like a rearrangement, a product or a layer and is not, at some size: the folded network must go on as the original does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import refold

Rule = Callable[[nn.ModuleDict, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, rule: Rule, **layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.rule = nn.ModuleDict(layers), rule

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rule(self.layers, x)
        return y


class Weight(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))


def pairs(y: Tensor, axis: int) -> Tensor:
    """The mean over pairs along an axis."""
    z: Tensor = y.unflatten(axis, (y.shape[axis] // 2, 2)).mean(axis + 1)
    return z


# The network, an example, and other inputs.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[tuple[int, ...]]]] = {
    "squeeze of a free axis": (
        lambda: Net(lambda m, x: m["b"](m["a"](x)).squeeze(-1), a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 3, 1)),
        (2, 8, 4, 4),
        [(2, 8, 4, 1), (3, 8, 5, 2)],
    ),
    "mean over pairs of places": (
        lambda: Net(lambda m, x: m["b"](pairs(m["a"](x), 2)), a=nn.Conv1d(8, 8, 3, padding=1), b=nn.Conv1d(8, 8, 1)),
        (2, 8, 32),
        [(3, 8, 32)],
    ),
    "mean over pairs of channels": (
        lambda: Net(lambda m, x: m["b"](pairs(m["a"](x), 1)), a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(4, 2, 1)),
        (2, 8, 4, 4),
        [(3, 8, 5, 6)],
    ),
    "scaled mean over pairs of channels": (
        lambda: Net(lambda m, x: 2 * pairs(m["a"](x), 1) + 1, a=nn.BatchNorm2d(8)),
        (2, 8, 4, 4),
        [(3, 8, 5, 6)],
    ),
    "one channel": (
        lambda: Net(lambda m, x: m["c"](m["b"](x.mean(1, keepdim=True)).transpose(1, 2)), b=nn.Conv2d(1, 8, 1), c=nn.Linear(6, 2)),
        (4, 4, 6, 6),
        [(2, 4, 5, 6)],
    ),
    "groups in front of a mean": (
        lambda: Net(lambda m, x: 2 * m["a"](x).mean(2), a=nn.Conv1d(6, 6, 1, groups=2)),
        (4, 6, 8),
        [(3, 6, 5)],
    ),
    "many channels from each in front of a mean": (
        lambda: Net(lambda m, x: m["b"](m["a"](x).mean((2, 3))), a=nn.Conv2d(6, 12, 1, groups=6), b=nn.BatchNorm1d(12)),
        (4, 6, 8, 7),
        [(3, 6, 5, 5)],
    ),
    "a sum over an axis that is repeated": (
        lambda: Net(lambda m, x: 2 * torch.einsum("bc,oc->bo", x, m["w"].weight), w=Weight(5, 1)),
        (3, 8),
        [(4, 8)],
    ),
    "a sum over a free axis": (
        lambda: Net(lambda m, x: 2 * torch.einsum("abc,cz->abz", x, m["w"].weight), w=Weight(4, 4)),
        (2, 4, 4),
        [(3, 2, 4)],
    ),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_near_miss_stays_what_it_is(name: str, verify: bool) -> None:
    torch.manual_seed(0)
    make, example, others = CASES[name]
    model = make().double().eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            layer.running_mean.normal_()
            layer.bias.data.normal_()
    folded = refold.fold(model, (torch.randn(example, dtype=torch.float64),), verify=verify).model
    for shape in (example, *others):
        x = torch.randn(shape, dtype=torch.float64)
        with torch.no_grad():
            wanted, given = model(x), folded(x)
        assert wanted.shape == given.shape
        torch.testing.assert_close(given, wanted, rtol=0, atol=2.0**-44 * float(wanted.abs().max()))
