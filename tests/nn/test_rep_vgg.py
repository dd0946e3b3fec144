from __future__ import annotations

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import refold
from refold.nn import RepVGG, RepVggBlock
from refold.nn._foldable import FoldableBlock
from refold.nn.rep_vgg import VARIANTS
from tests.nn.blocks import EXACT, BlockStories, assert_folds_exactly, distance, settle


class TestRepVggBlock(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return RepVggBlock(4, 4, alpha=True, identity=True, groups=2, squeeze_excite=2, act="silu", deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return RepVggBlock(2, 2, alpha=True, identity=True, dimensions=1)


@pytest.mark.parametrize(
    ("alpha", "identity", "groups", "stride", "dilation"),
    [case for case in itertools.product((False, True), (False, True), (1, 2, 4), (1, 2, 3), (1, 2)) if not (case[1] and case[3] > 1)],
)
def test_every_combination_of_options_folds(alpha: bool, identity: bool, groups: int, stride: int, dilation: int, seed: int) -> None:
    block = RepVggBlock(
        4, 4 if identity else 8, alpha=alpha, identity=identity, groups=groups, stride=stride, dilation=dilation, act=None
    ).double()
    assert_folds_exactly(block, torch.randn(2, 4, 9, 8, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_every_padding_mode_folds_for_any_number_of_axes(dimensions: int, padding_mode: Any, dilation: int, seed: int) -> None:
    block = RepVggBlock(
        3, 6, "relu", True, padding_mode=padding_mode, dimensions=dimensions, dilation=dilation, squeeze_excite=2, groups=3
    ).double()
    assert_folds_exactly(block, torch.randn(2, 3, *(7, 6, 5)[:dimensions], dtype=torch.float64))


def test_stride_and_dilation_may_differ_by_axis(seed: int) -> None:
    block = RepVggBlock(3, 5, stride=(2, 1), dilation=(1, 3)).double()
    assert_folds_exactly(block, torch.randn(2, 3, 9, 8, dtype=torch.float64))
    assert block(torch.zeros(1, 3, 9, 8, dtype=torch.float64)).shape == (1, 5, 5, 8)


def test_the_train_form_is_the_published_formula(seed: int) -> None:
    block = settle(RepVggBlock(3, 5, "relu", True), torch.randn(2, 3, 6, 6))
    x = torch.randn(2, 3, 6, 6)
    assert block.alpha is not None
    assert torch.equal(block(x), F.relu(block.conv1.bn(block.conv1.conv(x)) + block.alpha * block.conv2.bn(block.conv2.conv(x))))
    assert [tuple(layer.conv.padding) for layer in (block.conv1, block.conv2)] == [(1, 1), (0, 0)]
    assert block.conv1.conv.bias is None
    assert block.conv2.conv.bias is None


def test_the_parameters_have_the_published_names() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = {"alpha"} | {f"{conv}.{name}" for conv in ("conv1", "conv2") for name in ("conv.weight", *(f"bn.{one}" for one in norm))}
    assert set(RepVggBlock(3, 5, alpha=True).state_dict()) == expected
    assert set(RepVggBlock(3, 5, alpha=True, deploy=True).state_dict()) == {"conv.weight", "conv.bias"}


def test_alpha_starts_at_one_and_takes_a_vector_of_one_as_paddle_stores_it() -> None:
    block = RepVggBlock(3, 5, alpha=True)
    assert block.alpha is not None
    assert block.alpha.item() == 1.0
    block.load_state_dict(block.state_dict() | {"alpha": torch.tensor([0.25])})
    assert block.alpha.item() == 0.25


def test_alpha_zero_means_zero(seed: int) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    block = settle(RepVggBlock(3, 5, None, alpha=True).double(), x)
    assert block.alpha is not None
    with torch.no_grad():
        block.alpha.zero_()
    expected = block.conv1(x)
    assert distance(block.convert_to_deploy()(x), expected) < EXACT


@pytest.mark.parametrize(
    ("act", "function"),
    [
        ("relu", F.relu),
        ("Swish", F.silu),
        ("hard_swish", F.hardswish),
        (None, lambda y: y),
        ({"type": "leaky_relu", "negative_slope": 0.3}, lambda y: F.leaky_relu(y, 0.3)),
        ({"name": "relu6"}, F.relu6),
        (nn.Mish(), F.mish),
        (nn.Tanh, torch.tanh),
        (torch.sin, torch.sin),
    ],
)
def test_an_activation_is_a_name_a_dict_a_module_a_function_or_none(act: Any, function: Any, seed: int) -> None:
    given = copy.deepcopy(act)
    block = RepVggBlock(3, 5, act).eval()
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(block(x), function(block.linear(x)))
    assert not isinstance(act, dict) or act == given
    assert "sin" in repr(block) or act is not torch.sin


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"act": "rleu"}, "no activation is called 'rleu'; did you mean 'relu'"),
        ({"act": "zzz"}, "no activation is called 'zzz'; take one of celu, .* or give a module"),
        ({"act": {"negative_slope": 0.1}}, r"`act` \(=\{'negative_slope': 0.1\}\) must name the activation once, under 'type' or 'name'"),
        ({"act": {"type": "relu", "name": "silu"}}, "must name the activation once"),
        ({"act": {"type": "relu", "slope": 1}}, r"the activation 'relu' does not take \{'slope': 1\}"),
        ({"act": 3}, r"`act` \(=3\) must be a name, a dict, a module, a function or None, not int"),
        ({"alpha": 0.5}, r"`alpha` \(=0.5\) must be True or False; for another start set the parameter"),
        ({"identity": True}, "needs the input's shape at the output, but channels go 4 → 8 at stride 1; use equal channels and stride 1"),
        ({"ch_out": 4, "stride": 2, "identity": True}, "channels go 4 → 4 at stride 2"),
        ({"groups": 3}, r"`ch_in` \(=4\) must be divisible by `groups` \(=3\)"),
        ({"ch_out": 6, "groups": 4}, r"`ch_out` \(=6\) must be divisible by `groups` \(=4\)"),
        ({"ch_in": 0}, r"`ch_in` \(=0\) must be at least 1"),
        ({"stride": 0}, r"`stride` \(=0\) must be at least 1"),
        ({"stride": (1, 2, 3)}, r"`stride` \(=\(1, 2, 3\)\) must be one number, or one for each of the 2 axes"),
        ({"dilation": 1.5}, r"`dilation` \(=1.5\) must be a whole number"),
        ({"padding_mode": "same"}, r"`padding_mode` \(='same'\) must be one of 'zeros', 'reflect', 'replicate', 'circular'"),
        ({"dimensions": 4}, r"`dimensions` \(=4\) must be 1 or 2 or 3"),
        ({"squeeze_excite": 0}, r"`squeeze_excite` \(=0\) must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(refold.RefoldError, match=message):
        RepVggBlock(**{"ch_in": 4, "ch_out": 8} | arguments)


def test_a_layer_that_is_not_linear_in_eval_is_refused() -> None:
    block = RepVggBlock(4, 4)
    block.conv1.bn = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(refold.RefoldError, match="a BatchNorm2d without running statistics is not linear in eval; set track_running_stats"):
        block.convert_to_deploy()
    block.conv1.bn = nn.GroupNorm(2, 4)  # type: ignore[assignment]
    with pytest.raises(refold.RefoldError, match="a GroupNorm in a branch is not known to be linear in eval; use a convolution"):
        block.get_equivalent_kernel_bias()


def test_other_batch_norms_fold_too(seed: int) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    block = settle(RepVggBlock(3, 5).double(), x)
    expected = block(x)
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(block))
    assert distance(synchronized.convert_to_deploy()(x), expected) < EXACT
    block.conv1.bn = nn.BatchNorm2d(5, affine=False, eps=0.1).double().eval()
    block.conv2.bn = nn.Identity()  # type: ignore[assignment]
    expected = block(x)
    assert distance(block.convert_to_deploy()(x), expected) < EXACT


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("A0", 8.30),
        ("A1", 12.78),
        ("A2", 25.49),
        ("B0", 14.33),
        ("B1", 51.82),
        ("B1g2", 41.36),
        ("B1g4", 36.12),
        ("B2", 80.31),
        ("B2g4", 55.77),
        ("B3", 110.96),
        ("B3g4", 75.62),
    ],
)
def test_the_deploy_forms_have_the_published_number_of_parameters(variant: str, parameters: float) -> None:
    with torch.device("meta"):
        network = RepVGG(variant, deploy=True)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert round(millions, 2) == pytest.approx(parameters, abs=0.02)


def test_every_variant_can_be_built() -> None:
    assert len(VARIANTS) == 13
    for variant in VARIANTS:
        with torch.device("meta"):
            assert count(RepVGG(variant), nn.Conv2d) == (44 if variant[0] == "A" else 56)


def test_a0_has_the_layers_that_its_authors_give_it(seed: int) -> None:
    network = RepVGG("A0").eval()
    assert (count(network, nn.Conv2d), count(network, nn.BatchNorm2d), count(network, nn.Linear)) == (44, 61, 1)
    x = torch.randn(1, 3, 64, 64)
    expected = network(x)
    assert network.convert_to_deploy() is network
    assert (count(network, nn.Conv2d), count(network, nn.BatchNorm2d), count(network, nn.Linear)) == (22, 0, 1)
    assert distance(network(x), expected) < 1e-5
    again = RepVGG("A0", deploy=True).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))


def small(**options: Any) -> RepVGG:
    return RepVGG("B1g2", num_classes=5, ch_in=1, depths=(2, 3), widths=(8, 16), strides=(1, 2, 2), **options)


def test_a_small_network_converts_exactly_after_training(seed: int) -> None:
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    network = settle(small().double(), x)
    expected = network(x)
    assert expected.shape == (6, 5)
    file = io.BytesIO()
    torch.save(network.convert_to_deploy().convert_to_deploy().state_dict(), file)
    file.seek(0)
    assert distance(network(x), expected) < EXACT
    fresh = small(deploy=True).double().eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(x), network(x))


def test_groups_are_on_every_second_layer() -> None:
    blocks = [module for module in small().modules() if isinstance(module, RepVggBlock)]
    assert [block.shape.groups for block in blocks] == [1, 1, 2, 1, 2, 1]
    with torch.device("meta"):
        blocks = [module for module in RepVGG("B2g4").modules() if isinstance(module, RepVggBlock)]
    assert [index for index, block in enumerate(blocks) if block.shape.groups == 4] == list(range(2, 27, 2))


def test_without_classes_it_is_a_backbone() -> None:
    network = RepVGG(num_classes=0, depths=(1, 1), widths=(8, 16)).eval()
    x = torch.zeros(1, 3, 32, 32)
    assert network(x).shape == (1, 16)
    assert [tuple(stage.shape) for stage in network.features(x)] == [(1, 8, 8, 8), (1, 16, 4, 4)]


def test_the_fold_verb_leaves_one_convolution_a_block(seed: int) -> None:
    x = torch.randn(6, 1, 8, 8)
    network = settle(small(), x)
    result = refold.fold(network, (x,))
    after = result.report.after
    assert (after.convolutions, after.linears, after.batch_norms, after.additions) == (6, 1, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "A7"}, "no RepVGG is called 'A7'; take one of A0, A1, .*B3g4"),
        ({"depths": (1, 2)}, r"`depths` \(=\(1, 2\)\) and `widths` \(=\(48, 96, 192, 1280\)\) must hold one number a stage"),
        ({"strides": (2, 2)}, r"`strides` \(=\(2, 2\)\) one more, for the stem"),
        ({"depths": (), "widths": ()}, r"`depths` \(=\(\)\)"),
        ({"depths": (1, 0), "widths": (8, 8)}, r"`depths` \(=0\) must be at least 1"),
        ({"num_classes": -1}, r"`num_classes` \(=-1\) must be at least 0"),
        ({"widths": (8, 8.5), "depths": (1, 1)}, r"`ch_out` \(=8.5\) must be a whole number"),
    ],
)
def test_a_wrong_layout_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(refold.RefoldError, match=message):
        RepVGG(**arguments)
