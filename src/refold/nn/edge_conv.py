"""The edge-oriented convolution block of super-resolution networks: a 3x3 beside expanded, gradient and Laplacian branches, no batch norm.

train form: act(K3 x + K3 pad(K1 x) + for each axis s D pad(K1 x) + s L pad(K1 x) + x), where D are Sobel kernels, L the Laplacian, s a
learned number a channel, and pad continues by the bias of the 1x1 in front of it; deploy form: act(K x + b).

Zhang et al. 2021, "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices", ACM MM, 10.1145/3474085.3475291.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from refold import algebra
from refold.algebra import AffineConv
from refold.errors import GeometryError
from refold.nn._after import Act
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import ConvShape, bordered, in_order, total, value_of, with_border, within_reach


class EdgeBranch(nn.Module):
    """A 1x1 convolution, then a fixed 3x3 kernel on each channel, times a learned number and plus another.

    The fixed kernel is a constant of the branch, not a parameter.
    """

    fixed: Tensor

    def __init__(self, shape: ConvShape, fixed: Tensor) -> None:
        super().__init__()
        self.padding = shape.padding
        self.point = shape.pointwise.conv(bias=True)
        self.scale = nn.Parameter(1e-3 * torch.randn(shape.ch_out))
        self.bias = nn.Parameter(1e-3 * torch.randn(shape.ch_out))
        self.register_buffer("fixed", fixed.expand(shape.ch_out, 1, *shape.kernel_size).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, ch_in, *sizes) to (batch, ch_out, *sizes)."""
        rank = len(self.padding)
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        framed = _framed(self.point, x, self.padding)
        y: Tensor = convolve(framed, self.scale.reshape(-1, 1, *([1] * rank)) * self.fixed, self.bias, groups=self.scale.numel())
        return y

    def value(self) -> AffineConv:
        """The branch as one value."""
        rank = len(self.padding)
        fixed, scale, bias = (within_reach(tensor) for tensor in (self.fixed, self.scale, self.bias))
        edges = algebra.convolution(fixed, groups=self.scale.numel())
        return in_order(bordered(value_of(self.point, rank), self.padding), edges, algebra.scale_and_shift(scale, bias, rank))


class EdgeConvBlock(FoldableBlock):
    """A 3x3 convolution with branches that look for edges, padded by zeros.

    Feature maps (batch, ch_in, *sizes) to (batch, ch_out, *sizes). In one or three dimensions there is a gradient branch for each axis,
    smoothed along the others as Sobel's is.

    Args:
        ch_in: channels of the input.
        ch_out: channels of the output.
        act: activation, see `RepVggBlock`.
        depth_multiplier: channels of the expanded branch, in multiples of ch_out.
        identity: whether the input itself is a branch; needs ch_in = ch_out.
        dimensions: 1, 2 or 3 spatial axes.
        deploy: build the deploy form, a single convolution `conv`.

    Raises:
        GeometryError: sizes that do not go together.
        RefoldError: an activation that is not known.

    >>> block = EdgeConvBlock(8, 8, identity=True)
    >>> block(torch.zeros(1, 8, 28, 28)).shape
    torch.Size([1, 8, 28, 28])
    >>> [tuple(part.shape) for part in block.get_equivalent_kernel_bias()]
    [(8, 8, 3, 3), (8,)]
    """

    full: _ConvNd
    expand: _ConvNd
    narrow: _ConvNd
    edges: nn.ModuleList

    def __init__(
        self,
        ch_in: int,
        ch_out: int,
        act: Act = "prelu",
        *,
        depth_multiplier: float = 2.0,
        identity: bool = False,
        dimensions: int = 2,
        deploy: bool = False,
    ) -> None:
        shape = ConvShape.centred(ch_in, ch_out, 3, dimensions=dimensions)
        wide = int(shape.ch_out * depth_multiplier)
        if wide < 1:
            raise GeometryError(
                f"`depth_multiplier` (={depth_multiplier}) leaves no channel of `ch_out` (={ch_out}); take {1 / ch_out:.3g} or more"
            )
        has_identity = shape.takes_identity(identity)
        super().__init__(shape, act=act, deploy=deploy)
        self.has_identity = has_identity
        if deploy:
            return
        self.full = shape.conv(bias=True)
        self.expand = shape.pointwise.changed(ch_out=wide).conv(bias=True)
        self.narrow = shape.changed(ch_in=wide, padding=(0,) * shape.rank).conv(bias=True)
        self.edges = nn.ModuleList(EdgeBranch(shape, kernel) for kernel in (*_sobel(shape.rank), _laplacian(shape.rank)))

    def branches(self, x: Tensor) -> Tensor:
        """The sum of the branches."""
        y: Tensor = self.full(x) + self.narrow(_framed(self.expand, x, self.shape.padding))
        for edge in self.edges:
            y = y + edge(x)
        return y + x if self.has_identity else y

    def equivalent(self) -> AffineConv:
        """The sum of the branches as one value."""
        rank = self.shape.rank
        values = [
            value_of(self.full, rank),
            in_order(bordered(value_of(self.expand, rank), self.shape.padding), value_of(self.narrow, rank)),
        ]
        for edge in self.edges:
            assert isinstance(edge, EdgeBranch)
            values.append(edge.value())
        if self.has_identity:
            values.append(algebra.identity(self.shape.ch_in, rank, values[0].kernel))
        return total(values)


def _framed(point: _ConvNd, x: Tensor, padding: tuple[int, ...]) -> Tensor:
    assert point.bias is not None
    return with_border(point(x), point.bias, padding)


def _sobel(rank: int) -> list[Tensor]:
    """The gradient along each axis, smoothed along the others: (3, ..., 3)."""
    slope, smooth = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1.0, 2.0, 1.0])

    def outer(axis: int) -> Tensor:
        parts = [slope if along == axis else smooth for along in range(rank)]
        return reduce(lambda grown, part: grown[..., None] * part, parts)

    return [outer(axis) for axis in range(rank)]


def _laplacian(rank: int) -> Tensor:
    """The sum of the second differences along the axes: (3, ..., 3)."""
    kernel = torch.zeros((3,) * rank)
    for axis in range(rank):
        for step, weight in ((0, 1.0), (1, -2.0), (2, 1.0)):
            kernel[tuple(step if along == axis else 1 for along in range(rank))] += weight
    return kernel
