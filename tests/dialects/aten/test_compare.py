"""Whole networks that amplify rounding: a right fold is not blamed for it, a wrong one is not let through by it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import refold
from refold.dialects.aten._compare import compared
from refold.dialects.aten._model import AtenModel
from refold.verification import judge_output
from tests.dialects.aten.nets import Net, conv, conv_norm, settled

GAIN = 4.0


def chaotic(depth: int, seed: int) -> nn.Module:
    """Layers that pull what is near apart, and one number at the end, which may happen to be right in the original."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth):
        norm = nn.BatchNorm2d(4)
        with torch.no_grad():
            norm.weight.fill_(GAIN)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.1, 0.5)
        layers += [nn.Conv2d(4, 4, 3, padding=1), norm, nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 36, 1)).eval()


@pytest.mark.parametrize("depth", [4, 8])
def test_a_right_fold_is_not_blamed(depth: int) -> None:
    for seed in range(12):  # among them some in which the original happens to be four times closer to the truth
        model = chaotic(depth, seed)
        certificate = refold.fold(model, (torch.randn(1, 4, 6, 6),)).report.certificate
        assert certificate is not None
        assert certificate.passed


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_a_wrong_network_is_not_let_through(dtype: torch.dtype, off: float) -> None:
    model = chaotic(6, 0).to(dtype)
    x = torch.randn(1, 4, 6, 6, dtype=dtype)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight[0, 0, 1, 1] += off  # type: ignore[index]
    assert refold.verify(model, copy.deepcopy(model), (x,)).passed
    assert not refold.verify(model, other, (x,)).passed


def test_a_program_that_is_not_the_model_is_no_truth_of_it() -> None:
    """The original would look far from the truth, and any other network would be granted as much."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    x = torch.randn(2, 4, 8, 8)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight[0, 0, 1, 1] += 1e-2  # type: ignore[index, operator]
    source = AtenModel(model, (x,))
    (right,) = compared(source, other)
    assert right.truth is not None
    assert not judge_output(right).passed
    state = source.traced.program.state_dict
    state["0.weight"] = 1.5 * state["0.weight"]
    (wrong,) = compared(source, other)
    assert wrong.truth is None
    assert not judge_output(wrong).passed


def widened_after(act: nn.Module) -> nn.Module:
    """An output in float64 of layers in float32."""
    return Net(lambda s, x: s.act(s.layers(x)).double(), layers=conv_norm(), act=act).eval()


def test_an_output_that_was_cast_to_float64_is_as_coarse_as_what_was_cast(seed: int) -> None:
    x = torch.randn(2, 4, 8, 8)
    for _ in range(4):
        certificate = refold.fold(settled(widened_after(nn.SiLU()), torch.float32), (x,)).report.certificate
        assert certificate is not None
        assert certificate.passed


def test_it_is_no_coarser_than_that(seed: int) -> None:
    model, x = settled(widened_after(nn.SiLU()), torch.float32), torch.randn(2, 4, 8, 8)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layers[0].weight[0, 0, 1, 1] += 1e-4  # type: ignore[index, union-attr]
    assert refold.verify(model, copy.deepcopy(model), (x,)).passed
    assert not refold.verify(model, other, (x,)).passed


def test_what_is_only_read_in_float32_rounds_nothing(seed: int) -> None:
    """Rounding begins where numbers are worked out: not at inputs and weights, which float64 holds exactly, nor where they are viewed."""
    layer = conv().double()
    model = Net(lambda s, x: torch.relu(s.layer(x.permute(0, 1, 3, 2).double())), layer=layer).eval()
    assert AtenModel(model, (torch.randn(2, 4, 8, 8),)).roundings == [2.0**-53]


def test_roundings_pass_floats_and_no_whole_numbers(seed: int) -> None:
    table = torch.randn(8, dtype=torch.float64)
    model = Net(lambda s, x: (torch.tanh(x).half(), (x * 3.0).argmax(1), s.table[(x * 3.0).argmax(1)], x.double() * 3.0), table=table)
    assert AtenModel(model.eval(), (torch.randn(2, 8),)).roundings == [2.0**-11, 0.0, 2.0**-53, 2.0**-53]


def test_an_input_in_float64_is_not_taken_where_the_folded_weights_are_as_coarse_as_float32(seed: int) -> None:
    """Folded from three numbers that float64 multiplies one by one, the one that is stored in float32 would be further off."""
    model = Net(lambda s, x: x * s.a * s.b * s.c, **{name: nn.Parameter(torch.rand(4, 1, 1) + 0.5) for name in "abc"}).eval()
    folded = refold.fold(model, (torch.randn(2, 4, 5, 5),)).model
    with pytest.raises(ValueError, match="is float64, but the network was traced for inputs where it is float32"):
        folded(torch.randn(2, 4, 5, 5, dtype=torch.float64))
