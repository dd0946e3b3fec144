"""CSPResNet: the backbone of PP-YOLOE, cross-stage partial stages whose residual blocks end in a `RepVggBlock`.

stage: conv3(attention([conv1(d), blocks(conv2(d))])), d = down(x); block: x + rep(conv(x)); attention: x * hardsigmoid(fc(mean of x)).

Xu et al. 2022, "PP-YOLOE: An Evolved Version of YOLO", arXiv 2203.16250; the attention is the effective squeeze-excitation of Lee and
Park 2020, "CenterMask", arXiv 1911.06667. Parameters are called as in PaddleDetection, so its weights load by name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from refold.errors import GeometryError, RefoldError
from refold.geometry import whole
from refold.nn._after import Act, make_activation
from refold.nn._layers import ConvShape
from refold.nn.rep_vgg import RepVggBlock

BASE_WIDTHS = (64, 128, 256, 512, 1024)
BASE_DEPTHS = (3, 6, 6, 3)
MULTIPLIERS = {"S": (0.50, 0.33), "M": (0.75, 0.67), "L": (1.0, 1.0), "X": (1.25, 1.33)}
"""How many times the base widths and the base depths a variant has."""


class EffectiveSqueezeExcite(nn.Module):
    """Channels weighed by one layer of their means: x * hardsigmoid(fc(mean of x)), without a bottleneck between.

    Feature maps (batch, channels, h, w) to the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels."""
        weights: Tensor = self.act(self.fc(x.mean((2, 3), keepdim=True)))
        return x * weights


class CSPResBlock(nn.Module):
    """A residual block, `x + conv2(conv1(x))`: a 3x3 convolution and a `RepVggBlock`, both of `channels` and followed by `act`."""

    def __init__(self, channels: int, act: Act, *, alpha: bool, deploy: bool) -> None:
        super().__init__()
        self.conv1 = _conv_norm_act(channels, channels, 3, act)
        self.conv2 = RepVggBlock(channels, channels, act, alpha, deploy=deploy)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) to the same shape."""
        y: Tensor = x + self.conv2(self.conv1(x))
        return y


class CSPResStage(nn.Module):
    """Half of the channels pass `depth` residual blocks, the other half passes beside them.

    Feature maps (batch, ch_in, h, w) to (batch, ch_out, ceil(h / 2), ceil(w / 2)).
    """

    def __init__(self, ch_in: int, ch_out: int, depth: int, act: Act, *, alpha: bool, deploy: bool) -> None:
        super().__init__()
        if (ch_in + ch_out) % 4:
            raise GeometryError(
                f"a stage from {ch_in} to {ch_out} channels works on half of their sum, in two halves; the sum (={ch_in + ch_out}) must be "
                f"divisible by 4, as with {ch_out + -(ch_in + ch_out) % 4}"
            )
        middle = (ch_in + ch_out) // 2
        half = middle // 2
        self.conv_down = _conv_norm_act(ch_in, middle, 3, act, stride=2)
        self.conv1 = _conv_norm_act(middle, half, 1, act)
        self.conv2 = _conv_norm_act(middle, half, 1, act)
        self.blocks = nn.Sequential(*(CSPResBlock(half, act, alpha=alpha, deploy=deploy) for _ in range(depth)))
        self.attn = EffectiveSqueezeExcite(middle)
        self.conv3 = _conv_norm_act(middle, ch_out, 1, act)

    def forward(self, x: Tensor) -> Tensor:
        """One feature map to the next, of half the size."""
        x = self.conv_down(x)
        y: Tensor = self.conv3(self.attn(torch.cat((self.conv1(x), self.blocks(self.conv2(x))), dim=1)))
        return y


class CSPResNet(nn.Module):
    """The backbone of PP-YOLOE-S, M, L and X: a stem of three convolutions and four stages, each of which halves the size.

    Images (batch, ch_in, h, w) to the feature maps of the stages in `out_stages`; stage `i`, counted from 0, gives
    (batch, widths[i + 1], ceil(h / 2 ** (i + 2)), ceil(w / 2 ** (i + 2))).

    Args:
        variant: which layout of the paper: S, M, L or X.
        ch_in: channels of the images.
        depths: residual blocks of each stage, in place of the variant's.
        widths: channels of the stem and of each stage, in place of the variant's.
        out_stages: the stages whose feature maps are given back, the last three unless said.
        act: activation after every convolution: a name, a dict of "type" or "name" and arguments, a module, a function, or None.
        alpha: whether the 1x1 branches are weighed by learned scalars, as PP-YOLOE+ has them.
        deploy: build the deploy form.

    Raises:
        RefoldError: a variant or an activation that is not known.
        GeometryError: depths, widths or stages that do not go together.

    >>> network = CSPResNet(depths=(1, 2), widths=(8, 16, 32), out_stages=(0, 1)).eval()
    >>> [tuple(one.shape) for one in network(torch.zeros(1, 3, 64, 48))]
    [(1, 16, 16, 12), (1, 32, 8, 6)]
    >>> network.stages[1].blocks[0].conv2.conv1.conv.weight.shape
    torch.Size([12, 12, 3, 3])
    >>> network.convert_to_deploy().stages[1].blocks[0].conv2
    RepVggBlock(
      deploy form
      (conv): Conv2d(12, 12, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (squeeze_excite): Identity()
      (act): SiLU()
    )
    """

    def __init__(
        self,
        variant: str = "S",
        *,
        ch_in: int = 3,
        depths: Sequence[int] | None = None,
        widths: Sequence[int] | None = None,
        out_stages: Sequence[int] | None = None,
        act: Act = "swish",
        alpha: bool = True,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        if variant not in MULTIPLIERS:
            raise RefoldError(f"no CSPResNet is called {variant!r}; take one of {', '.join(MULTIPLIERS)}")
        wider, deeper = MULTIPLIERS[variant]
        channels = tuple(round(width * wider) for width in BASE_WIDTHS) if widths is None else tuple(widths)
        blocks = tuple(round(depth * deeper) for depth in BASE_DEPTHS) if depths is None else tuple(depths)
        if not blocks or len(channels) != len(blocks) + 1:
            raise GeometryError(
                f"`depths` (={blocks}) must hold one number a stage, and `widths` (={channels}) one more, the first of them for the stem"
            )
        for width in channels:
            whole("widths", width, at_least=2)
        for depth in blocks:
            whole("depths", depth, at_least=1)
        chosen = tuple(range(len(blocks)))[-3:] if out_stages is None else tuple(out_stages)
        if not chosen or not set(chosen) <= set(range(len(blocks))):
            raise GeometryError(f"`out_stages` (={chosen}) must be some of the {len(blocks)} stages, counted from 0 to {len(blocks) - 1}")
        self.out_stages = chosen
        first = channels[0]
        self.stem = nn.Sequential(
            OrderedDict(
                conv1=_conv_norm_act(ch_in, first // 2, 3, act, stride=2),
                conv2=_conv_norm_act(first // 2, first // 2, 3, act),
                conv3=_conv_norm_act(first // 2, first, 3, act),
            )
        )
        self.stages = nn.Sequential(
            *(
                CSPResStage(before, after, depth, act, alpha=alpha, deploy=deploy)
                for before, after, depth in zip(channels, channels[1:], blocks, strict=False)
            )
        )

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """The feature map of each stage."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The feature maps of `out_stages`."""
        maps = self.features(x)
        return tuple(maps[index] for index in self.out_stages)

    def convert_to_deploy(self) -> Self:
        """Replace the branches of every `RepVggBlock` by one convolution, in place.

        The plain convolutions keep their batch norms, as in PaddleDetection's deploy form; `refold.fold` folds those too.
        """
        for module in list(self.modules()):
            if isinstance(module, RepVggBlock):
                module.convert_to_deploy()
        return self


def _conv_norm_act(ch_in: int, ch_out: int, kernel_size: int, act: Act, *, stride: int = 1) -> nn.Sequential:
    """A convolution, `.conv`, its batch norm, `.bn`, and an activation, `.act`."""
    layers = ConvShape.centred(ch_in, ch_out, kernel_size, stride=stride).conv_norm()
    return nn.Sequential(OrderedDict(conv=layers.conv, bn=layers.bn, act=make_activation(act)))
