"""RepVGG made friendly to quantization: a batch norm on the 3x3 alone, and one after the sum.

train form: act(B (B K3 x + K1 x + x)); deploy form: act(K x + b).

Chu et al. 2024, "Make RepVGG Greater Again: A Quantization-Aware Approach", arXiv 2212.01593.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from refold import algebra
from refold.algebra import AffineConv
from refold.nn._after import Act
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import ConvNorm, ConvShape, PaddingMode, Sizes, in_order, total, value_of


class QARepVGGBlock(FoldableBlock):
    """A 3x3 convolution with its batch norm, a bare 1x1 and the input as it is, and a batch norm of their sum.

    Feature maps (batch, ch_in, h, w) to (batch, ch_out, ceil(h / stride), ceil(w / stride)). Squeeze-excite stands after the last batch
    norm, where it leaves the linear part whole; the authors' code has it in front, where nothing behind it could fold.

    Args:
        ch_in: channels of the input.
        ch_out: channels of the output.
        act: activation, see `RepVggBlock`.
        stride: of both convolutions.
        groups: of both convolutions.
        dilation: of the 3x3 convolution.
        identity: whether the input itself is a branch; None means where ch_in = ch_out and the stride is 1.
        squeeze_excite: see `RepVggBlock`.
        padding_mode: zeros, reflect, replicate or circular.
        dimensions: 1, 2 or 3 spatial axes.
        deploy: build the deploy form, a single convolution `conv`.

    Raises:
        GeometryError: sizes that do not go together.
        RefoldError: an activation that is not known.

    >>> import torch
    >>> block = QARepVGGBlock(16, 32, stride=2)
    >>> block(torch.zeros(1, 16, 56, 56)).shape
    torch.Size([1, 32, 28, 28])
    >>> [tuple(part.shape) for part in block.get_equivalent_kernel_bias()]
    [(32, 16, 3, 3), (32,)]
    """

    conv1: ConvNorm
    conv2: _ConvNd
    bn: _BatchNorm

    def __init__(
        self,
        ch_in: int,
        ch_out: int,
        act: Act = "relu",
        *,
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
            ch_in, ch_out, 3, dimensions=dimensions, stride=stride, dilation=dilation, groups=groups, padding_mode=padding_mode
        )
        self_is_branch = shape.takes_identity(identity)
        super().__init__(shape, act=act, squeeze_excite=squeeze_excite, deploy=deploy)
        self.has_identity = self_is_branch
        if deploy:
            return
        self.conv1 = shape.conv_norm()
        self.conv2 = shape.pointwise.conv(bias=False)
        self.bn = shape.norm()

    def branches(self, x: Tensor) -> Tensor:
        """The normed sum of the branches."""
        y = self.conv1(x) + self.conv2(x)
        normed: Tensor = self.bn(y + x if self.has_identity else y)
        return normed

    def equivalent(self) -> AffineConv:
        """The normed sum of the branches as one value."""
        rank = self.shape.rank
        values = [value_of(self.conv1, rank), value_of(self.conv2, rank)]
        if self.has_identity:
            values.append(algebra.identity(self.shape.ch_in, rank, values[0].kernel))
        return in_order(total(values), value_of(self.bn, rank))
