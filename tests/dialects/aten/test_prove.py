"""The proof does not trust the fold: a wrong weight, a wrong padding, a wrong constant are each noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import refold
from refold.dialects.aten import AtenDeployed, AtenModel, _write
from refold.dialects.aten._layers import Layer, make_layer
from refold.plan import make_plan
from refold.verification import SEED, Certificate, certify, demand
from tests.dialects.aten.nets import Net, conv, conv_norm, noise, settled, weight

X = (2, 4, 9, 8)


def deployed(model: nn.Module, x: Tensor) -> AtenDeployed:
    network = AtenModel(settled(model, x.dtype), (x,))
    return network.write(make_plan(network.graph, network.target))


def certificate(one: AtenDeployed) -> Certificate:
    return certify(one.region_evidence(SEED), one.output_evidence(), seed=SEED)


def branches() -> nn.Module:
    return Net(lambda s, x: torch.relu(s.a(x) + s.b(x)) * s.p, a=conv_norm(stride=2), b=conv_norm(4, 6, 1, stride=2), p=weight(6, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_right_fold_is_proven(dtype: torch.dtype, seed: int) -> None:
    found = certificate(deployed(branches(), noise(*X, dtype=dtype)))
    assert found.passed
    assert [region.operations.count("conv2d") for region in found.regions] == [2]
    assert len(found.outputs) == 1


def faint() -> nn.Sequential:
    """In float16 its folded weights lie below the smallest normal number, where roundings no longer shrink with what is rounded."""
    layers = conv_norm()
    norm = next(layer for layer in layers.modules() if isinstance(layer, nn.BatchNorm2d))
    with torch.no_grad():
        norm.weight.fill_(1e-4)
    return nn.Sequential(layers)


def test_weights_below_the_smallest_normal_number_are_granted_their_rounding(seed: int) -> None:
    network = AtenModel(faint().half().eval(), (noise(*X, dtype=torch.float16),))
    one = network.write(make_plan(network.graph, network.target))
    stored = next(parameter for name, parameter in one.model.named_parameters() if name.endswith("weight"))
    assert float(stored.detach().abs().min()) < torch.finfo(torch.float16).tiny
    assert certificate(one).passed
    with torch.no_grad():
        stored.view(-1)[0] += 2.0**6 * torch.finfo(torch.float16).smallest_normal
    assert not certificate(one).regions[0].passed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["folded.weight", "folded.bias"])
def test_a_wrong_number_is_noticed(name: str, dtype: torch.dtype, seed: int) -> None:
    one = deployed(branches(), noise(*X, dtype=dtype))
    with torch.no_grad():
        one.model.get_parameter(name).view(-1)[0] += 2.0**12 * torch.finfo(dtype).eps
    found = certificate(one)
    assert not found.regions[0].passed
    with pytest.raises(refold.VerificationError, match=r"folding folded \(conv2d, batch_norm, .*\) changed its function"):
        demand(found)


@pytest.mark.parametrize(("name", "value"), [("padding", (0, 0)), ("stride", (1, 1)), ("dilation", (2, 2)), ("padding_mode", "reflect")])
def test_a_wrong_setting_is_noticed(name: str, value: object, seed: int) -> None:
    one = deployed(branches(), noise(*X))
    layer = one.model.get_submodule("folded")
    setattr(layer, name, value)
    if name == "padding_mode":
        layer._reversed_padding_repeated_twice = [1, 1, 1, 1]  # type: ignore[assignment]
    with pytest.raises(refold.VerificationError, match=r"changed its function|does not run where the original does"):
        demand(certify(one.region_evidence(SEED), ()))


def test_a_layer_that_does_not_run_is_the_fault_of_the_fold(seed: int) -> None:
    one = deployed(branches(), noise(*X))
    layer = one.model.get_submodule("folded")
    layer.weight = nn.Parameter(torch.zeros(6, 9, 3, 3))
    with pytest.raises(refold.VerificationError, match=r"what folded was folded into does not run where the original does: .* expected"):
        certificate(one)


def test_a_value_outside_any_region_is_noticed_at_the_output(seed: int) -> None:
    one = deployed(branches(), noise(*X))
    with torch.no_grad():
        one.model.get_parameter("p").view(-1)[0] += 1e-6
    found = certificate(one)
    assert all(region.passed for region in found.regions)
    with pytest.raises(refold.VerificationError, match="output output of the folded model is"):
        demand(found)


def test_regions_of_every_rank_and_border(seed: int) -> None:
    one_axis = Net(lambda s, x: s.n(s.a(x)) + s.b(x), a=nn.Conv1d(4, 6, 5, 3, 2), b=nn.Conv1d(4, 6, 1, 3), n=nn.BatchNorm1d(6))
    three = Net(lambda s, x: s.n(s.a(x)) + s.b(x), a=nn.Conv3d(4, 6, 3, padding=1), b=nn.Conv3d(4, 6, 1), n=nn.BatchNorm3d(6))
    reflected = Net(lambda s, x: s.a(x) + s.b(x), a=conv(padding_mode="reflect"), b=conv(padding_mode="reflect"))
    for model, shape in ((one_axis, (2, 4, 31)), (three, (2, 4, 5, 6, 4)), (reflected, X)):
        found = certificate(deployed(model, noise(*shape)))
        assert found.passed
        assert len(found.regions) == 1


def test_two_networks_that_differ(seed: int) -> None:
    one, other = settled(conv_norm()), settled(conv_norm())
    assert not refold.verify(one, other, (noise(*X),)).passed
    assert refold.verify(one, one, (noise(*X),)).passed
    with pytest.raises(refold.FoldError, match="the two models give 2 and 1 outputs"):
        refold.verify(Net(lambda s, x: (s.a(x), x), a=one), one, (noise(*X),))


def test_nothing_is_returned_where_verification_fails(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make = make_layer

    def wrong(*args: Any, **options: Any) -> Layer:
        layer = make(*args, **options)
        with torch.no_grad():
            layer.module.get_parameter("weight")[0] *= 1.5
        return layer

    monkeypatch.setattr(_write, "make_layer", wrong)
    model = settled(conv_norm())
    with pytest.raises(refold.VerificationError, match="nothing has been written"):
        refold.fold(model, (noise(*X),))
    assert refold.fold(model, (noise(*X),), verify=False).report.certificate is None


def test_a_parameter_of_the_examples_own_size_leaves_the_bound_a_number(seed: int) -> None:
    """It fixes the sizes of a plain network, which are then symbols of one value; as in RT-DETR also behind two linear layers."""
    plain = Net(lambda s, x: torch.relu(s.a(x)) + s.p, a=conv_norm(), p=weight(2, 6, 9, 8))
    lines = Net(lambda s, x: s.b(s.a(x)) + s.p, a=nn.Linear(8, 5), b=nn.Linear(5, 3), p=weight(9, 3))
    folded = 0
    for model, shape in ((plain, X), (lines, (2, 9, 8)), (lines, (1, 9, 8))):
        found = certificate(deployed(model, noise(*shape, dtype=torch.float32)))
        folded += len(found.regions)
        demand(found)
        assert all(region.bound < 1e-3 for region in found.regions)
    assert folded


@pytest.mark.parametrize("number", [0.1, -1 / 3, 1e-300])
def test_single_numbers_keep_the_bits_that_they_have_in_float64(number: float, seed: int) -> None:
    """The run on absolute values takes a scale as it is, not rounded to float32, to which a float64 network would be held."""
    skipped = Net(lambda s, x: s.n(s.a(x)) + number * x, a=conv(4, 4), n=nn.BatchNorm2d(4))
    apart = Net(lambda s, x: (number * (3.0 * x) + 0.7) * 0.9, a=conv())
    for model in (skipped, apart):
        found = certificate(deployed(model, noise(*X, dtype=torch.float64)))
        demand(found)
        assert len(found.regions) == 1
