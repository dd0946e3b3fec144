"""Every family folds to the stated number of convolutions, is proven, and computes the same, in each of the ways that it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import refold
from refold.folding import FoldResult
from tests.families import models

EXACT = 1e-11
"""Of the output's scale, in float64."""

Make = Callable[[], nn.Module]


def settled(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In eval, its batch norms off their initial values."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.to(dtype).eval()


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def distances(original: Any, folded: Any) -> float:
    pairs = zip(original, folded, strict=True) if isinstance(original, tuple) else [(original, folded)]
    return max(float(((one - other).abs().max() / one.abs().max()).detach()) for one, other in pairs)


def folded(model: nn.Module, x: Tensor, other: Tensor | None = None) -> FoldResult:
    """Fold a float64 model, with proof, and compare on the example, on another batch and on other sizes."""
    result = refold.fold(model, (x,))
    assert result.report.certificate is not None
    assert result.report.certificate.passed
    for one in (x, other):
        if one is not None:
            assert distances(model(one), result.model(one)) < EXACT
    return result


BLOCKS: dict[str, tuple[Make, int]] = {
    "RepVGG": (models.RepVGG, 1),
    "RepVGG, groups": (lambda: models.RepVGG(groups=2), 1),
    "RepVGG, stride 2": (lambda: models.RepVGG(8, 12, stride=2), 1),
    "RepVGG, SE, kernel 5": (lambda: models.RepVGG(kernel=5, se=True), 3),
    "PP-YOLOE": (models.PPYOLOE, 1),
    "PP-YOLOE, alpha 0": (lambda: models.PPYOLOE(alpha=0.0), 1),
    "PP-YOLOE, no alpha": (lambda: models.PPYOLOE(alpha=None), 1),
    "MobileOne": (models.MobileOnePair, 2),
    "MobileOne, SE, stride 2": (lambda: models.MobileOnePair(stride=2, se=True), 6),
    "ACNet": (models.ACNet, 1),
    "ACNet, cropped": (lambda: models.ACNet(padding=0), 1),
    "ACNet, kernel 5, stride 2, groups": (lambda: models.ACNet(8, 12, kernel=5, padding=1, stride=2, groups=2), 1),
    "ACNet, wide padding": (lambda: models.ACNet(padding=2), 1),
    "ACNet, reflect": (lambda: models.ACNet(mode="reflect"), 1),
    "ACNet, replicate": (lambda: models.ACNet(mode="replicate", stride=2), 1),
    "DBB": (models.DBB, 1),
    "DBB, kernel 5, groups, stride 2": (lambda: models.DBB(8, 16, kernel=5, groups=2, stride=2), 1),
    "DBB, depthwise": (lambda: models.DBB(groups=8), 1),
    "DBB, norm without affine": (lambda: models.DBB(affine=False), 1),
    "OREPA": (models.OREPA, 1),
    "OREPA, groups, stride 2": (lambda: models.OREPA(8, 12, groups=2, stride=2), 1),
    "RepLKNet": (models.RepLKNet, 1),
    "RepLKNet, stride 2": (lambda: models.RepLKNet(kernel=13, small=3, stride=2), 1),
    "UniRepLKNet": (models.UniRepLKNet, 1),
    "FastViT": (models.RepMixer, 1),
    "FastViT, no layer scale": (lambda: models.RepMixer(layer_scale=False, kernel=7), 1),
    "RepViT": (models.RepVGGDW, 1),
    "QARepVGG": (models.QARepVGG, 1),
    "QARepVGG, stride 2": (lambda: models.QARepVGG(8, 12, stride=2), 1),
    "QARepVGG, SE": (lambda: models.QARepVGG(se=True), 3),
    "RepGhost": (models.RepGhost, 2),
    "ECB": (models.ECB, 1),
    "ECB, other width": (lambda: models.ECB(8, 12), 1),
    "PP-LCNetV3": (models.PPLCNetV3, 1),
    "PP-LCNetV3, depthwise, rectangular stride": (lambda: models.PPLCNetV3(stride=(2, 1), groups=8), 1),
    "LoRA, convolution": (lambda: models.LoRAConv(stride=2), 1),
    "called twice": (lambda: models.Twice(models.MobileOne(act=False)), 2),
    "side by side": (models.ParallelHeads, 1),
    "concatenated": (models.ConcatThenConv, 1),
    "padded on two sides": (models.PadThenConv, 1),
    "transposed": (models.Upward, 1),
}


@pytest.mark.parametrize(("make", "convolutions"), BLOCKS.values(), ids=BLOCKS)
def test_a_block_folds_to_the_stated_count(make: Make, convolutions: int, seed: int) -> None:
    model = settled(make())
    after = folded(model, noise(1, 8, 17, 18), noise(3, 8, 22, 15)).report.after
    batch_norms = 1 if isinstance(model, models.QARepVGG) and convolutions == 3 else 0  # the one behind SE
    assert (after.convolutions, after.batch_norms, after.linears) == (convolutions, batch_norms, 0)
    assert after.additions == (1 if isinstance(model, models.PPLCNetV3) else 0)  # the affine behind the activation


FAMILIES = (
    *("RepVGG", "PP-YOLOE", "MobileOne", "ACNet", "DBB", "OREPA", "RepLKNet", "UniRepLKNet"),
    *("FastViT", "RepViT", "QARepVGG", "RepGhost", "ECB", "PP-LCNetV3", "LoRA, convolution"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_in_one_network_of_narrow_numbers(name: str, seed: int) -> None:
    make, convolutions = BLOCKS[name]
    for dtype in (torch.float32, torch.bfloat16):
        result = refold.fold(settled(make(), dtype), (noise(2, 8, 17, 18, dtype=dtype),))
        assert result.report.after.convolutions == convolutions
        assert {parameter.dtype for parameter in result.model.parameters()} == {dtype}


RANKS: dict[str, Callable[[int], nn.Module]] = {
    "RepVGG": lambda rank: models.RepVGG(groups=2, rank=rank),
    "MobileOne": lambda rank: models.MobileOne(groups=8, rank=rank),
    "RepLKNet": lambda rank: models.RepLKNet(kernel=7, small=3, stride=2, rank=rank),
}


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("make", RANKS.values(), ids=RANKS)
def test_other_ranks(make: Callable[[int], nn.Module], rank: int, seed: int) -> None:
    after = folded(settled(make(rank)), noise(1, 8, *(9,) * rank), noise(2, 8, *(6, 7, 11)[:rank])).report.after
    assert (after.convolutions, after.batch_norms, after.additions) == (1, 0, 0)


@pytest.mark.parametrize("leads", [(2,), (2, 5)])
def test_low_rank_adapters_join_their_layer(leads: tuple[int, ...], seed: int) -> None:
    after = folded(settled(models.LoRALinear()), noise(*leads, 16), noise(*(size + 1 for size in leads), 16)).report.after
    assert (after.linears, after.additions, after.operators) == (1, 0, 1)


def test_a_block_called_twice_is_stored_once(seed: int) -> None:
    result = folded(settled(models.Twice(models.MobileOne(act=False))), noise(1, 8, 9, 9))
    assert {name.rpartition(".")[2] for name, _ in result.model.named_parameters()} == {"weight", "bias"}
    assert len(list(result.model.parameters())) == 2


def test_a_family_at_sizes_that_are_fixed(seed: int) -> None:
    """An exported program that is static in every size."""
    for make in (models.DBB, models.ECB, models.ACNet, models.RepMixer):
        model = settled(make())
        program = torch.export.export(model, (noise(2, 8, 17, 18),))
        result = refold.fold(program)
        assert result.report.after.convolutions == 1
        assert distances(model(noise(2, 8, 17, 18)), result.model(noise(2, 8, 17, 18))) < EXACT


def test_a_wrong_count_would_be_noticed(seed: int) -> None:
    """A convolution behind an activation does not join the one in front of it."""
    model = settled(nn.Sequential(models.RepVGG(), models.RepVGG()))
    assert folded(model, noise(1, 8, 9, 9)).report.after.convolutions == 2
