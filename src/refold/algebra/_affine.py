"""The one value of the algebra: an affine convolution, and the shape of it that needs no numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from refold.errors import AlgebraError
from refold.geometry import Window

Array: TypeAlias = Any
"""An array of any library that keeps the Python array API standard, NumPy and PyTorch among them."""

Mode: TypeAlias = Literal["constant", "reflect", "replicate", "circular"]
MODES = get_args(Mode)

Sizes: TypeAlias = "tuple[int | None, ...]"
"""Spatial sizes of an input, None where they are free."""


@dataclass(frozen=True, slots=True)
class Stencil:
    """The shape of an affine convolution: what it reads, not by what it multiplies.

    Plans are made on stencils, so that nothing is multiplied before it is known to pay.
    """

    in_channels: int
    out_channels: int
    groups: int
    windows: tuple[Window, ...]
    mode: Mode = "constant"

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise AlgebraError(f"`groups` (={self.groups}) must be at least 1")
        for name in ("in_channels", "out_channels"):
            channels = getattr(self, name)
            if channels < 1 or channels % self.groups:
                raise AlgebraError(f"`{name}` (={channels}) must be a positive multiple of `groups` (={self.groups})")

    @property
    def rank(self) -> int:
        """Spatial axes: 0 for a linear layer, 2 for an image."""
        return len(self.windows)

    @property
    def taps(self) -> tuple[int, ...]:
        """Kernel size of each axis."""
        return tuple(window.kernel for window in self.windows)

    @property
    def is_pointwise(self) -> bool:
        """Whether each position of the output reads the same position of the input alone."""
        return all(window.is_point for window in self.windows)

    @property
    def is_upsampled(self) -> bool:
        """Whether the items of the input lie apart on some axis, as a transposed convolution reads them."""
        return any(window.upsample > 1 for window in self.windows)

    @property
    def moves_channels_alone(self) -> bool:
        """Whether each channel is scaled by itself and read through one tap: batch norm, padding, crop, strided slice."""
        return self.groups == self.in_channels == self.out_channels and all(tap == 1 for tap in self.taps)

    @property
    def is_diagonal(self) -> bool:
        """Whether each channel is scaled by itself where it stands, as batch norm does."""
        return self.moves_channels_alone and self.is_pointwise

    @property
    def weights(self) -> int:
        """Numbers in the kernel."""
        return self.out_channels * self.fan_in

    @property
    def fan_in(self) -> int:
        """Multiply-adds for one number of the output (of the stuffed output, where the input is upsampled)."""
        return self.in_channels // self.groups * math.prod(self.taps)

    def output_sizes(self, sizes: Sizes) -> Sizes:
        """Spatial sizes of the output."""
        return tuple(None if n is None else window.output_size(n) for window, n in zip(self.windows, sizes, strict=True))

    def reads_outside(self, sizes: Sizes) -> bool:
        """Whether any position reads what the input does not have, so that the extension matters."""
        return any(window.reads_before() or window.reads_after(n) for window, n in zip(self.windows, sizes, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class AffineConv:
    """A linear map of feature maps with a bias: convolution, batch norm, pooling, crop, padding or linear layer.

    `y[o, p] = bias[o] + sum over c, t of kernel[o, c, t] * x~[c, stride * p + dilation * t - before]`, where `x~` is the input
    continued outside its border in the way `mode` says: by `fill`, one constant a channel (zeros where it is None), or by reflection,
    replication or repetition of x itself.

    Shapes: `kernel` (out, in / groups, *taps), `bias` (out,), `fill` (in,) or None; `windows` holds one `Window` for each tap axis.

    Raises `AlgebraError` where the shapes do not belong together.
    """

    kernel: Array
    bias: Array
    windows: tuple[Window, ...] = ()
    groups: int = 1
    mode: Mode = "constant"
    fill: Array | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.kernel.shape)
        if len(shape) < 2 or shape[2:] != tuple(window.kernel for window in self.windows):
            raise AlgebraError(
                f"kernel of shape {shape} must be (out, in / groups) and then {[window.kernel for window in self.windows]}, "
                "the taps of its windows"
            )
        if tuple(self.bias.shape) != shape[:1]:
            raise AlgebraError(f"bias of shape {tuple(self.bias.shape)} must have one number for each of the {shape[0]} output channels")
        if self.groups < 1 or shape[0] % self.groups:
            raise AlgebraError(f"`groups` (={self.groups}) must divide the output channels (={shape[0]})")
        if self.fill is not None and tuple(self.fill.shape) != (self.in_channels,):
            raise AlgebraError(
                f"fill of shape {tuple(self.fill.shape)} must have one number for each of the {self.in_channels} input channels"
            )
        if self.mode not in MODES:
            raise AlgebraError(f"`mode` (={self.mode!r}) must be one of {', '.join(map(repr, MODES))}")
        if self.fill is not None and self.mode != "constant":
            raise AlgebraError(f"a fill goes with mode 'constant', not {self.mode!r}")

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return int(self.kernel.shape[1]) * self.groups

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return int(self.kernel.shape[0])

    @property
    def stencil(self) -> Stencil:
        """What is known of this value without its numbers."""
        return Stencil(self.in_channels, self.out_channels, self.groups, self.windows, self.mode)


@dataclass(frozen=True, slots=True)
class Obstruction:
    """Why a law does not hold for two operands: the law, the fact with its numbers, and what would make it hold."""

    law: str
    fact: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.law}: {self.fact}; {self.remedy}"
