"""The dilated re-parameterization block: a large depthwise kernel and small ones whose taps lie apart.

train form: B K_k x + sum of B K_ki x with dilation r_i; deploy form: K x + b, the small kernels' taps laid among those of the large one.

Ding et al. 2024, "UniRepLKNet: A Universal Perception Large-Kernel ConvNet", arXiv 2311.15599.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from refold.algebra import AffineConv
from refold.errors import GeometryError
from refold.geometry import Window, whole
from refold.nn._after import Act
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import ConvNorm, ConvShape, PaddingMode, total, value_of

PUBLISHED: dict[int, tuple[tuple[int, int], ...]] = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}
"""Kernel size and dilation of each small kernel beside a large one."""


class DilatedReparamBlock(FoldableBlock):
    """A depthwise convolution of `kernel_size` and dilated ones that span no more than it.

    Feature maps (batch, channels, *sizes) to the same shape.

    Args:
        channels: of the input and the output.
        kernel_size: of the large kernel, odd, the same on each axis.
        branches: kernel size and dilation of each small kernel; None means the published ones, for kernels of 5 to 17.
        act: activation, see `RepVggBlock`; published without.
        padding_mode: zeros, reflect, replicate or circular.
        dimensions: 1, 2 or 3 spatial axes.
        deploy: build the deploy form, a single convolution `conv`.

    Raises:
        GeometryError: sizes that do not go together.
        RefoldError: an activation that is not known.

    >>> import torch
    >>> block = DilatedReparamBlock(8, 13)
    >>> block(torch.zeros(1, 8, 28, 28)).shape
    torch.Size([1, 8, 28, 28])
    >>> [(small.conv.kernel_size[0], small.conv.dilation[0]) for small in block.small]
    [(5, 1), (7, 2), (3, 3), (3, 4), (3, 5)]
    """

    large: ConvNorm
    small: nn.ModuleList

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        branches: Sequence[tuple[int, int]] | None = None,
        act: Act = None,
        *,
        padding_mode: PaddingMode = "zeros",
        dimensions: int = 2,
        deploy: bool = False,
    ) -> None:
        large = whole("kernel_size", kernel_size, at_least=1)
        shape = ConvShape.centred(channels, channels, large, dimensions=dimensions, groups=channels, padding_mode=padding_mode)
        if branches is None and large not in PUBLISHED:
            raise GeometryError(
                f"no branches are published for `kernel_size` (={large}), only for {', '.join(map(str, PUBLISHED))}; give `branches`"
            )
        pairs = PUBLISHED[large] if branches is None else tuple(branches)
        small = [
            ConvShape.centred(
                channels, channels, taps, dimensions=dimensions, dilation=dilation, groups=channels, padding_mode=padding_mode
            )
            for taps, dilation in pairs
        ]
        for taps, dilation in pairs:
            span = Window(taps, dilation=dilation).span
            if span > large:
                widest = (large - 1) // (taps - 1)
                raise GeometryError(
                    f"a branch of kernel {taps} and dilation {dilation} spans {span} items, more than `kernel_size` (={large}); "
                    + (f"take a dilation of at most {widest}" if widest else "take a smaller kernel")
                )
        super().__init__(shape, act=act, deploy=deploy)
        if deploy:
            return
        self.large = shape.conv_norm()
        self.small = nn.ModuleList(one.conv_norm() for one in small)

    def branches(self, x: Tensor) -> Tensor:
        """The sum of the branches."""
        y: Tensor = self.large(x)
        for branch in self.small:
            y = y + branch(x)
        return y

    def equivalent(self) -> AffineConv:
        """The sum of the branches as one value."""
        return total(value_of(branch, self.shape.rank) for branch in (self.large, *self.small))
