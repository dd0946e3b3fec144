"""The asymmetric convolution block: a full kernel and one bar along each axis, each with its batch norm.

train form: act(B K_kxk x + B K_kx1 x + B K_1xk x); deploy form: act(K x + b).

Ding et al. 2019, "ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks", arXiv 1908.03930.
"""

from __future__ import annotations

from torch import Tensor, nn

from refold.algebra import AffineConv
from refold.nn._after import Act
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import ConvNorm, ConvShape, PaddingMode, Sizes, axes, in_order, per_axis, total, value_of, value_of_cropped


class AsymmetricBlock(FoldableBlock):
    """A convolution and, for each axis, one whose kernel reaches along that axis alone.

    Feature maps (batch, ch_in, *sizes) to (batch, ch_out, *sizes'), where sizes' are those of the full convolution. With less padding
    than half the kernel, the bars read a cropped input.

    Args:
        ch_in: channels of the input.
        ch_out: channels of the output.
        kernel_size: odd, one number or one for each axis.
        act: activation, see `RepVggBlock`; published without.
        stride: of all convolutions.
        padding: of the full convolution; None means half the kernel, which gives `ceil(sizes / stride)`.
        dilation: of all convolutions.
        groups: of all convolutions.
        padding_mode: zeros, reflect, replicate or circular.
        dimensions: 2 or 3 spatial axes.
        deploy: build the deploy form, a single convolution `conv`.

    Raises:
        GeometryError: sizes that do not go together.
        RefoldError: an activation that is not known.

    >>> import torch
    >>> block = AsymmetricBlock(8, 16)
    >>> block(torch.zeros(1, 8, 28, 28)).shape
    torch.Size([1, 16, 28, 28])
    >>> [bar.conv.kernel_size for bar in block.bars]
    [(3, 1), (1, 3)]
    """

    full: ConvNorm
    bars: nn.ModuleList

    def __init__(
        self,
        ch_in: int,
        ch_out: int,
        kernel_size: Sizes = 3,
        act: Act = None,
        *,
        stride: Sizes = 1,
        padding: Sizes | None = None,
        dilation: Sizes = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        dimensions: int = 2,
        deploy: bool = False,
    ) -> None:
        rank = axes(dimensions, allowed=(2, 3))
        shape = ConvShape.centred(
            ch_in, ch_out, kernel_size, dimensions=rank, stride=stride, dilation=dilation, groups=groups, padding_mode=padding_mode
        )
        centred = shape.padding
        if padding is not None:
            shape = shape.changed(padding=per_axis("padding", padding, rank, at_least=0))
        super().__init__(shape, act=act, deploy=deploy)
        if deploy:
            return
        self.full = shape.conv_norm()
        self.bars = nn.ModuleList()
        self.crops: list[tuple[int, ...]] = []
        for axis in range(rank):
            taps = tuple(tap if along == axis else 1 for along, tap in enumerate(shape.kernel_size))
            room = [p if along == axis else p - centre for along, (p, centre) in enumerate(zip(shape.padding, centred, strict=True))]
            self.bars.append(shape.changed(kernel_size=taps, padding=tuple(max(0, p) for p in room)).conv_norm())
            self.crops.append(tuple(max(0, -p) for p in room))

    def branches(self, x: Tensor) -> Tensor:
        """The sum of the branches."""
        y: Tensor = self.full(x)
        for bar, crop in zip(self.bars, self.crops, strict=True):
            y = y + bar(_cropped(x, crop))
        return y

    def equivalent(self) -> AffineConv:
        """The sum of the branches as one value."""
        rank = self.shape.rank
        values = [value_of(self.full, rank)]
        for bar, crop in zip(self.bars, self.crops, strict=True):
            assert isinstance(bar, ConvNorm)
            values.append(in_order(value_of_cropped(bar.conv, crop), value_of(bar.bn, rank)))
        return total(values)


def _cropped(x: Tensor, crop: tuple[int, ...]) -> Tensor:
    for axis, items in enumerate(crop, start=2):
        if items:
            x = x[(slice(None),) * axis + (slice(items, -items),)]
    return x
