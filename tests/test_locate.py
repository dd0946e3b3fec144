"""Hand-written conversions with the faults that today's converters have: each is found at its operator, and named."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from refold.cli import main
from refold.datasets import Dataset
from refold.errors import FoldError

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from refold.locate import UNKNOWN, locate
from refold.models import NamedModel
from refold.recheck import Pair, compare, compare_over, find_departure


def conv_norm(inputs: int, outputs: int, kernel: int, **options: Any) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("conv", nn.Conv2d(inputs, outputs, kernel, bias=False, **options))
    layers.add_module("bn", nn.BatchNorm2d(outputs))
    return layers


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Block(nn.Module):
    """act(SE(post(B K3 x + alpha * B K1 x + B x))), each part as the options say."""

    def __init__(
        self, channels: int = 8, *, groups: int = 1, dilation: int = 1, mode: str = "zeros", alpha: float | None = None,
        se: bool = False, post: bool = False, identity: bool = True, eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dense = conv_norm(channels, channels, 3, padding=dilation, dilation=dilation, groups=groups, padding_mode=mode)
        self.point = conv_norm(channels, channels, 1, groups=groups)
        self.identity = nn.BatchNorm2d(channels) if identity else None
        self.alpha = None if alpha is None else nn.Parameter(torch.tensor([alpha]))
        self.se = SqueezeExcite(channels) if se else None
        self.post = nn.BatchNorm2d(channels) if post else None
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        point = self.point(x)
        y = self.dense(x) + (point if self.alpha is None else self.alpha * point)
        if self.identity is not None:
            y = y + self.identity(x)
        if self.se is not None:
            y = self.se(y)
        if self.post is not None:
            y = self.post(y)
        return torch.relu(y)


class Deployed(nn.Module):
    """relu(SE(conv x))."""

    def __init__(self, conv: nn.Conv2d, se: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.se = conv, se

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.relu(y if self.se is None else self.se(y))


def of_norm(norm: Any) -> tuple[Tensor, Tensor]:
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def convert(block: Block, *, alpha: float | None = None, identity: Callable[[int, int], Tensor] | None = None) -> Deployed:
    """The conversion as it should be; the keywords put faults in it."""
    with torch.no_grad():
        dense: Any = block.dense.conv
        channels, per_group = dense.weight.shape[:2]
        scale, shift = of_norm(block.dense.bn)
        kernel, bias = dense.weight * scale.reshape(-1, 1, 1, 1), shift
        factor = alpha if alpha is not None else 1.0 if block.alpha is None else block.alpha
        scale, shift = of_norm(block.point.bn)
        point: Any = block.point.conv
        kernel = kernel + factor * nn.functional.pad(point.weight * scale.reshape(-1, 1, 1, 1), [1, 1, 1, 1])
        bias = bias + factor * shift
        if block.identity is not None:
            scale, shift = of_norm(block.identity)
            eye = (identity or right_identity)(channels, per_group)
            kernel = kernel + nn.functional.pad(eye * scale.reshape(-1, 1, 1, 1), [1, 1, 1, 1])
            bias = bias + shift
        options = {name: getattr(dense, name) for name in ("padding", "dilation", "groups", "padding_mode")}
        conv = nn.Conv2d(channels, channels, 3, **options)
        conv.weight.copy_(kernel)
        conv.bias.copy_(bias)  # type: ignore[union-attr]
    return Deployed(conv, copy.deepcopy(block.se))


def right_identity(channels: int, per_group: int) -> Tensor:
    eye = torch.zeros(channels, per_group, 1, 1)
    eye[torch.arange(channels), torch.arange(channels) % per_group] = 1
    return eye


def filled_diagonal(channels: int, per_group: int) -> Tensor:
    return torch.zeros(channels, per_group).fill_diagonal_(1.0).reshape(channels, per_group, 1, 1)


def other_options(deployed: Deployed, **options: Any) -> Deployed:
    conv = deployed.conv
    kept = {name: getattr(conv, name) for name in ("padding", "dilation", "groups", "padding_mode")} | options
    made = nn.Conv2d(conv.in_channels, conv.out_channels, 3, **kept)
    made.load_state_dict(conv.state_dict())
    return Deployed(made, deployed.se)


def without_se(block: Block) -> Deployed:
    return Deployed(convert(block).conv)


def through_se(block: Block) -> Deployed:
    """The norm behind the squeeze-excite folded into the convolution before it."""
    deployed = convert(block)
    with torch.no_grad():
        scale, shift = of_norm(block.post)
        deployed.conv.weight.mul_(scale.reshape(-1, 1, 1, 1))
        deployed.conv.bias.mul_(scale).add_(shift)  # type: ignore[union-attr]
    return deployed


def from_batch(block: Block, inputs: Tensor) -> Deployed:
    """Statistics of one batch, as a norm in training uses them."""
    wrong: Any = copy.deepcopy(block)
    with torch.no_grad():
        for norm, x in ((wrong.dense.bn, wrong.dense.conv(inputs)), (wrong.point.bn, wrong.point.conv(inputs)), (wrong.identity, inputs)):
            if norm is not None:
                norm.running_mean.copy_(x.mean((0, 2, 3)))
                norm.running_var.copy_(x.var((0, 2, 3), correction=0))
    return convert(wrong)


def rounded(deployed: Deployed, dtype: Any) -> Deployed:
    deployed.conv.to(dtype).to(torch.float32)
    return deployed


def without_bias(deployed: Deployed) -> Deployed:
    nn.init.zeros_(deployed.conv.bias)  # type: ignore[arg-type]
    return deployed


def with_eps(block: Block) -> Deployed:
    wrong = copy.deepcopy(block)
    for module in wrong.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    return convert(wrong)


def unscaled(block: Block) -> Deployed:
    wrong: Any = copy.deepcopy(block)
    nn.init.ones_(wrong.dense.bn.weight)
    return convert(wrong)


def settled(module: nn.Module) -> nn.Module:
    """With statistics and scales as after training."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for one in module.modules():
            if isinstance(one, nn.BatchNorm2d):
                for tensor, low, high in ((one.weight, 0.5, 1.5), (one.bias, -1, 1), (one.running_mean, -1, 1), (one.running_var, 0.5, 2)):
                    tensor.uniform_(low, high, generator=generator)  # type: ignore[union-attr]
    return module.eval()


X = torch.randn(3, 8, 10, 9, generator=torch.Generator().manual_seed(1))
OTHER = torch.randn(5, 8, 10, 9, generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class Fault:
    """A conversion gone wrong: of which block, how, at which operator it departs, and what is said of it.

    `merged` is what is said where the original is an ONNX file whose batch norms the exporter has merged into the convolutions before
    them, so that their numbers are no longer told apart.
    """

    name: str
    block: dict[str, Any]
    spoil: Callable[[Any], nn.Module]
    says: str
    at: str = "conv2d"
    batch: Tensor | None = None
    merged: str | None = None

    def pair(self, position: int) -> tuple[nn.Module, nn.Module]:
        """Two blocks and a mean, and their conversion with the fault in one of them."""
        blocks: list[Any] = [settled(Block()), settled(Block())]
        blocks[position] = settled(Block(**self.block))
        original = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1)).eval()
        parts: list[nn.Module] = [convert(block) for block in blocks]
        if self.batch is None:
            parts[position] = self.spoil(blocks[position])
        else:
            with torch.no_grad():
                inputs = self.batch if position == 0 else blocks[0](self.batch)
            parts[position] = from_batch(blocks[position], inputs)
        return original, nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1)).eval()


OTHER_NORM = "train-mode statistics, or other numbers of a batch norm than the original's: "

FAULTS = [
    Fault(
        "grouped identity", {"groups": 2}, lambda block: convert(block, identity=filled_diagonal), "grouped identity: under 2 groups the"
    ),
    Fault("skipped SE", {"se": True}, without_se, "left out: mean, conv2d, relu, conv2d, sigmoid, mul (in `", "relu"),
    Fault(
        "norm folded through SE",
        {"se": True, "post": True},
        through_se,
        "batch_norm folded through what stands before it: mean, conv2d, relu, conv2d, sigmoid, mul (in `",
    ),
    Fault(
        "padding mode", {"mode": "reflect"}, lambda block: other_options(convert(block), padding_mode="zeros"), "lost padding mode: zeros"
    ),
    Fault("dilation, padding kept", {"dilation": 2}, lambda block: other_options(convert(block), dilation=1), "lost dilation"),
    Fault("dilation", {"dilation": 2}, lambda block: other_options(convert(block), dilation=1, padding=1), "lost "),
    Fault("alpha 0 read as 1", {"alpha": 0.0}, lambda block: convert(block, alpha=1.0), ".alpha` (=0) read as 1"),
    Fault("alpha left out", {"alpha": 0.3}, lambda block: convert(block, alpha=1.0), ".alpha` (=0.3) read as 1"),
    Fault(
        "padding forgotten",
        {},
        lambda block: other_options(convert(block), padding=0),
        "lost padding: padding (=0) where the original has 1",
    ),
    Fault("train mode", {}, convert, "train-mode statistics: those of the batch", batch=X, merged=OTHER_NORM),
    Fault("train mode, another batch", {}, lambda block: from_batch(block, OTHER), OTHER_NORM),
    Fault("float16", {}, lambda block: rounded(convert(block), torch.float16), "dtype: the weights are no finer than float16"),
    Fault("bfloat16", {}, lambda block: rounded(convert(block), torch.bfloat16), "dtype: the weights are no finer than bfloat16"),
    Fault("dropped bias", {}, lambda block: without_bias(convert(block)), "dropped bias"),
    Fault("missing scale", {}, unscaled, "missing scale: the weight of a batch norm read as 1 (", merged=OTHER_NORM),
    Fault("eps", {"eps": 1e-3}, with_eps, "eps of a batch norm read as 1e-05", merged=f"{OTHER_NORM}every branch by less than 0.1%"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("position", [0, 1])
def test_a_fault_is_found_at_its_operator_and_named(fault: Fault, position: int, seed: int) -> None:
    original, deployed = fault.pair(position)
    found = locate(original, deployed, X)
    assert found is not None
    assert fault.says in found.cause, str(found)
    assert (found.operation, found.folder) == (fault.at, f"{position}.conv" if fault.at == "conv2d" else str(position)), str(found)
    assert found.difference > found.allowed
    assert f"likely cause: {found.cause}" in str(found)


@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"se": True}, {"mode": "reflect", "identity": False}, {"alpha": 0.0}])
def test_a_right_conversion_departs_nowhere(options: dict[str, Any], seed: int) -> None:
    block = settled(Block(**options))
    assert locate(block, convert(block), X) is None  # type: ignore[arg-type]


def test_an_exported_program_and_a_module(seed: int) -> None:
    block = settled(Block(alpha=0.0))
    program = torch.export.export(block, (X,))
    found = locate(program, convert(block, alpha=1.0))  # type: ignore[arg-type]
    assert found is not None
    assert ".alpha` (=0) read as 1" in f".{found.cause.replace('`alpha', '.alpha')}"
    assert found.to_dict()["operator"] == "conv2d"


def test_a_network_that_ends_early(seed: int) -> None:
    layer, after = nn.Conv2d(8, 8, 1), SqueezeExcite(8)
    found = locate(nn.Sequential(layer, after), layer, X)
    assert found is not None
    assert (found.operation, found.cause) == ("conv2d", "left out: mean, conv2d, relu, sigmoid, mul")
    assert found.counterpart == "mul in `1`"


def test_a_network_of_other_weights_has_no_cause(seed: int) -> None:
    original, other = nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3)
    found = locate(original, other, X)
    assert found is not None
    assert found.cause == UNKNOWN
    assert (found.counterpart, found.last_match) == ("conv2d", ("input", "input"))


def test_a_padding_that_stands_alone_is_passed_over(seed: int) -> None:
    """What the original has no counterpart of is no departure where the values meet again, and none where the fault lies behind it."""

    class Apart(nn.Module):
        def __init__(self, conv: nn.Conv2d, bias: bool) -> None:
            super().__init__()
            self.conv, self.bias = conv, bias

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(nn.functional.pad(x, [1, 1, 1, 1]), self.conv.weight, self.conv.bias if self.bias else None)

    conv = nn.Conv2d(8, 4, 3, padding=1)
    assert locate(conv, Apart(conv, True), X) is None
    found = locate(conv, Apart(conv, False), X)
    assert found is not None
    assert (found.operation, found.cause) == ("conv2d", "dropped bias of a layer")


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_a_number_that_is_lost_departs(lost: float, seed: int) -> None:
    class Lost(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).masked_fill(x == x.max(), lost)

    found = locate(nn.ReLU(), Lost(), X)
    assert found is not None
    assert (found.operation, found.difference) == ("masked_fill", float("inf"))
    assert found.cause == "one operator more: the original ends before masked_fill"


def test_what_cannot_be_walked(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + 1, x + 2

    with pytest.raises(FoldError, match="the two models give 2 and 1 outputs; compare models that give the same"):
        locate(Two(), nn.ReLU(), X)
    with pytest.raises(FoldError, match=r"a\.onnx: No such file or directory; name an ONNX file that exists"):
        locate(nn.ReLU(), tmp_path / "a.onnx", X)


NETS = """
import torch
from torch import nn

def right(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (torch.randn(2, 3, 8, 8),)
def wrong():
    net = right()[0]
    nn.init.zeros_(net[0].bias)
    return net
"""


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = CliRunner().invoke(main, ["verify", "faulty:right", "faulty:wrong", "--locate"])
    assert result.exit_code == 3
    assert "departs at conv2d (conv2d in `0`), which should be conv2d in `0`" in result.stdout
    assert "likely cause: dropped bias of a layer" in result.stdout
    told = json.loads(CliRunner().invoke(main, ["verify", "faulty:right", "faulty:wrong", "--locate", "--json"]).stdout)
    assert told["departure"]["cause"] == "dropped bias of a layer"
    same = CliRunner().invoke(main, ["verify", "faulty:right", "faulty:right", "--locate", "--json"])
    assert (same.exit_code, json.loads(same.stdout)["departure"]) == (0, None)
    sys.modules.pop("faulty", None)


def test_what_only_the_data_shows_is_found_on_the_data(tmp_path: Path) -> None:
    class Clipped(nn.Module):
        def __init__(self, most: float) -> None:
            super().__init__()
            self.most = most

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.clamp(max=self.most))

    np.savez(tmp_path / "x.npz", np.linspace(0, 100, 40, dtype=np.float32).reshape(20, 2))
    pair = Pair(NamedModel("a", Clipped(1e9)), NamedModel("b", Clipped(50.0)), (torch.ones(2, 2),), None, Clipped(50.0))
    found = find_departure(compare_over(compare(pair), Dataset(tmp_path / "x.npz", 4)))
    assert found.departure is not None
    assert (found.departure.operation, found.departure.difference) == ("clamp", 50.0)
