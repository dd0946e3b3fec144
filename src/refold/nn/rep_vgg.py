"""RepVGG: a 3x3 and a 1x1 convolution, and where asked the input itself, that add up to one 3x3.

train form: act(SE(B K3 x + alpha B K1 x + B x)), B a batch norm; deploy form: act(SE(K x + b)).

Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", arXiv 2101.03697; with alpha Xu et al. 2022, "PP-YOLOE: An Evolved
Version of YOLO", arXiv 2203.16250.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from refold.algebra import AffineConv
from refold.errors import GeometryError, RefoldError
from refold.geometry import whole
from refold.nn._after import Act
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import ConvNorm, ConvShape, PaddingMode, Sizes, scaled, total, value_of


class RepVggBlock(FoldableBlock):
    """A 3x3 and a 1x1 convolution, each with its batch norm, added up: `act(conv1(x) + alpha * conv2(x))`.

    Feature maps (batch, ch_in, h, w) to (batch, ch_out, ceil(h / stride), ceil(w / stride)).

    Args:
        ch_in: channels of the input.
        ch_out: channels of the output.
        act: activation after the sum: a name, a dict of "type" or "name" and arguments, a module, a function, or None.
        alpha: whether the 1x1 branch is weighed by a learned scalar, `alpha`, that starts at 1; at 0 the branch is gone.
        stride: of both convolutions.
        groups: of both convolutions.
        dilation: of the 3x3 convolution.
        identity: whether the input itself, with a batch norm, is a branch; needs ch_in = ch_out and stride 1.
        squeeze_excite: weigh the channels of the sum by a network of so many times fewer channels; None leaves it out.
        padding_mode: how the 3x3 convolution continues its input: zeros, reflect, replicate or circular.
        dimensions: 1, 2 or 3 spatial axes.
        deploy: build the deploy form, a single convolution `conv`.

    Raises:
        GeometryError: sizes that do not go together.
        RefoldError: an activation that is not known, or an alpha that is not True or False.

    >>> block = RepVggBlock(16, 32, alpha=True, stride=2)
    >>> block(torch.zeros(1, 16, 56, 56)).shape
    torch.Size([1, 32, 28, 28])
    >>> block.convert_to_deploy()
    RepVggBlock(
      deploy form
      (conv): Conv2d(16, 32, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
      (squeeze_excite): Identity()
      (act): ReLU()
    )
    """

    conv1: ConvNorm
    conv2: ConvNorm
    identity: _BatchNorm | None
    alpha: nn.Parameter | None

    def __init__(
        self,
        ch_in: int,
        ch_out: int,
        act: Act = "relu",
        alpha: bool = False,
        *,
        stride: Sizes = 1,
        groups: int = 1,
        dilation: Sizes = 1,
        identity: bool = False,
        squeeze_excite: int | None = None,
        padding_mode: PaddingMode = "zeros",
        dimensions: int = 2,
        deploy: bool = False,
    ) -> None:
        shape = ConvShape.centred(
            ch_in, ch_out, 3, dimensions=dimensions, stride=stride, dilation=dilation, groups=groups, padding_mode=padding_mode
        )
        if not isinstance(alpha, bool):
            raise RefoldError(f"`alpha` (={alpha!r}) must be True or False; for another start set the parameter `alpha` afterwards")
        has_identity = shape.takes_identity(identity)
        super().__init__(shape, act=act, squeeze_excite=squeeze_excite, deploy=deploy)
        if deploy:
            return
        self.conv1 = shape.conv_norm()
        self.conv2 = shape.pointwise.conv_norm()
        self.register_module("identity", shape.norm() if has_identity else None)
        self.register_parameter("alpha", nn.Parameter(torch.ones(())) if alpha else None)

    def branches(self, x: Tensor) -> Tensor:
        """The sum of the branches."""
        y: Tensor = self.conv1(x)
        y = y + (self.conv2(x) if self.alpha is None else self.alpha * self.conv2(x))
        return y if self.identity is None else y + self.identity(x)

    def equivalent(self) -> AffineConv:
        """The sum of the branches as one value."""
        rank = self.shape.rank
        point = value_of(self.conv2, rank)
        values = [value_of(self.conv1, rank), point if self.alpha is None else scaled(point, self.alpha)]
        if self.identity is not None:
            values.append(value_of(self.identity, rank))
        return total(values)


DEPTHS = {"A": (2, 4, 14, 1), "B": (4, 6, 16, 1)}
BASE_WIDTHS = (64, 128, 256, 512)
MULTIPLIERS = {
    "A0": (0.75, 2.5),
    "A1": (1.0, 2.5),
    "A2": (1.5, 2.75),
    "B0": (1.0, 2.5),
    "B1": (2.0, 4.0),
    "B2": (2.5, 5.0),
    "B3": (3.0, 5.0),
}
"""How many times the base width the first three stages have, and the last (table 2 of the paper)."""

VARIANTS = (*MULTIPLIERS, *(f"{name}g{groups}" for name in ("B1", "B2", "B3") for groups in (2, 4)))


class RepVGG(nn.Module):
    """The RepVGG networks A0-A2, B0-B3 and the grouped B1g2 to B3g4: a stem, four stages of `RepVggBlock`s with identity, mean, linear.

    Images (batch, ch_in, h, w) to logits (batch, num_classes), or to the means of the last feature map where `num_classes` is 0. In the
    variants g2 and g4 every second layer has 2 or 4 groups.

    Args:
        variant: which layout of the paper.
        num_classes: logits; 0 leaves out the linear layer.
        ch_in: channels of the images.
        depths: blocks of each stage, in place of the variant's.
        widths: channels of each stage, in place of the variant's.
        strides: of the stem and of the first block of each stage, 2 each unless given; small images want less.
        deploy: build the deploy form.

    Raises:
        RefoldError: a variant that is not known.
        GeometryError: depths, widths or strides that do not go together.

    >>> network = RepVGG(num_classes=10, ch_in=1, depths=(1, 2), widths=(8, 16), strides=(1, 2, 2))
    >>> network(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    >>> [tuple(stage.shape) for stage in network.features(torch.zeros(5, 1, 8, 8))]
    [(5, 8, 4, 4), (5, 16, 2, 2)]
    """

    def __init__(
        self,
        variant: str = "A0",
        *,
        num_classes: int = 1000,
        ch_in: int = 3,
        depths: Sequence[int] | None = None,
        widths: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise RefoldError(f"no RepVGG is called {variant!r}; take one of {', '.join(VARIANTS)}")
        name, _, grouping = variant.partition("g")
        early, late = MULTIPLIERS[name]
        published = tuple(int(base * times) for base, times in zip(BASE_WIDTHS, (early, early, early, late), strict=True))
        stage_widths = published if widths is None else tuple(widths)
        stage_depths = DEPTHS[name[0]] if depths is None else tuple(depths)
        stage_strides = (2,) * (len(stage_depths) + 1) if strides is None else tuple(strides)
        if not stage_depths or len(stage_depths) != len(stage_widths) or len(stage_strides) != len(stage_depths) + 1:
            raise GeometryError(
                f"`depths` (={stage_depths}) and `widths` (={stage_widths}) must hold one number a stage, "
                f"and `strides` (={stage_strides}) one more, for the stem"
            )
        whole("num_classes", num_classes, at_least=0)
        for depth in stage_depths:
            whole("depths", depth, at_least=1)

        channels = min(64, stage_widths[0])
        identity = _fits(ch_in, channels, stage_strides[0])
        self.stage0 = RepVggBlock(ch_in, channels, stride=stage_strides[0], identity=identity, deploy=deploy)
        self.stages: list[str] = []
        layer = 0
        for number, (depth, width, first_stride) in enumerate(zip(stage_depths, stage_widths, stage_strides[1:], strict=True), start=1):
            blocks = []
            for position in range(depth):
                layer += 1
                stride = first_stride if position == 0 else 1
                groups = int(grouping) if grouping and layer % 2 == 0 else 1
                identity = _fits(channels, width, stride)
                blocks.append(RepVggBlock(channels, width, stride=stride, groups=groups, identity=identity, deploy=deploy))
                channels = width
            self.stages.append(f"stage{number}")
            self.add_module(f"stage{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """The feature map of each stage."""
        x = self.stage0(x)
        maps = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return tuple(maps)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        logits: Tensor = self.linear(self.features(x)[-1].mean((2, 3)))
        return logits

    def convert_to_deploy(self) -> Self:
        """Replace the branches of every block by one convolution, in place."""
        for module in list(self.modules()):
            if isinstance(module, FoldableBlock):
                module.convert_to_deploy()
        return self


def _fits(ch_in: int, ch_out: int, stride: int) -> bool:
    return ch_in == ch_out and stride == 1
