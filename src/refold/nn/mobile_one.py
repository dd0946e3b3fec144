"""MobileOne: several convolutions of one size, a 1x1 and the input itself, each with its batch norm, added up.

train form: act(SE(sum of n times B K_k x + B K1 x + B x)); deploy form: act(SE(K x + b)).

Vasu et al. 2023, "MobileOne: An Improved One Millisecond Mobile Backbone", arXiv 2206.04040.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from refold.algebra import AffineConv
from refold.geometry import whole
from refold.nn._after import Act
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import ConvNorm, ConvShape, PaddingMode, Sizes, total, value_of


class MobileOneBlock(FoldableBlock):
    """`num_conv_branches` convolutions of `kernel_size`, a 1x1 where that is larger, and the input where the shapes allow.

    Feature maps (batch, ch_in, *sizes) to (batch, ch_out, *ceil(sizes / stride)). A depthwise block has `groups` = ch_in = ch_out, a
    pointwise one `kernel_size` 1.

    Args:
        ch_in: channels of the input.
        ch_out: channels of the output.
        kernel_size: odd, one number or one for each axis.
        act: activation, see `RepVggBlock`.
        num_conv_branches: convolutions of `kernel_size`.
        stride: of all convolutions.
        groups: of all convolutions.
        dilation: of the convolutions of `kernel_size`.
        identity: whether the input itself, with a batch norm, is a branch; None means where ch_in = ch_out and the stride is 1.
        squeeze_excite: see `RepVggBlock`.
        padding_mode: zeros, reflect, replicate or circular.
        dimensions: 1, 2 or 3 spatial axes.
        deploy: build the deploy form, a single convolution `conv`.

    Raises:
        GeometryError: sizes that do not go together.
        RefoldError: an activation that is not known.

    >>> import torch
    >>> block = MobileOneBlock(16, 16, groups=16, num_conv_branches=4)
    >>> block(torch.zeros(1, 16, 28, 28)).shape
    torch.Size([1, 16, 28, 28])
    >>> [tuple(part.shape) for part in block.get_equivalent_kernel_bias()]
    [(16, 1, 3, 3), (16,)]
    """

    convs: nn.ModuleList
    point: ConvNorm | None
    identity: _BatchNorm | None

    def __init__(
        self,
        ch_in: int,
        ch_out: int,
        kernel_size: Sizes = 3,
        act: Act = "relu",
        *,
        num_conv_branches: int = 1,
        stride: Sizes = 1,
        groups: int = 1,
        dilation: Sizes = 1,
        identity: bool | None = None,
        squeeze_excite: int | None = None,
        padding_mode: PaddingMode = "zeros",
        dimensions: int = 2,
        deploy: bool = False,
    ) -> None:
        shape = ConvShape.centred(
            ch_in, ch_out, kernel_size, dimensions=dimensions, stride=stride, dilation=dilation, groups=groups, padding_mode=padding_mode
        )
        branches = whole("num_conv_branches", num_conv_branches, at_least=1)
        has_identity = shape.takes_identity(identity)
        super().__init__(shape, act=act, squeeze_excite=squeeze_excite, deploy=deploy)
        if deploy:
            return
        self.convs = nn.ModuleList(shape.conv_norm() for _ in range(branches))
        self.register_module("point", shape.pointwise.conv_norm() if any(tap > 1 for tap in shape.kernel_size) else None)
        self.register_module("identity", shape.norm() if has_identity else None)

    def branches(self, x: Tensor) -> Tensor:
        """The sum of the branches."""
        first, *others = self._branches()
        y: Tensor = first(x)
        for branch in others:
            y = y + branch(x)
        return y

    def equivalent(self) -> AffineConv:
        """The sum of the branches as one value."""
        return total(value_of(branch, self.shape.rank) for branch in self._branches())

    def _branches(self) -> list[nn.Module]:
        return [*self.convs, *(branch for branch in (self.point, self.identity) if branch is not None)]
