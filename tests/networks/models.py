"""Whole networks in the published layouts, in training form: what folds is left to be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import refold.nn
from tests.families.models import ECB, RepMixer, RepVGG, RepVGGDW, SqueezeExcite, UniRepLKNet, conv_bn
from tests.families.models import MobileOne as MobileOneBlock
from tests.families.models import RepLKNet as LargeKernel

ONE = (RepVGG, MobileOneBlock, RepVGGDW, UniRepLKNet, ECB, RepMixer, LargeKernel, refold.nn.RepVggBlock)
"""Blocks whose branches a hand-written converter makes one convolution; a squeeze-excite within stays."""


def convolutions_by_hand(module: nn.Module) -> int:
    """Convolutions in the deploy form that a network's own converter gives."""
    if isinstance(module, ONE):
        return 1 + sum(isinstance(part, nn.Conv2d) for name, part in module.named_modules() if name.startswith(("se.", "squeeze_excite.")))
    if isinstance(module, nn.Conv2d):
        return 1
    return sum(convolutions_by_hand(child) for child in module.children())


def calibrated(model: nn.Module, shape: Sequence[int]) -> nn.Module:
    """The model in eval, its batch norms with the statistics of what they see, as after training, and scales and shifts of their own."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)
    with torch.no_grad():
        model.train()(torch.randn(8, *shape))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def conv_bn_act(inputs: int, outputs: int, kernel: Any, *, act: type[nn.Module] = nn.ReLU, **options: Any) -> nn.Sequential:
    """act(B K x), padded to keep its size where the kernel is odd."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    options = {"padding": tuple(side // 2 for side in sides), **options}
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, **options), act())


class Residual(nn.Module):
    """x + scale * body(x)."""

    def __init__(self, body: nn.Module, *, channels: int | None = None) -> None:
        super().__init__()
        self.body = body
        self.scale = None if channels is None else nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.scale is None else x + self.scale * y


def head(channels: int, classes: int = 1000) -> list[nn.Module]:
    """Global average, then classes."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


# ------------------------------------------------------------------------------------------------------------------ re-parameterized


def rep_vgg(depths: Sequence[int], widths: Sequence[int], *, groups: int = 1) -> nn.Module:
    """RepVGG (table 2 of Ding et al. 2021): a stem and four stages; groups in every second layer."""
    layers: list[nn.Module] = []
    before = 3
    for depth, width in zip((1, *depths), widths, strict=True):
        for position in range(depth):
            grouped = groups if len(layers) % 2 == 0 and layers else 1
            layers.append(RepVGG(before, width, stride=2 if position == 0 else 1, groups=grouped))
            before = width
    return nn.Sequential(*layers, *head(before))


def mobile_one(widths: Sequence[float], branches: int) -> nn.Module:
    """MobileOne (table 3 of Vasu et al. 2023): depthwise and pointwise blocks, four stages."""
    before = min(64, int(64 * widths[0]))
    layers: list[nn.Module] = [MobileOneBlock(3, before, stride=2, branches=1)]
    for depth, base, width in zip((2, 8, 10, 1), (64, 128, 256, 512), widths, strict=True):
        for position in range(depth):
            layers.append(MobileOneBlock(before, before, stride=2 if position == 0 else 1, groups=before, branches=branches))
            layers.append(MobileOneBlock(before, int(base * width), kernel=1, branches=branches))
            before = int(base * width)
    return nn.Sequential(*layers, *head(before))


class FastViTEmbedding(nn.Module):
    """pointwise(gelu(B K7 x + B K3 x)) at half the size, the two convolutions depthwise (FastViT, Vasu et al. 2023)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.large = conv_bn(inputs, outputs, 7, stride=2, padding=3, groups=inputs)
        self.small = conv_bn(inputs, outputs, 3, stride=2, padding=1, groups=inputs)
        self.point = MobileOneBlock(outputs, outputs, kernel=1, branches=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.point(F.gelu(self.large(x) + self.small(x)))
        return y


def fast_vit_stage(channels: int = 48, outputs: int = 96, depth: int = 2) -> nn.Module:
    """Two stages of FastViT-T8 (Vasu et al. 2023) with the patch embedding between them."""

    def blocks(width: int) -> list[nn.Module]:
        def feed_forward() -> nn.Module:
            return nn.Sequential(
                *conv_bn(width, width, 7, padding=3, groups=width),
                nn.Conv2d(width, 3 * width, 1),
                nn.GELU(),
                nn.Conv2d(3 * width, width, 1),
            )

        return [part for _ in range(depth) for part in (RepMixer(width), Residual(feed_forward(), channels=width))]

    return nn.Sequential(*blocks(channels), FastViTEmbedding(channels, outputs), *blocks(outputs))


def rep_vit(flags: Sequence[Sequence[int]] = ((1, 0, 0), (1, 0, 0), (1, 0) * 7 + (0,), (1, 0))) -> nn.Module:
    """RepViT-M0.9 (Wang et al. 2024): `flags` say which blocks of a stage have a squeeze-excite."""
    widths = (48, 96, 192, 384)

    def channel_mixer(width: int) -> nn.Module:
        return Residual(nn.Sequential(*conv_bn(width, 2 * width, 1), nn.GELU(), *conv_bn(2 * width, width, 1)))

    layers: list[nn.Module] = [*conv_bn(3, 24, 3, stride=2, padding=1), nn.GELU(), *conv_bn(24, 48, 3, stride=2, padding=1)]
    before = 48
    for width, stage in zip(widths, flags, strict=True):
        if width != before:
            layers += [*conv_bn(before, before, 3, stride=2, padding=1, groups=before), *conv_bn(before, width, 1), channel_mixer(width)]
        for flag in stage:
            layers += [RepVGGDW(width), *([SqueezeExcite(width)] if flag else []), channel_mixer(width)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(before), nn.Linear(before, 1000))


class RepGhostModule(nn.Module):
    """z = act(B K1 x); act(B K3 z + B z), depthwise."""

    def __init__(self, inputs: int, outputs: int, *, relu: bool = True) -> None:
        super().__init__()
        act = nn.ReLU if relu else nn.Identity
        self.primary = conv_bn_act(inputs, outputs, 1, act=act)
        self.cheap = conv_bn(outputs, outputs, 3, padding=1, groups=outputs)
        self.fusion_bn, self.act = nn.BatchNorm2d(outputs), act()

    def forward(self, x: Tensor) -> Tensor:
        z = self.primary(x)
        y: Tensor = self.act(self.cheap(z) + self.fusion_bn(z))
        return y


class RepGhostBottleneck(nn.Module):
    """Two RepGhost modules, a strided depthwise convolution between them, and a shortcut (Chen et al. 2022)."""

    def __init__(self, inputs: int, middle: int, outputs: int, kernel: int, stride: int, *, se: bool) -> None:
        super().__init__()
        down = conv_bn(middle, middle, kernel, stride=stride, padding=kernel // 2, groups=middle) if stride > 1 else nn.Identity()
        self.body = nn.Sequential(
            RepGhostModule(inputs, middle),
            down,
            SqueezeExcite(middle) if se else nn.Identity(),
            RepGhostModule(middle, outputs, relu=False),
        )
        self.shortcut: nn.Module = nn.Sequential()
        if inputs != outputs or stride > 1:
            depthwise = conv_bn(inputs, inputs, kernel, stride=stride, padding=kernel // 2, groups=inputs)
            self.shortcut = nn.Sequential(*depthwise, *conv_bn(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        y += self.shortcut(x)
        return y


GHOST = (
    *((3, 8, 16, 0, 1), (3, 24, 24, 0, 2), (3, 36, 24, 0, 1), (5, 36, 40, 1, 2), (5, 60, 40, 1, 1), (3, 120, 80, 0, 2)),
    *((3, 100, 80, 0, 1), (3, 120, 80, 0, 1), (3, 120, 80, 0, 1), (3, 240, 112, 1, 1), (3, 336, 112, 1, 1), (5, 336, 160, 1, 2)),
    *((5, 480, 160, 0, 1), (5, 480, 160, 1, 1), (5, 480, 160, 0, 1), (5, 480, 160, 1, 1)),
)
"""Kernel, middle and output channels, squeeze-excite and stride of each bottleneck of RepGhostNet 1.0x."""


def rep_ghost() -> nn.Module:
    """RepGhostNet 1.0x."""
    layers: list[nn.Module] = [conv_bn_act(3, 16, 3, stride=2)]
    before = 16
    for kernel, middle, outputs, se, stride in GHOST:
        layers.append(RepGhostBottleneck(before, middle, outputs, kernel, stride, se=bool(se)))
        before = outputs
    return nn.Sequential(*layers, conv_bn_act(before, 960, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(960, 1280, 1), nn.ReLU(), *head(1280))


class UniRepBlock(nn.Module):
    """x + B W2 GRN(gelu(W1 SE(B lk(x)))) with channels last between (Ding et al. 2024)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv, self.norm, self.se = UniRepLKNet(channels), nn.BatchNorm2d(channels), SqueezeExcite(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels, bias=False)
        self.gamma, self.beta = nn.Parameter(torch.rand(4 * channels)), nn.Parameter(torch.rand(4 * channels))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.up(self.se(self.norm(self.dwconv(x))).permute(0, 2, 3, 1)))
        strength = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        y = (self.gamma * (strength / (strength.mean(dim=-1, keepdim=True) + 1e-6)) + 1) * y + self.beta
        z: Tensor = self.bn(self.down(y).permute(0, 3, 1, 2))
        return x + z


def uni_rep_lk_stage(channels: int = 32, depth: int = 3) -> nn.Module:
    """One stage of UniRepLKNet, with convolutions of 13 x 13."""
    return nn.Sequential(*(UniRepBlock(channels) for _ in range(depth)))


class ECBSR(nn.Module):
    """ECBSR-M4C8 (Zhang et al. 2021): one luminance channel to twice its size, the input added to each of the four results."""

    def __init__(self, depth: int = 4, width: int = 8, scale: int = 2) -> None:
        super().__init__()
        blocks = [ECB(1, width), *(ECB(width, width) for _ in range(depth)), ECB(width, scale * scale)]
        blocks[-1].act = nn.Identity()  # type: ignore[assignment]
        self.backbone, self.upsampler = nn.Sequential(*blocks), nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.upsampler(self.backbone(x) + x)
        return y


# --------------------------------------------------------------------------------------------------------------------------- plain


class ResNetBlock(nn.Module):
    """relu(B K3 relu(B K3 x) + shortcut)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn_act(inputs, outputs, 3, stride=stride), conv_bn(outputs, outputs, 3, padding=1)
        self.downsample = conv_bn(inputs, outputs, 1, stride=stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y)


def res_net_18() -> nn.Module:
    """ResNet-18 (He et al. 2016)."""
    layers: list[nn.Module] = [conv_bn_act(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for width in (64, 128, 256, 512):
        layers += [ResNetBlock(before, width, 1 if width == before else 2), ResNetBlock(width, width, 1)]
        before = width
    return nn.Sequential(*layers, *head(512))


def mobile_net_v2() -> nn.Module:
    """MobileNetV2 (table 2 of Sandler et al. 2018)."""
    layers: list[nn.Module] = [conv_bn_act(3, 32, 3, stride=2, act=nn.ReLU6)]
    before = 32
    for expand, width, number, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ):  # fmt: skip
        for position in range(number):
            middle = before * expand
            steps = [conv_bn_act(before, middle, 1, act=nn.ReLU6)] if expand > 1 else []
            steps.append(conv_bn_act(middle, middle, 3, act=nn.ReLU6, groups=middle, stride=stride if position == 0 else 1))
            body = nn.Sequential(*steps, conv_bn(middle, width, 1))
            layers.append(Residual(body) if position else body)
            before = width
    return nn.Sequential(*layers, conv_bn_act(before, 1280, 1, act=nn.ReLU6), *head(1280))


class DenseLayer(nn.Module):
    """cat(x, K3 relu(B K1 relu(B x)))."""

    def __init__(self, inputs: int, growth: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def dense_net_121() -> nn.Module:
    """DenseNet-121 (table 1 of Huang et al. 2017)."""
    layers: list[nn.Module] = [conv_bn_act(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for number in (6, 12, 24, 16):
        layers += [DenseLayer(width + 32 * position) for position in range(number)]
        width += 32 * number
        if number != 16:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), *head(width))


class Branches(nn.Module):
    """Branches side by side, concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception_v3() -> nn.Module:
    """Inception-v3 (Szegedy et al. 2016) without its auxiliary classifier."""

    def c(inputs: int, outputs: int, kernel: Any = 1, **options: Any) -> nn.Sequential:
        return conv_bn_act(inputs, outputs, kernel, **options)

    def pool(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.AvgPool2d(3, 1, 1), c(inputs, outputs))

    def a(i: int, p: int) -> nn.Module:
        five, double = nn.Sequential(c(i, 48), c(48, 64, 5)), nn.Sequential(c(i, 64), c(64, 96, 3), c(96, 96, 3))
        return Branches(c(i, 64), five, double, pool(i, p))

    def b(i: int, m: int) -> nn.Module:
        seven = nn.Sequential(c(i, m), c(m, m, (1, 7)), c(m, 192, (7, 1)))
        double = nn.Sequential(c(i, m), c(m, m, (7, 1)), c(m, m, (1, 7)), c(m, m, (7, 1)), c(m, 192, (1, 7)))
        return Branches(c(i, 192), seven, double, pool(i, 192))

    def e(i: int) -> nn.Module:
        def split(width: int) -> nn.Module:
            return Branches(c(width, 384, (1, 3)), c(width, 384, (3, 1)))

        double = nn.Sequential(c(i, 448), c(448, 384, 3), split(384))
        return Branches(c(i, 320), nn.Sequential(c(i, 384), split(384)), double, pool(i, 192))

    valid: dict[str, Any] = {"stride": 2, "padding": 0}
    stem = [c(3, 32, 3, **valid), c(32, 32, 3, padding=0), c(32, 64, 3), nn.MaxPool2d(3, 2), c(64, 80), c(80, 192, 3, padding=0)]
    down = Branches(c(288, 384, 3, **valid), nn.Sequential(c(288, 64), c(64, 96, 3), c(96, 96, 3, **valid)), nn.MaxPool2d(3, 2))
    seven = nn.Sequential(c(768, 192), c(192, 192, (1, 7)), c(192, 192, (7, 1)), c(192, 192, 3, **valid))
    last = Branches(nn.Sequential(c(768, 192), c(192, 320, 3, **valid)), seven, nn.MaxPool2d(3, 2))
    middle = [b(768, width) for width in (128, 160, 160, 192)]
    return nn.Sequential(
        *stem, nn.MaxPool2d(3, 2), a(192, 32), a(256, 64), a(288, 64), down, *middle, last, e(1280), e(2048), *head(2048)
    )  # fmt: skip


class LastNorm(nn.LayerNorm):
    """A layer norm over the channels of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """x + gamma * W2 gelu(W1 norm(K7 x)), channels last between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(self.dwconv(x).permute(0, 2, 3, 1)))))
        y = self.gamma * y
        z: Tensor = x + y.permute(0, 3, 1, 2)
        return z


def conv_ne_xt() -> nn.Module:
    """ConvNeXt-T (Liu et al. 2022)."""
    widths = (96, 192, 384, 768)
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), LastNorm(96)]
    for position, (number, width) in enumerate(zip((3, 3, 9, 3), widths, strict=True)):
        if position:
            layers += [LastNorm(widths[position - 1]), nn.Conv2d(widths[position - 1], width, 2, 2)]
        layers += [ConvNeXtBlock(width) for _ in range(number)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(768), nn.Linear(768, 1000))


@dataclass(frozen=True, slots=True)
class Entry:
    """How a network is made, the image that it takes, the smallest one that shows its structure, and whether it is too heavy for a test."""

    make: Callable[[], nn.Module]
    shape: tuple[int, int, int] = (3, 224, 224)
    small: tuple[int, int, int] = (3, 64, 64)
    heavy: bool = False


NETWORKS: dict[str, Entry] = {
    "MobileOne-S0": Entry(lambda: mobile_one((0.75, 1.0, 1.0, 2.0), 4), heavy=True),
    "MobileOne-S1": Entry(lambda: mobile_one((1.5, 1.5, 2.0, 2.5), 1)),
    "RepVGG-A0": Entry(lambda: rep_vgg((2, 4, 14, 1), (48, 48, 96, 192, 1280))),
    "RepVGG-B1g4": Entry(lambda: rep_vgg((4, 6, 16, 1), (64, 128, 256, 512, 2048), groups=4), heavy=True),
    "FastViT-T8 stage": Entry(fast_vit_stage, (48, 56, 56), (48, 12, 12)),
    "RepViT-M0.9": Entry(rep_vit),
    "RepGhost-1.0": Entry(rep_ghost, heavy=True),
    "UniRepLKNet stage": Entry(uni_rep_lk_stage, (32, 56, 56), (32, 15, 15)),
    "ECBSR-M4C8": Entry(ECBSR, (1, 180, 320), (1, 12, 14), heavy=True),
    "CSPResNet-S": Entry(lambda: refold.nn.CSPResNet("S")),
    "ResNet-18": Entry(res_net_18, heavy=True),
    "MobileNetV2": Entry(mobile_net_v2),
    "DenseNet-121": Entry(dense_net_121, heavy=True),
    "Inception-v3": Entry(inception_v3, (3, 299, 299), (3, 107, 107), heavy=True),
    "ConvNeXt-T": Entry(conv_ne_xt, heavy=True),
}
