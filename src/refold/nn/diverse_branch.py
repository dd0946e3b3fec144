"""The diverse branch block: a convolution beside a 1x1, a 1x1 and its average, and a 1x1 and its convolution.

train form: act(B K_k x + B K1 x + B avg(pad(B K1 x)) + B K_k pad(B (I + K1) x)), where pad continues a batch norm's output by what the
batch norm makes of zeros, which is what lets the two layers behind it fold; deploy form: act(K x + b).

Ding et al. 2021, "Diverse Branch Block: Building a Convolution as an Inception-like Unit", arXiv 2103.13425.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from refold import algebra
from refold.algebra import AffineConv
from refold.errors import GeometryError
from refold.geometry import whole
from refold.nn._after import Act
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import AVERAGES, BorderedNorm, ConvNorm, ConvShape, Sizes, in_order, total, value_of


class DiverseBranchBlock(FoldableBlock):
    """Four branches that add up to one convolution of `kernel_size`, padded by zeros.

    Feature maps (batch, ch_in, *sizes) to (batch, ch_out, *ceil(sizes / stride)). A depthwise block has no 1x1 branch and averages its
    input as it is.

    Args:
        ch_in: channels of the input.
        ch_out: channels of the output.
        kernel_size: odd, one number or one for each axis, above 1 on one axis at least.
        act: activation, see `RepVggBlock`; published without.
        internal_channels: between the 1x1 and the convolution behind it; None means ch_in, or twice that where depthwise. Where it is
            ch_in, the 1x1 learns what is added to the identity.
        stride: of the block.
        groups: of all convolutions.
        dimensions: 1, 2 or 3 spatial axes.
        deploy: build the deploy form, a single convolution `conv`.

    Raises:
        GeometryError: sizes that do not go together.
        RefoldError: an activation that is not known.

    >>> import torch
    >>> block = DiverseBranchBlock(8, 16, stride=2)
    >>> block(torch.zeros(1, 8, 28, 28)).shape
    torch.Size([1, 16, 14, 14])
    >>> [tuple(part.shape) for part in block.get_equivalent_kernel_bias()]
    [(16, 8, 3, 3), (16,)]
    """

    origin: ConvNorm
    point: ConvNorm | None
    average_point: nn.Sequential | None
    average: nn.Module
    average_norm: _BatchNorm
    inner: _ConvNd
    inner_norm: BorderedNorm
    outer: ConvNorm

    def __init__(
        self,
        ch_in: int,
        ch_out: int,
        kernel_size: Sizes = 3,
        act: Act = None,
        *,
        internal_channels: int | None = None,
        stride: Sizes = 1,
        groups: int = 1,
        dimensions: int = 2,
        deploy: bool = False,
    ) -> None:
        shape = ConvShape.centred(ch_in, ch_out, kernel_size, dimensions=dimensions, stride=stride, groups=groups)
        if not any(tap > 1 for tap in shape.kernel_size):
            raise GeometryError(f"`kernel_size` (={kernel_size}) must be above 1 on one axis; a 1x1 convolution has nothing to average")
        depthwise = shape.groups == shape.ch_in == shape.ch_out
        between = (2 if depthwise else 1) * shape.ch_in if internal_channels is None else whole("internal_channels", internal_channels, 1)
        if between % shape.groups:
            raise GeometryError(f"`internal_channels` (={between}) must be divisible by `groups` (={shape.groups})")
        super().__init__(shape, act=act, deploy=deploy)
        if deploy:
            return
        pool: Any = AVERAGES[shape.rank - 1]
        still = (1,) * shape.rank
        inner = shape.pointwise.changed(ch_out=between, stride=still)
        self.origin = shape.conv_norm()
        self.register_module("point", None if depthwise else shape.pointwise.conv_norm())
        if depthwise:
            self.register_module("average_point", None)
            self.average = pool(shape.kernel_size, shape.stride, shape.padding)
        else:
            point = shape.pointwise.changed(stride=still)
            self.average_point = nn.Sequential(point.conv(bias=False), BorderedNorm(point.norm(), shape.padding))
            self.average = pool(shape.kernel_size, shape.stride)
        self.average_norm = shape.norm()
        self.adds_identity = between == shape.ch_in
        self.inner = inner.conv(bias=False)
        if self.adds_identity:
            nn.init.zeros_(self.inner.weight)
        self.inner_norm = BorderedNorm(inner.norm(), shape.padding)
        self.outer = shape.changed(ch_in=between, padding=(0,) * shape.rank).conv_norm()

    def branches(self, x: Tensor) -> Tensor:
        """The sum of the branches."""
        y: Tensor = self.origin(x)
        if self.point is not None:
            y = y + self.point(x)
        y = y + self.average_norm(self.average(x if self.average_point is None else self.average_point(x)))
        inner = self.inner(x)
        y = y + self.outer(self.inner_norm(x + inner if self.adds_identity else inner))
        return y

    def equivalent(self) -> AffineConv:
        """The sum of the branches as one value."""
        shape, rank = self.shape, self.shape.rank
        values = [value_of(self.origin, rank)]
        if self.point is not None:
            values.append(value_of(self.point, rank))

        pads = shape.padding if self.average_point is None else (0,) * rank
        average = algebra.average_pool(shape.ch_out, shape.kernel_size, values[0].kernel, stride=shape.stride, padding=pads)
        before = [] if self.average_point is None else [value_of(self.average_point, rank)]
        values.append(in_order(*before, average, value_of(self.average_norm, rank)))

        inner = value_of(self.inner, rank)
        if self.adds_identity:
            inner = algebra.add(algebra.identity(shape.ch_in, rank, inner.kernel), inner)
        values.append(in_order(inner, self.inner_norm.value(), value_of(self.outer, rank)))
        return total(values)
