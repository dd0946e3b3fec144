"""The base that every block stands on: branches to train, one convolution to ship.

train form: act(squeeze_excite(sum of branches)); deploy form: act(squeeze_excite(conv)), of the same function in eval.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from refold.algebra import AffineConv
from refold.errors import RefoldError
from refold.nn._after import Act, SqueezeExcite, make_activation
from refold.nn._layers import ConvShape, value_of

STAYS = ("conv", "squeeze_excite", "act")
"""Children that the deploy form keeps; everything else of a block belongs to its branches."""


class FoldableBlock(nn.Module, ABC):
    """A block whose branches add up to one convolution of shape `shape`.

    A subclass builds its branches where `deploy` is False, and says twice what they are: `branches`, in layers, and `equivalent`, as a
    value of the algebra. It does no arithmetic on weights.
    """

    conv: _ConvNd | None

    def __init__(self, shape: ConvShape, *, act: Act = None, squeeze_excite: int | None = None, deploy: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.register_module("conv", shape.conv(bias=True) if deploy else None)
        self.squeeze_excite: nn.Module = (
            nn.Identity() if squeeze_excite is None else SqueezeExcite(shape.ch_out, squeeze_excite, dimensions=shape.rank)
        )
        self.act = make_activation(act)

    @abstractmethod
    def branches(self, x: Tensor) -> Tensor:
        """The linear part in train form."""

    @abstractmethod
    def equivalent(self) -> AffineConv:
        """The linear part in train form as one value, with the statistics of eval."""

    @property
    def deployed(self) -> bool:
        """Whether the block is one convolution."""
        return self.conv is not None

    def linear(self, x: Tensor) -> Tensor:
        """The block without what follows its sum."""
        y: Tensor = self.branches(x) if self.conv is None else self.conv(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (batch, ch_in, *sizes) to (batch, ch_out, *sizes / stride)."""
        y: Tensor = self.act(self.squeeze_excite(self.linear(x)))
        return y

    def value(self) -> AffineConv:
        """The linear part in either form as one value."""
        return self.equivalent() if self.conv is None else value_of(self.conv, self.shape.rank)

    def get_equivalent_kernel_bias(self) -> tuple[Tensor, Tensor]:
        """Kernel `(ch_out, ch_in / groups, *kernel_size)` and bias `(ch_out,)` of the one convolution that the branches add up to in eval.

        Gradients flow from them to the parameters of the branches. Worked out in float64 and rounded once, to the dtype of the weights.
        """
        like = self._kernel()
        value = self.value()
        assert tuple(value.kernel.shape) == (self.shape.ch_out, self.shape.ch_in // self.shape.groups, *self.shape.kernel_size)
        return value.kernel.to(like.dtype).to(like.device), value.bias.to(like.dtype).to(like.device)

    def convert_to_deploy(self) -> Self:
        """Replace the branches by one convolution, `conv`, in place; a block in deploy form stays as it is.

        The statistics of eval are used whatever the mode is. Mode, dtype, device, memory format and whether the parameters are trained
        stay; an optimizer has to be told of the new parameters.

        Raises:
            RefoldError: the convolution has numbers that are not finite in its dtype.
        """
        if self.conv is not None:
            return self
        like = self._kernel()
        with torch.no_grad():
            kernel, bias = self.get_equivalent_kernel_bias()
        broken = sum(int((~torch.isfinite(numbers)).sum()) for numbers in (kernel, bias))
        if broken:
            raise RefoldError(
                f"{broken} numbers of the folded {type(self).__name__} are not finite in {kernel.dtype}; "
                "check the weights for NaN, or convert in a wider dtype first"
            )
        trained = any(parameter.requires_grad for parameter in self._branch_parameters())
        conv = self.shape.conv(bias=True, device="meta")
        conv.weight = nn.Parameter(kernel.contiguous(memory_format=_memory_format(like)), requires_grad=trained)
        conv.bias = nn.Parameter(bias, requires_grad=trained)
        for name in {*self._modules, *self._parameters, *self._buffers} - {*STAYS}:
            delattr(self, name)
        self.conv = conv.train(self.training)
        return self

    def extra_repr(self) -> str:
        """The form, where it cannot be seen from the children."""
        return "deploy form" if self.deployed else ""

    def _kernel(self) -> Tensor:
        """A kernel of the block, whose dtype, device and memory format count; batch norms are often kept in a wider dtype."""
        if self.conv is not None:
            return self.conv.weight
        return next(parameter for parameter in self._branch_parameters() if parameter.ndim == self.shape.rank + 2)

    def _branch_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the deploy form has not."""
        return (parameter for name, parameter in self.named_parameters() if name.partition(".")[0] not in STAYS)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        has_conv = f"{prefix}conv.weight" in state_dict
        own = {*self._modules, *self._parameters, *self._buffers, "conv"}
        has_branches = any(key.startswith(prefix) and key[len(prefix) :].partition(".")[0] not in own for key in state_dict)
        message = None
        if self.deployed and not has_conv and has_branches:
            message = (
                "the checkpoint is of the train form and the model in deploy form; "
                "load it into a model built with deploy=False, then call convert_to_deploy()"
            )
        elif not self.deployed and has_conv:
            message = (
                "the checkpoint is of the deploy form and the model in train form; "
                "build the model with deploy=True, or call convert_to_deploy() before loading"
            )
        if message is not None and not any(message in said for said in error_msgs):
            error_msgs.append(f"{prefix.rstrip('.') or type(self).__name__}: {message}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


def _memory_format(weight: Tensor) -> torch.memory_format:
    for ndim, channels_last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if weight.ndim == ndim and weight.is_contiguous(memory_format=channels_last) and not weight.is_contiguous():
            return channels_last
    return torch.contiguous_format
