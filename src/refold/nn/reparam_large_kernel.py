"""The large kernel of RepLKNet: it learns beside a small one.

train form: act(B K_large x + B K_small x); deploy form: act(K x + b).

Ding et al. 2022, "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs", arXiv 2203.06717.
"""

from __future__ import annotations

from torch import Tensor

from refold.algebra import AffineConv
from refold.errors import GeometryError
from refold.nn._after import Act
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import ConvNorm, ConvShape, PaddingMode, Sizes, total, value_of


class ReparamLargeKernel(FoldableBlock):
    """A convolution of a large kernel and one of a small kernel, each with its batch norm.

    Feature maps (batch, ch_in, *sizes) to (batch, ch_out, *ceil(sizes / stride)); published depthwise, `groups` = ch_in = ch_out.

    Args:
        ch_in: channels of the input.
        ch_out: channels of the output.
        kernel_size: of the large kernel, odd, one number or one for each axis.
        small_kernel: of the small one, odd and no larger.
        act: activation, see `RepVggBlock`; published without.
        stride: of both convolutions.
        groups: of both convolutions.
        padding_mode: zeros, reflect, replicate or circular.
        dimensions: 1, 2 or 3 spatial axes.
        deploy: build the deploy form, a single convolution `conv`.

    Raises:
        GeometryError: sizes that do not go together.
        RefoldError: an activation that is not known.

    >>> import torch
    >>> block = ReparamLargeKernel(8, 8, kernel_size=31, groups=8)
    >>> block(torch.zeros(1, 8, 28, 28)).shape
    torch.Size([1, 8, 28, 28])
    >>> [tuple(part.shape) for part in block.get_equivalent_kernel_bias()]
    [(8, 1, 31, 31), (8,)]
    """

    large: ConvNorm
    small: ConvNorm

    def __init__(
        self,
        ch_in: int,
        ch_out: int,
        kernel_size: Sizes,
        small_kernel: Sizes = 5,
        act: Act = None,
        *,
        stride: Sizes = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        dimensions: int = 2,
        deploy: bool = False,
    ) -> None:
        shape, small = (
            ConvShape.centred(ch_in, ch_out, taps, dimensions=dimensions, stride=stride, groups=groups, padding_mode=padding_mode)
            for taps in (kernel_size, small_kernel)
        )
        if any(less > more for less, more in zip(small.kernel_size, shape.kernel_size, strict=True)):
            raise GeometryError(f"`small_kernel` (={small_kernel}) must be no larger than `kernel_size` (={kernel_size})")
        super().__init__(shape, act=act, deploy=deploy)
        if deploy:
            return
        self.large = shape.conv_norm()
        self.small = small.conv_norm()

    def branches(self, x: Tensor) -> Tensor:
        """The sum of the branches."""
        y: Tensor = self.large(x) + self.small(x)
        return y

    def equivalent(self) -> AffineConv:
        """The sum of the branches as one value."""
        return total(value_of(branch, self.shape.rank) for branch in (self.large, self.small))
