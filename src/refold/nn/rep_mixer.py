"""The token mixer of FastViT: a depthwise convolution learned as a difference from the input.

train form: x + gamma (mixer(x) - B x), the mixer a depthwise `MobileOneBlock` without activation; deploy form: K x + b.

Vasu et al. 2023, "FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization", arXiv 2303.14189.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from refold import algebra
from refold.algebra import AffineConv
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import ConvShape, PaddingMode, Sizes, per_channel, scaled, total, value_of
from refold.nn.mobile_one import MobileOneBlock


class RepMixer(FoldableBlock):
    """A depthwise convolution, its skip connection and its layer scale in one.

    Feature maps (batch, channels, *sizes) to the same shape.

    Args:
        channels: of the input and the output.
        kernel_size: odd, one number or one for each axis.
        layer_scale: where gamma, one learned number a channel, starts; None leaves it out.
        num_conv_branches: convolutions of the mixer.
        padding_mode: zeros, reflect, replicate or circular.
        dimensions: 1, 2 or 3 spatial axes.
        deploy: build the deploy form, a single convolution `conv`.

    Raises:
        GeometryError: sizes that do not go together.

    >>> mixer = RepMixer(16)
    >>> mixer(torch.zeros(1, 16, 28, 28)).shape
    torch.Size([1, 16, 28, 28])
    >>> mixer.convert_to_deploy().conv
    Conv2d(16, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=16)
    """

    mixer: MobileOneBlock
    norm: _BatchNorm
    gamma: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        kernel_size: Sizes = 3,
        *,
        layer_scale: float | None = 1e-5,
        num_conv_branches: int = 1,
        padding_mode: PaddingMode = "zeros",
        dimensions: int = 2,
        deploy: bool = False,
    ) -> None:
        shape = ConvShape.centred(channels, channels, kernel_size, dimensions=dimensions, groups=channels, padding_mode=padding_mode)
        super().__init__(shape, deploy=deploy)
        if deploy:
            return
        self.mixer = MobileOneBlock(
            channels,
            channels,
            kernel_size,
            None,
            num_conv_branches=num_conv_branches,
            groups=channels,
            padding_mode=padding_mode,
            dimensions=dimensions,
        )
        self.norm = shape.norm()
        self.register_parameter("gamma", None if layer_scale is None else nn.Parameter(torch.full((channels,), layer_scale)))

    def branches(self, x: Tensor) -> Tensor:
        """The input and the scaled difference."""
        difference: Tensor = self.mixer(x) - self.norm(x)
        return x + (difference if self.gamma is None else per_channel(self.gamma, self.shape.rank) * difference)

    def equivalent(self) -> AffineConv:
        """The input and the scaled difference as one value."""
        rank = self.shape.rank
        mixed = self.mixer.value()
        difference = total([mixed, scaled(value_of(self.norm, rank), -torch.ones_like(mixed.bias))])
        unchanged = algebra.identity(self.shape.ch_in, rank, mixed.kernel)
        return total([unchanged, difference if self.gamma is None else scaled(difference, self.gamma)])
