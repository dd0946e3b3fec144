from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import refold
from refold.nn import CSPResNet, RepVggBlock
from refold.nn.csp_resnet import MULTIPLIERS, EffectiveSqueezeExcite
from tests.nn.blocks import distance, settle

EXACT = 1e-11
"""Of the output's scale: what two orders of summing in float64 may differ by through a whole network."""
DEPTHS = {"S": (1, 2, 2, 1), "M": (2, 4, 4, 2), "L": (3, 6, 6, 3), "X": (4, 8, 8, 4)}
WIDTHS = {
    "S": (32, 64, 128, 256, 512),
    "M": (48, 96, 192, 384, 768),
    "L": (64, 128, 256, 512, 1024),
    "X": (80, 160, 320, 640, 1280),
}


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def small(**options: Any) -> CSPResNet:
    return CSPResNet(**{"depths": (1, 2), "widths": (4, 8, 16), "out_stages": (0, 1)} | options)


@pytest.fixture
def x(seed: int) -> Tensor:
    return torch.randn(3, 3, 17, 24, dtype=torch.float64)


class Joined(nn.Module):
    """The feature maps as one vector for each image, which `settle` can train."""

    def __init__(self, network: CSPResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([one.flatten(1) for one in self.network(x)], dim=1)


@pytest.fixture
def trained(x: Tensor) -> CSPResNet:
    network = small().double()
    settle(Joined(network), x)
    return network


@pytest.mark.parametrize("variant", MULTIPLIERS)
def test_the_variants_have_the_published_layout(variant: str) -> None:
    with torch.device("meta"):
        network = CSPResNet(variant)
        maps = network(torch.zeros(1, 3, 64, 96))
    assert tuple(len(stage.get_submodule("blocks")._modules) for stage in network.stages) == DEPTHS[variant]
    assert [tuple(one.shape) for one in maps] == [
        (1, width, 64 // s, 96 // s) for width, s in zip(WIDTHS[variant][2:], (8, 16, 32), strict=True)
    ]
    blocks = sum(DEPTHS[variant])
    assert count(network, RepVggBlock) == blocks
    assert (count(network, nn.Conv2d), count(network, nn.BatchNorm2d)) == (3 + 4 * 5 + 3 * blocks, 3 + 4 * 4 + 3 * blocks)
    with torch.device("meta"):
        assert count(CSPResNet(variant, deploy=True), nn.Conv2d) == 3 + 4 * 5 + 2 * blocks


def test_the_parameters_have_the_published_names() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    convs = [f"stem.conv{i}" for i in (1, 2, 3)]
    convs += [f"stages.0.{name}" for name in ("conv_down", "conv1", "conv2", "conv3")]
    convs += [f"stages.0.blocks.0.{name}" for name in ("conv1", "conv2.conv1", "conv2.conv2")]
    expected = {f"{conv}.{name}" for conv in convs for name in ("conv.weight", *(f"bn.{one}" for one in norm))}
    expected |= {"stages.0.attn.fc.weight", "stages.0.attn.fc.bias", "stages.0.blocks.0.conv2.alpha"}
    assert set(small(depths=(1,), widths=(4, 8), out_stages=(0,)).state_dict()) == expected
    assert "stages.0.blocks.0.conv2.alpha" not in small(alpha=False).state_dict()
    deployed = small(deploy=True).state_dict()
    assert {"stages.0.blocks.0.conv2.conv.weight", "stages.0.blocks.0.conv2.conv.bias"} <= set(deployed)
    assert not [name for name in deployed if name.endswith("alpha")]


def test_a_stage_is_the_published_formula(trained: CSPResNet, x: Tensor) -> None:
    stage = trained.stages[0]
    part = stage.get_submodule
    d = part("conv_down")(trained.stem(x))
    block = part("blocks.0")
    y2 = part("conv2")(d)
    y2 = y2 + block.get_submodule("conv2")(block.get_submodule("conv1")(y2))
    y = torch.cat((part("conv1")(d), y2), 1)
    weights = (part("attn.fc")(y.mean((2, 3), keepdim=True)) / 6 + 0.5).clamp(0, 1)
    assert distance(trained(x)[0], part("conv3")(y * weights)) < EXACT


def test_effective_squeeze_excite_weighs_channels_by_their_means() -> None:
    attention = EffectiveSqueezeExcite(2)
    weight = torch.tensor([[0.0, 3.0], [0.0, 0.0]])[..., None, None]
    attention.fc.load_state_dict({"weight": weight, "bias": torch.tensor([0.0, -9.0])})
    x = torch.ones(1, 2, 2, 2)
    assert torch.equal(attention(x), torch.stack((x[:, 0], 0 * x[:, 1]), dim=1))


def test_sizes_that_are_odd_are_rounded_up(x: Tensor) -> None:
    assert [tuple(one.shape) for one in small().double()(x)] == [(3, 8, 5, 6), (3, 16, 3, 3)]


def test_folding_and_converting_agree(trained: CSPResNet, x: Tensor) -> None:
    expected = trained(x)
    result = refold.fold(trained, (x,))
    deployed = copy.deepcopy(trained).convert_to_deploy()
    assert count(trained, RepVggBlock) == 3
    for found in (deployed(x), result.model(x)):
        for one, truth in zip(found, expected, strict=True):
            assert distance(one, truth) < EXACT
    convolutions = 3 + 2 * 5 + 3 * 2
    assert count(deployed, nn.Conv2d) == convolutions
    after = result.report.after
    assert (after.convolutions, after.batch_norms, after.additions) == (convolutions, 0, 3)
    again = refold.fold(deployed, (x,)).report.after
    assert (again.convolutions, again.batch_norms, again.additions) == (convolutions, 0, 3)


def test_a_wrong_deploy_form_is_noticed(trained: CSPResNet, x: Tensor) -> None:
    expected = trained(x)
    trained.convert_to_deploy()
    block = next(module for module in trained.modules() if isinstance(module, RepVggBlock))
    assert block.conv is not None
    with torch.no_grad():
        block.conv.weight.view(-1)[0] += 1e-6
    assert distance(trained(x)[0], expected[0]) > EXACT


def test_converting_twice_is_once_and_the_state_loads_into_a_deploy_form(trained: CSPResNet, x: Tensor) -> None:
    state = trained.convert_to_deploy().state_dict()
    assert trained.convert_to_deploy().state_dict().keys() == state.keys()
    fresh = small(deploy=True).double().eval()
    fresh.load_state_dict(state)
    for one, other in zip(fresh(x), trained(x), strict=True):
        assert torch.equal(one, other)


def test_the_stages_given_back_are_the_last_three_unless_said() -> None:
    assert CSPResNet(depths=(1,) * 4, widths=(4,) * 5).out_stages == (1, 2, 3)
    assert small(out_stages=None).out_stages == (0, 1)
    network = small(out_stages=(1,)).eval()
    x = torch.zeros(1, 3, 16, 16)
    assert [tuple(one.shape) for one in network(x)] == [(1, 16, 2, 2)]
    assert len(network.features(x)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "XL"}, "no CSPResNet is called 'XL'; take one of S, M, L, X"),
        ({"depths": (1, 2, 3)}, r"`depths` \(=\(1, 2, 3\)\) must hold one number a stage, and `widths` \(=\(4, 8, 16\)\) one more"),
        ({"depths": (), "widths": (8,)}, r"`depths` \(=\(\)\)"),
        ({"depths": (1, 0)}, r"`depths` \(=0\) must be at least 1"),
        ({"widths": (1, 8, 16)}, r"`widths` \(=1\) must be at least 2"),
        ({"widths": (4, 10, 16)}, r"from 4 to 10 channels .*; the sum \(=14\) must be divisible by 4, as with 12"),
        ({"out_stages": (0, 2)}, r"`out_stages` \(=\(0, 2\)\) must be some of the 2 stages, counted from 0 to 1"),
        ({"out_stages": ()}, r"`out_stages` \(=\(\)\)"),
        ({"act": "swich"}, "no activation is called 'swich'; did you mean 'swish'"),
        ({"alpha": 0.5}, r"`alpha` \(=0.5\) must be True or False"),
    ],
)
def test_a_wrong_layout_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(refold.RefoldError, match=message):
        small(**arguments)
