"""The layers that blocks are made of, for any number of axes, and each of them as a value of the algebra."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal, SupportsIndex, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from refold import algebra
from refold.algebra import AffineConv
from refold.errors import GeometryError, RefoldError
from refold.geometry import Window, whole

PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]

Sizes: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
"""One whole number for all axes, or one for each."""

CONVOLUTIONS: tuple[type[_ConvNd], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS: tuple[type[_BatchNorm], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AVERAGES: tuple[type[nn.Module], ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
WITHOUT_FLOAT64 = ("mps",)
"""Devices whose tensors are worked on in main memory, because they have no float64."""

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True, slots=True)
class ConvShape:
    """What a convolution reads, not by what it multiplies: channels, and for each axis its taps, stride, padding and dilation."""

    ch_in: int
    ch_out: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    padding_mode: PaddingMode = "zeros"

    def __post_init__(self) -> None:
        for name in ("ch_in", "ch_out", "groups"):
            object.__setattr__(self, name, whole(name, getattr(self, name), at_least=1))
        for name in ("ch_in", "ch_out"):
            if getattr(self, name) % self.groups:
                raise GeometryError(f"`{name}` (={getattr(self, name)}) must be divisible by `groups` (={self.groups})")
        if self.padding_mode not in PADDING_MODES:
            raise GeometryError(f"`padding_mode` (={self.padding_mode!r}) must be one of {', '.join(map(repr, PADDING_MODES))}")

    @classmethod
    def centred(
        cls,
        ch_in: int,
        ch_out: int,
        kernel_size: Sizes,
        *,
        dimensions: int = 2,
        stride: Sizes = 1,
        dilation: Sizes = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
    ) -> ConvShape:
        """A convolution padded so that kernels of any odd size are centred on each other, and the output is `ceil(n / stride)`."""
        rank = axes(dimensions)
        taps = per_axis("kernel_size", kernel_size, rank)
        spread = per_axis("dilation", dilation, rank)
        for tap in taps:
            if tap % 2 == 0:
                raise GeometryError(
                    f"`kernel_size` (={tap}) must be odd, for the branches to be centred on each other; take {tap - 1} or {tap + 1}"
                )
        padding = tuple(d * (tap - 1) // 2 for d, tap in zip(spread, taps, strict=True))
        return cls(ch_in, ch_out, taps, per_axis("stride", stride, rank), padding, spread, groups, padding_mode)

    @property
    def rank(self) -> int:
        """Spatial axes."""
        return len(self.kernel_size)

    def takes_identity(self, wanted: bool | None) -> bool:
        """Whether the input itself is a branch: as `wanted`, or where the output has its shape if that is None."""
        fits = self.ch_in == self.ch_out and math.prod(self.stride) == 1
        if wanted and not fits:
            raise GeometryError(
                f"`identity` needs the input's shape at the output, but channels go {self.ch_in} → {self.ch_out} at stride "
                f"{max(self.stride)}; use equal channels and stride 1, or identity=False"
            )
        return fits if wanted is None else bool(wanted)

    @property
    def pointwise(self) -> ConvShape:
        """The same positions, read through the centre tap alone."""
        ones = (1,) * self.rank
        return replace(self, kernel_size=ones, padding=(0,) * self.rank, dilation=ones)

    def changed(self, **fields: Any) -> ConvShape:
        """The same but for some fields."""
        return replace(self, **fields)

    def conv(self, *, bias: bool, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> _ConvNd:
        """The layer of this shape."""
        layer: Any = CONVOLUTIONS[self.rank - 1]
        return layer(  # type: ignore[no-any-return]
            self.ch_in,
            self.ch_out,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias,
            self.padding_mode if any(self.padding) else "zeros",
            device,
            dtype,
        )

    def norm(self) -> _BatchNorm:
        """A batch norm for its output."""
        return BATCH_NORMS[self.rank - 1](self.ch_out)

    def conv_norm(self) -> ConvNorm:
        """A convolution without bias and a batch norm."""
        return ConvNorm(self.conv(bias=False), self.norm())


class ConvNorm(nn.Sequential):
    """A convolution, `.conv`, and its batch norm, `.bn`."""

    conv: _ConvNd
    bn: _BatchNorm

    def __init__(self, conv: nn.Module, bn: nn.Module) -> None:
        super().__init__(OrderedDict(conv=conv, bn=bn))


def axes(dimensions: int, allowed: Sequence[int] = (1, 2, 3)) -> int:
    """`dimensions`, checked."""
    rank = whole("dimensions", dimensions)
    if rank not in allowed:
        raise GeometryError(f"`dimensions` (={rank}) must be {' or '.join(map(str, allowed))}")
    return rank


def per_axis(name: str, sizes: Sizes, rank: int, at_least: int = 1) -> tuple[int, ...]:
    """One whole number for each axis."""
    numbers = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,) * rank
    if len(numbers) != rank:
        raise GeometryError(f"`{name}` (={numbers}) must be one number, or one for each of the {rank} axes")
    return tuple(whole(name, number, at_least) for number in numbers)


def value_of(layer: nn.Module, rank: int) -> AffineConv:
    """What a layer computes in eval, whatever mode it is in."""
    match layer:
        case nn.Sequential():
            return in_order(*(value_of(one, rank) for one in layer if not isinstance(one, nn.Identity)))
        case BorderedNorm():
            return layer.value()
        case _ConvNd():
            return value_of_cropped(layer, (0,) * rank)
        case _BatchNorm():
            if layer.running_mean is None or layer.running_var is None:
                raise RefoldError(
                    f"a {type(layer).__name__} without running statistics is not linear in eval; set track_running_stats=True and train it"
                )
            given = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
            return algebra.batch_norm(*(None if one is None else within_reach(one) for one in given), eps=layer.eps, rank=rank)
    raise RefoldError(f"a {type(layer).__name__} in a branch is not known to be linear in eval; use a convolution or a batch norm there")


def within_reach(tensor: Tensor) -> Tensor:
    """The tensor on a device that has float64."""
    return tensor.cpu() if tensor.device.type in WITHOUT_FLOAT64 else tensor


def value_of_cropped(conv: _ConvNd, crop: Sequence[int]) -> AffineConv:
    """What a convolution computes of an input that `crop` items were cut from, on both sides of each axis."""
    mode: Any = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    pads: Any = conv.padding
    return algebra.convolution(
        within_reach(conv.weight),
        None if conv.bias is None else within_reach(conv.bias),
        stride=conv.stride,
        padding=[p - c for p, c in zip(pads, crop, strict=True)],
        dilation=conv.dilation,
        groups=conv.groups,
        mode=mode,
    )


def total(values: Iterable[AffineConv]) -> AffineConv:
    """The sum of branches that read the same input."""
    return reduce(algebra.add, values)


def in_order(*values: AffineConv) -> AffineConv:
    """The composition of layers that read one another, the first one first."""
    return reduce(lambda first, second: algebra.compose(second, first), values)


def scaled(value: AffineConv, factor: Tensor) -> AffineConv:
    """A branch times a learned factor: one number, or one for each output channel."""
    each = within_reach(factor).reshape(-1).expand(value.out_channels)
    return algebra.compose(algebra.scale_and_shift(each, torch.zeros_like(each), len(value.windows)), value)


def bordered(value: AffineConv, padding: Sequence[int]) -> AffineConv:
    """A pointwise branch whose output is continued by what it makes of zeros."""
    windows = [Window(1, before=p, after=p) for p in padding]
    return algebra.compose(algebra.window(value.out_channels, windows, value.bias, fill=value.bias), value)


def with_border(x: Tensor, level: Tensor, padding: Sequence[int]) -> Tensor:
    """`x` (batch, channels, *sizes) continued by `padding` items on all sides: one constant for each channel, `level` (channels,)."""
    framed = F.pad(x, [p for p in reversed(padding) for _ in range(2)])
    edge = per_channel(level.to(x.dtype).to(x.device), len(padding))
    for axis, p in enumerate(padding, start=2):
        if p:
            before = (slice(None),) * axis
            framed[(*before, slice(None, p))] = edge
            framed[(*before, slice(-p, None))] = edge
    return framed


def per_channel(numbers: Tensor, rank: int) -> Tensor:
    """`numbers` (channels,) as (channels, 1, ..., 1), to go with a feature map."""
    return numbers.reshape(-1, *([1] * rank))


class BorderedNorm(nn.Module):
    """A batch norm whose output is continued by what it makes of zeros, so that it is the batch norm of a zero-padded input in eval.

    In training the statistics are of the feature map without its border.
    """

    def __init__(self, bn: _BatchNorm, padding: Sequence[int]) -> None:
        super().__init__()
        self.bn = bn
        self.padding = tuple(padding)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, *sizes) to (batch, channels, *(sizes + 2 padding))."""
        y: Tensor = self.bn(x)
        return with_border(y, value_of(self.bn, len(self.padding)).bias, self.padding)

    def value(self) -> AffineConv:
        """The layer in eval."""
        return bordered(value_of(self.bn, len(self.padding)), self.padding)
